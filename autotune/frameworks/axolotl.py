"""The framework axolotl: `axolotl train CONFIG`, overrides, and its launcher's arguments."""

from collections.abc import Mapping
from typing import Any

from autotune.core.allocator import parse
from autotune.core.fault import Fault
from autotune.core.job import Job
from autotune.core.plan import Attention, Plan
from autotune.frameworks.arguments import Arguments, flag, integer, to_yaml
from autotune.frameworks.command_line import Call
from autotune.frameworks.framework import Looked, Setting, Trained
from autotune.frameworks.lora import alpha_kept, number_of, targets_of
from autotune.frameworks.tool import TRAIN_FILE, Given, Tool, script
from autotune.frameworks.trainer import Own
from autotune.frameworks.trainer_keys import Habits

_FILES = (".yaml", ".yml")
_LAUNCH = ("launcher", "num_processes", "main_process_port", "cloud", "sweep")
# Older switches for one way of attention each, and what the plan calls it.
_SWITCHES: Mapping[str, Attention] = {
    "flash_attention": "flash_attention_2", "sdp_attention": "sdpa", "eager_attention": "eager",
    "xformers_attention": "given", "flex_attention": "given", "sage_attention": "given",
}  # fmt: skip
_NAMES: Mapping[Any, Attention] = {
    "sdpa": "sdpa", "eager": "eager", "flash_attention_2": "flash_attention_2",
}  # fmt: skip
_IN_PIECES = (
    "chunked_cross_entropy", "cut_cross_entropy", "liger_fused_linear_cross_entropy",
    "liger_cross_entropy",
)  # fmt: skip
# axolotl sets this itself where the environment says nothing (axolotl/utils/__init__.py, 0.18).
_ALLOCATOR = "expandable_segments:True"
_PACKED = "`sample_packing` packs by the micro-batch, so another one would train other batches"


class Axolotl(Tool):
    """`axolotl train`: full, LoRA and QLoRA, by the keys of axolotl's own configuration."""

    name = "axolotl"
    needs = ("torch", "transformers", "accelerate", "axolotl")
    habits = Habits(
        micro="micro_batch_size",
        eval_micro="eval_batch_size",
        optimizer="optimizer",
        micro_default=1,
        checkpointing="gradient_checkpointing",
    )

    def usual(self, config: str) -> tuple[str, ...]:
        """Return how axolotl is started on its own configuration."""
        return ("axolotl", "train", config)

    def parts(self, call: Call) -> tuple[str | None, Arguments] | Fault:
        """Return the configuration, and the overrides before a `--`."""
        rest = call.arguments[1:] if call.kind == "tool" else call.arguments
        known = call.name == "axolotl" and call.arguments[:1] == ("train",)
        if not (known if call.kind == "tool" else call.program == "axolotl.cli.train"):
            hint = "write `axolotl train CONFIG`, or name another framework"
            return Fault("autotune knows `axolotl train`, and the command is none", "", hint)
        files = [word for word in rest if word.endswith(_FILES) and not word.startswith("-")]
        if not files:
            hint = "write `axolotl train CONFIG`"
            return Fault("the command names no configuration of axolotl's", "", hint)
        words = rest[: rest.index("--")] if "--" in rest else rest
        return files[0], Arguments(tuple(word for word in words if word != files[0]))

    def ranks(self, job: Job, looked: Looked) -> int | None:
        """Return how many processes the launcher behind `--` is told to start."""
        given = self.given(job, looked)
        if isinstance(given, Fault):
            return None
        words = given.call.arguments
        behind = Arguments(words[words.index("--") + 1 :] if "--" in words else ())
        said = behind.get("num_processes", behind.get("nproc_per_node"))
        return integer(said or given.line.get("num_processes")) or super().ranks(job, looked)

    def values(self, given: Given, _: Looked, __: int) -> dict[str, Any]:
        """Return the arguments, precision and batches as axolotl works them out."""
        values = {key: value for key, value in given.values().items() if value is not None}
        micro = integer(values.get("micro_batch_size")) or 1
        values.setdefault("eval_batch_size", micro)
        total = integer(values.get("batch_size"))
        if "gradient_accumulation_steps" not in values and total:
            values["gradient_accumulation_steps"] = max(1, total // micro)
        brain = values.get("bf16", values.get("bfloat16", False))
        values["fp16"] = flag(values.get("fp16")) is True or flag(values.get("float16")) is True
        values["bf16"] = not values["fp16"] if brain == "auto" else flag(brain) or brain == "full"
        if values["bf16"]:
            values["fp16"] = False
        values.setdefault("model_name_or_path", values.get("base_model"))
        kept = ("warmup_ratio", "group_by_length", "include_tokens_per_second")
        return {key: value for key, value in values.items() if key not in kept}

    def fields(self, own: Own) -> dict[str, Any]:
        """Return adapters, 4-bit weights, attention, loss, length and the allocator."""
        adapts = own.values.get("adapter") is not None
        found: dict[str, Any] = {
            "method": "lora" if adapts else "full",
            "quantization": "nf4" if own.on("load_in_4bit") else "none",
            "attention": _attention(own),
            "loss": "chunked" if any(own.on(key) for key in _IN_PIECES) else "whole",
            "activation_offload": own.values.get("activation_offloading", False) is not False,
            "sequence": own.number("sequence_len", 512),
            "lora_rank": own.number("lora_r", 8) if adapts else 0,
        }
        said = own.job.env.keys() & {"PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF"}
        return found if said or own.looked.allocator else {**found, "allocator": parse(_ALLOCATOR)}

    def more_lacks(self, own: Own) -> Mapping[str, str | None]:
        """Return what axolotl has no key for, and what packing forbids."""
        lacks: dict[str, str | None] = dict.fromkeys(
            ("quantization", "attention", "sequence", "lora_rank", "loss", "activation_offload")
        )
        lacks["four_bit_compute"] = "axolotl multiplies 4-bit layers in the training's precision"
        if own.on("load_in_8bit"):
            lacks["quantization"] = "the weights are loaded in 8 bits (`load_in_8bit`)"
        if own.on("sample_packing"):
            lacks |= dict.fromkeys(("micro_batch", "accumulation"), _PACKED)
        return lacks

    def changes(self, own: Own, start: Plan, plan: Plan) -> dict[str, Any]:
        """Return axolotl's own keys of a plan, and what would fight it."""
        changed: dict[str, Any] = {**dict.fromkeys(_LAUNCH), "saves_per_epoch": None}
        changed["gradient_accumulation_steps"], changed["batch_size"] = plan.accumulation, None
        if own.on("auto_resume_from_checkpoints"):
            changed["auto_resume_from_checkpoints"] = False
        if plan.activation_checkpointing != start.activation_checkpointing:
            changed["gradient_checkpointing"] = plan.activation_checkpointing
            changed["activation_checkpointing"] = None  # axolotl knows the older name alone
        if plan.dtype != start.dtype:
            changed |= dict.fromkeys(("bfloat16", "float16"))
        if plan.attention != start.attention:
            changed |= {**dict.fromkeys(_SWITCHES), "attn_implementation": plan.attention}
        if plan.quantization != start.quantization:
            to_four = plan.quantization == "nf4"
            changed |= {"load_in_4bit": to_four, "adapter": "qlora" if to_four else "lora"}
        if plan.loss != start.loss:
            changed["chunked_cross_entropy"] = True
        if plan.activation_offload != start.activation_offload:
            changed["activation_offloading"] = plan.activation_offload
        if plan.sequence != start.sequence:
            changed["sequence_len"] = plan.sequence
            if own.values.get("excess_length_strategy", "drop") == "drop":
                changed["excess_length_strategy"] = "truncate"  # else longer rows are thrown away
        if plan.lora_rank != start.lora_rank:
            alpha = own.number("lora_alpha", 16)
            changed["lora_r"] = plan.lora_rank
            changed["lora_alpha"] = alpha_kept(alpha, start.lora_rank, plan.lora_rank)
        return changed

    def more_faults(self, own: Own, given: Given, where: str) -> list[Fault]:
        """Return what axolotl would refuse, or do where no plan reaches."""
        faults = []
        if own.looked.versions and "axolotl" not in own.looked.versions:
            text = "axolotl is not installed in the job's Python"
            faults.append(Fault(text, where, "pip install axolotl there, or name that Python"))
        if {"batch_size", "gradient_accumulation_steps"} <= given.values().keys():
            text = "axolotl takes `batch_size` or `gradient_accumulation_steps`, and both are there"
            faults.append(Fault(text, where, "keep one of the two"))
        for key in ("cloud", "sweep", "use_ray", "rl"):
            if given.values().get(key) not in (None, False):
                text = f"`{key}` starts more, or other, than one supervised fine-tuning"
                faults.append(Fault(text, where, "take it out"))
        for key in ("context_parallel_size", "tensor_parallel_size", "sequence_parallel_degree"):
            if own.number(key, 1) > 1:
                text = f"`{key}` spreads one sample over ranks, which the batches here do not count"
                faults.append(Fault(text, where, "take it out"))
        if own.on("load_in_4bit") and own.values.get("adapter") != "qlora":
            text = "`load_in_4bit` is trained under `adapter: qlora`"
            faults.append(Fault(text, where, "set `adapter: qlora`, or load the weights whole"))
        return faults

    def more_notes(self, own: Own, _: Given, where: str) -> list[Fault]:
        """Return what axolotl does unless it is told otherwise."""
        notes = []
        if own.on("sample_packing"):
            notes.append(Fault(_PACKED + "; it stays as it is", where))
        if own.values.get("excess_length_strategy", "drop") == "drop":
            text = "axolotl drops rows longer than `sequence_len` unless `excess_length_strategy` "
            notes.append(Fault(text + "says otherwise", where))
        if own.on("auto_resume_from_checkpoints"):
            text = (
                "`auto_resume_from_checkpoints` is switched off: each resume names its checkpoint"
            )
            notes.append(Fault(text, where))
        return notes

    def trains(self, own: Own) -> Trained:
        """Return the length of the rows and what is adapted."""
        adapts, every = own.values.get("adapter") is not None, own.on("lora_target_linear")
        said = "all-linear" if every else own.values.get("lora_target_modules")
        return Trained(
            own.number("sequence_len", 512),
            own.number("lora_r", 8) if adapts else 0,
            targets_of(said, own.looked.model_config),
            number_of(own.values.get("lora_dropout"), 0.0),
            own.on("trust_remote_code"),
        )

    def has_evaluation(self, job: Job, looked: Looked) -> bool:
        """Return whether rows are held back or named for evaluation."""
        values = self.own(job, looked, self._sound(job, looked), 1).values
        held = values.get("val_set_size") or values.get("test_datasets")
        return bool(held) and str(values.get("eval_strategy", "steps")) != "no"

    def packs(self, job: Job, looked: Looked) -> bool:
        """Return whether rows are put end to end."""
        return self.own(job, looked, self._sound(job, looked), 1).on("sample_packing")

    def launched(self, given: Given, setting: Setting) -> tuple[tuple[str, ...], dict[str, str]]:
        """Return `axolotl train` on the copy, its ranks started by torchrun."""
        argv = (
            setting.python, script(setting.python, "axolotl"), "train",
            f"{setting.folder}/{TRAIN_FILE}", *given.line.words, "--launcher", "torchrun", "--",
            "--nproc_per_node", str(setting.plan.world_size), "--master_port", str(setting.port),
        )  # fmt: skip
        return argv, {TRAIN_FILE: to_yaml(given.table)}

    def relaunched(self, given: Given, setting: Setting) -> tuple[str, ...]:
        """Return `axolotl train` on the known-good, with the plan's ranks behind `--`."""
        return (
            "axolotl", "train", f"{setting.folder}/{TRAIN_FILE}", *given.line.words, "--",
            "--num_processes", str(setting.plan.world_size),
        )  # fmt: skip


def _attention(own: Own) -> Attention:
    switched = [name for key, name in _SWITCHES.items() if own.on(key)]
    return switched[0] if switched else _NAMES.get(own.values.get("attn_implementation"), "given")
