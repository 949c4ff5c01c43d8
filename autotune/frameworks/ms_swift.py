"""The framework ms-swift: `swift sft CONFIG` and its flags; it starts its own ranks."""

import math
from collections.abc import Mapping
from typing import Any

from autotune.core.compatibility import parse_version
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

# Samples of an optimizer step over all ranks that ms-swift aims at where nothing says the
# accumulation (swift/trainers/arguments.py, 4.6.0).
_AIMED_AT = 16
_FILES = (".json", ".yaml", ".yml")
_AUTO = {
    "train_batch_size": "auto", "train_micro_batch_size_per_gpu": "auto",
    "gradient_accumulation_steps": "auto", "gradient_clipping": "auto",
    "bf16": {"enabled": "auto"}, "fp16": {"enabled": "auto"}, "steps_per_print": 2000,
}  # fmt: skip
_CPU = {"device": "cpu", "pin_memory": True}
_STAGE_3 = {
    "stage": 3, "contiguous_gradients": True, "sub_group_size": 1e9, "reduce_bucket_size": "auto",
    "stage3_prefetch_bucket_size": "auto", "stage3_param_persistence_threshold": "auto",
    "stage3_max_live_parameters": 1e9, "stage3_max_reuse_distance": 1e9,
    "stage3_gather_16bit_weights_on_model_save": True,
}  # fmt: skip


def _shared(stage: int) -> dict[str, Any]:
    return {
        "stage": stage, "allgather_partitions": True, "allgather_bucket_size": 2e8,
        "reduce_scatter": True, "reduce_bucket_size": 2e8, "contiguous_gradients": True,
    }  # fmt: skip


# What `--deepspeed NAME` stands for (swift/config/*.json, 4.6.0), less what nothing here changes.
SHIPPED: Mapping[str, Mapping[str, Any]] = {
    name: {**_AUTO, "zero_optimization": zero}
    for name, zero in {
        "zero0": _shared(0),
        "zero1": _shared(1),
        "zero2": _shared(2),
        "zero2_offload": {**_shared(2), "offload_optimizer": _CPU},
        "zero3": _STAGE_3,
        "zero3_offload": {**_STAGE_3, "offload_optimizer": _CPU, "offload_param": _CPU},
    }.items()
}
_ATTENTION: Mapping[Any, Attention] = {
    "sdpa": "sdpa", "eager": "eager", "flash_attention_2": "flash_attention_2",
    "flash_attn": "flash_attention_2",
}  # fmt: skip
# Names of older releases: since which one they are gone, and what to write.
_RENAMED = {"train_type": ("4.0", "tuner_type"), "sft_type": ("3.0", "tuner_type")}
# Arguments that transformers dropped and ms-swift keeps for itself.
_KEPT = ("warmup_ratio", "logging_dir", "group_by_length")


class MsSwift(Tool):
    """`swift sft`: supervised fine-tuning, full, LoRA and QLoRA."""

    name = "ms_swift"
    needs = ("torch", "transformers", "accelerate", "ms-swift")
    habits = Habits(micro_default=1, eval_default=1, checkpointing_default=True)

    def usual(self, config: str) -> tuple[str, ...]:
        """Return how ms-swift is started on its own configuration."""
        return ("swift", "sft", config)

    def parts(self, call: Call) -> tuple[str | None, Arguments] | Fault:
        """Return the file behind `swift sft`, and the flags."""
        rest = call.arguments
        if call.kind != "tool" or call.name != "swift" or rest[:1] != ("sft",):
            hint = "write `swift sft CONFIG`, or name another framework"
            return Fault("autotune knows ms-swift's `swift sft`, and the command is none", "", hint)
        if len(rest) > 1 and rest[1].endswith(_FILES):
            return rest[1], Arguments(rest[2:])
        return None, Arguments(rest[1:])

    def ranks(self, job: Job, looked: Looked) -> int | None:
        """Return NPROC_PER_NODE; without it ms-swift starts one process."""
        given = self.given(job, looked)
        if isinstance(given, Fault):
            return None
        said = self.own(job, looked, given, 1).job.env.get("NPROC_PER_NODE")
        return integer(said) or 1

    def asks_modelscope(self, job: Job, looked: Looked, environment: Mapping[str, str]) -> bool:
        """Return whether names of models are ModelScope's: unless it is told otherwise."""
        given = self.given(job, looked)
        if isinstance(given, Fault):
            return True
        own = self.own(job, looked, given, 1)
        said = {**environment, **own.job.env}.get("USE_HF", "0")
        return not (own.on("use_hf") or flag(said))

    def values(self, given: Given, looked: Looked, ranks: int) -> dict[str, Any]:
        """Return the arguments with what ms-swift works out where nothing says it."""
        values = {key: value for key, value in given.values().items() if value is not None}
        micro = integer(values.get("per_device_train_batch_size")) or 1
        values.setdefault(
            "gradient_accumulation_steps", max(1, math.ceil(_AIMED_AT / max(micro, 1) / ranks))
        )
        half = _weights(values, looked.model_config) in ("float16", "float32")
        # Also float32 weights are trained in fp16, unless `fp16` is said to be off.
        values["fp16"] = half if flag(values.get("fp16")) is None else flag(values["fp16"])
        values["bf16"] = not half if flag(values.get("bf16")) is None else flag(values["bf16"])
        named = values.get("deepspeed")
        if isinstance(named, str) and named in SHIPPED:
            values["deepspeed"] = SHIPPED[named]
        values.setdefault("model_name_or_path", values.get("model"))
        return {key: value for key, value in values.items() if key not in _KEPT}

    def environment(self, given: Given) -> dict[str, str]:
        """Return the variables that the configuration sets under `ENV`."""
        held = given.table.get("ENV")
        return {str(k): str(v) for k, v in held.items()} if isinstance(held, Mapping) else {}

    def fields(self, own: Own) -> dict[str, Any]:
        """Return tuner, 4-bit weights, attention and length."""
        adapts = own.values.get("tuner_type", "lora") != "full"
        return {
            "method": "lora" if adapts else "full",
            "quantization": "nf4" if _bits(own) == 4 else "none",
            "attention": _ATTENTION.get(own.values.get("attn_impl"), "given"),
            "sequence": own.number("max_length", 0) if "max_length" in own.values else 0,
            "lora_rank": own.number("lora_rank", 8) if adapts else 0,
            "loader_workers": integer(own.values.get("dataloader_num_workers", 1)) or 0,
        }

    def more_lacks(self, own: Own) -> Mapping[str, str | None]:
        """Return what ms-swift has no flag for."""
        lacks: dict[str, str | None] = dict.fromkeys(("attention", "sequence", "quantization"))
        lacks["lora_rank"] = None
        lacks["activation_offload"] = "ms-swift moves activations to the host under FSDP only"
        lacks["four_bit_compute"] = "ms-swift multiplies 4-bit layers in the weights' type"
        if own.values.get("quant_method") not in (None, "bnb") or _bits(own) not in (None, 4):
            said = f"{own.values.get('quant_method')}, {_bits(own)} bits"
            lacks["quantization"] = f"the weights are quantized another way ({said})"
        if own.on("packing"):
            lacks["attention"] = "ms-swift packs with flash attention alone"
        return lacks

    def changes(self, own: Own, start: Plan, plan: Plan) -> dict[str, Any]:
        """Return ms-swift's own flags of a plan, and what it must not do behind our back."""
        changed: dict[str, Any] = {
            "gradient_accumulation_steps": plan.accumulation,  # else it is worked out anew
            "add_version": False,  # else each start saves into a folder with a number of its own
            "ENV": None,
        }
        if isinstance(own.values.get("use_flash_ckpt"), bool):
            changed["use_flash_ckpt"] = False
        if plan.attention != start.attention:
            changed["attn_impl"] = plan.attention
        if plan.quantization != start.quantization:
            to_four = plan.quantization == "nf4"
            changed |= {"quant_method": "bnb" if to_four else None}
            changed |= {"quant_bits": 4 if to_four else None}
        if plan.sequence != start.sequence:
            changed["max_length"] = plan.sequence
            if own.values.get("truncation_strategy", "delete") == "delete":
                changed["truncation_strategy"] = "right"  # else longer rows would be thrown away
        if plan.lora_rank != start.lora_rank:
            alpha = number_of(own.values.get("lora_alpha"), 32)
            changed["lora_rank"] = plan.lora_rank
            changed["lora_alpha"] = alpha_kept(alpha, start.lora_rank, plan.lora_rank)
        return changed

    def more_faults(self, own: Own, _: Given, where: str) -> list[Fault]:
        """Return what this ms-swift would refuse, or would not resume."""
        faults = []
        installed = own.looked.versions.get("ms-swift")
        if installed is None and own.looked.versions:
            text = "ms-swift is not installed in the job's Python"
            faults.append(Fault(text, where, "pip install ms-swift there, or name that Python"))
        for old, (since, new) in _RENAMED.items():
            if old in own.values and parse_version(installed or since) >= parse_version(since):
                text = f"`{old}` is called `{new}` in ms-swift since {since}"
                faults.append(Fault(text, where, f"write `{new}`"))
        if own.on("resume_only_model"):
            text = "`resume_only_model` begins the schedule and the optimizer anew at each resume"
            faults.append(Fault(text, where, "take it out"))
        if (integer(own.job.env.get("NNODES")) or 1) > 1:  # its configuration may set it too
            text = f"NNODES is {own.job.env['NNODES']}, and swift is started on one node alone"
            faults.append(Fault(text, where, "give the command of one node"))
        if own.values.get("tuner_backend") == "unsloth":
            text = "unsloth replaces the trainer in ways that autotune does not follow"
            faults.append(Fault(text, where, "take `tuner_backend` out"))
        return faults

    def more_notes(self, own: Own, given: Given, where: str) -> list[Fault]:
        """Return what ms-swift does of itself and is told once and for all."""
        notes = []
        if "gradient_accumulation_steps" not in given.values():
            text = f"`gradient_accumulation_steps` is not said, so ms-swift makes it {_AIMED_AT} "
            text += "samples a step or a little more; it is written out, and kept"
            notes.append(Fault(text, where))
        if flag(given.values().get("add_version", True)):
            text = "`add_version` is switched off: each start would save elsewhere"
            notes.append(Fault(text, where))
        if _weights(own.values, own.looked.model_config) == "float32" and own.on("fp16"):
            text = "ms-swift trains float32 weights in fp16 unless `fp16: false` says otherwise"
            notes.append(Fault(text, where))
        return notes

    def trains(self, own: Own) -> Trained:
        """Return the length of the rows and what is adapted."""
        adapts = own.values.get("tuner_type", "lora") != "full"
        return Trained(
            integer(own.values.get("max_length")),
            own.number("lora_rank", 8) if adapts else 0,
            targets_of(own.values.get("target_modules", "all-linear"), own.looked.model_config),
            number_of(own.values.get("lora_dropout"), 0.05),
            True,  # ms-swift always trusts a model's code
        )

    def has_evaluation(self, job: Job, looked: Looked) -> bool:
        """Return whether there is something to evaluate on, which ms-swift then does."""
        own = self.own(job, looked, self._sound(job, looked), 1)
        said = own.values.get("eval_strategy", own.values.get("save_strategy", "steps"))
        given = own.values.get("val_dataset") or own.values.get("split_dataset_ratio")
        return bool(given) and str(said).lower() not in ("no", "false")

    def ours(self, setting: Setting) -> dict[str, str]:
        """Return how many processes ms-swift starts through torchrun, and where they meet."""
        return {
            "NPROC_PER_NODE": str(setting.plan.world_size),
            "MASTER_PORT": str(setting.port),
        }

    def launched(self, given: Given, setting: Setting) -> tuple[tuple[str, ...], dict[str, str]]:
        """Return `swift sft` on the copy."""
        file = f"{setting.folder}/{TRAIN_FILE}"
        argv = (
            setting.python, script(setting.python, "swift"), "sft", file, *given.line.words,
        )  # fmt: skip
        # ms-swift reads null as the word None, which is kept.
        said = {key: "None" if value is None else value for key, value in given.table.items()}
        return argv, {TRAIN_FILE: to_yaml(said)}

    def relaunched(self, given: Given, setting: Setting) -> tuple[str, ...]:
        """Return `swift sft` on the known-good, with the plan's ranks in front."""
        return (
            f"NPROC_PER_NODE={setting.plan.world_size}", "swift", "sft",
            f"{setting.folder}/{TRAIN_FILE}", *given.line.words,
        )  # fmt: skip


def _weights(values: Mapping[str, Any], config: Mapping[str, Any] | None) -> str:
    held = config or {}
    return str(values.get("torch_dtype") or held.get("torch_dtype") or held.get("dtype") or "")


def _bits(own: Own) -> int | None:
    return integer(own.values.get("quant_bits"))
