"""TRL: `trl sft --config FILE` and its flags, started by accelerate."""

from collections.abc import Mapping
from typing import Any

from autotune.core.compatibility import parse_version
from autotune.core.fault import Fault
from autotune.core.job import Job
from autotune.core.memory.workload import Tile
from autotune.core.plan import Attention, Loss, Plan
from autotune.frameworks import accelerate_config
from autotune.frameworks.arguments import Arguments, flag, integer, to_yaml
from autotune.frameworks.command_line import Call
from autotune.frameworks.framework import Looked, Setting, Trained
from autotune.frameworks.lora import alpha_kept, number_of, targets_of
from autotune.frameworks.tool import TRAIN_FILE, Given, Tool, script
from autotune.frameworks.trainer import Own
from autotune.frameworks.trainer_keys import Habits

# Before it `trl sft` reads --resume_from_checkpoint and does not use it (scripts/sft.py of the
# wheels 1.6 to 1.16: 1.14.0 calls train() bare, 1.14.1 passes it on).
RESUMES_SINCE = "1.14.1"
# Before it `nll` makes all logits at once and `chunked_nll` does not; since then both are the same.
ALWAYS_CHUNKS_SINCE = "1.15.0"
# Of those versions' logits at once: TOKEN_CHUNK_SIZE of kernels/chunked_logprob.py and
# _CHUNKED_LOGPROB_CHUNK_SIZE of trainer/utils.py (1.15.0 and 1.16.0).
TILE = Tile(tokens=4096, words=32768)
# TRL's own accelerate configurations, and how many ranks each asks for.
_SHIPPED: Mapping[str, Mapping[str, Any]] = {
    "single_gpu": {"distributed_type": "NO", "num_processes": 1, "mixed_precision": "bf16"},
    "multi_gpu": {"distributed_type": "MULTI_GPU", "num_processes": 8, "mixed_precision": "bf16"},
    "fsdp1": {"distributed_type": "FSDP", "num_processes": 8},
    "fsdp2": {"distributed_type": "FSDP", "num_processes": 8},
    **{
        f"zero{stage}": {
            "distributed_type": "DEEPSPEED",
            "num_processes": 8,
            "mixed_precision": "bf16",
            "zero_stage": stage,
            "zero3_save_16bit_model": stage == 3,
        }
        for stage in (1, 2, 3)
    },
}
_ATTENTION: Mapping[Any, Attention] = {
    "sdpa": "sdpa", "eager": "eager", "flash_attention_2": "flash_attention_2",
}  # fmt: skip
_CONFIGS = ("accelerate_config", "config_file")


class Trl(Tool):
    """`trl sft`: supervised fine-tuning, full, LoRA and QLoRA."""

    name = "trl"
    needs = ("torch", "transformers", "accelerate", "trl", "datasets")
    habits = Habits(checkpointing_default=True, dtype_default="bf16")

    def usual(self, config: str) -> tuple[str, ...]:
        """Return how TRL is started on its own configuration."""
        return ("trl", "sft", "--config", config)

    def parts(self, call: Call) -> tuple[str | None, Arguments] | Fault:
        """Return the file behind `--config`, and every other flag."""
        if call.kind != "tool" or call.name != "trl" or call.arguments[:1] != ("sft",):
            hint = "write `trl sft --config FILE`, or name another framework"
            return Fault("autotune knows TRL's `trl sft`, and the command is none", "", hint)
        line = Arguments(call.arguments[1:])
        named = line.get("config")
        return (named if isinstance(named, str) else None), line.changed({"config": None})

    def more_files(self, given: Given) -> tuple[str, ...]:
        """Return accelerate's configuration; the DeepSpeed file it names is among the values."""
        file = _accelerate_file(given.values())
        return () if file is None else (file,)

    def ranks(self, job: Job, looked: Looked) -> int | None:
        """Return how many processes accelerate is told to start."""
        given = self.given(job, looked)
        if isinstance(given, Fault):
            return None
        said = accelerate_config.ranks(_launching(given, looked))
        return said or (len(given.call.devices) if given.call.devices else None)

    def values(self, given: Given, looked: Looked, _: int) -> dict[str, Any]:
        """Return the arguments with accelerate's share: its precision and its DeepSpeed."""
        values, options = given.values(), _launching(given, looked)
        half, brain = flag(values.get("fp16")) is True, flag(values.get("bf16"))
        values["bf16"] = not half if brain is None else brain
        values["fp16"] = half
        if not half and not values["bf16"] and accelerate_config.precision(options) != "no":
            values[accelerate_config.precision(options)] = True
        if values.get("deepspeed") is None:
            values["deepspeed"] = accelerate_config.deepspeed(options)
        return {key: value for key, value in values.items() if value is not None}

    def environment(self, given: Given) -> dict[str, str]:
        """Return the variables that the configuration sets under `env`."""
        held = given.table.get("env")
        return {str(k): str(v) for k, v in held.items()} if isinstance(held, Mapping) else {}

    def fields(self, own: Own) -> dict[str, Any]:
        """Return adapters, 4-bit weights, attention, loss and length."""
        adapts = own.on("use_peft")
        single = str(own.values.get("dtype", "float32")) == "float32"
        return {
            "method": "lora" if adapts else "full",
            "quantization": "nf4" if own.on("load_in_4bit") else "none",
            "four_bit_compute": "fp32" if single and own.on("load_in_4bit") else "dtype",
            "attention": _ATTENTION.get(own.values.get("attn_implementation"), "given"),
            "loss": _loss(own),
            "activation_offload": own.on("activation_offloading"),
            "sequence": _length(own),
            "lora_rank": own.number("lora_r", 16) if adapts else 0,
        }

    def more_lacks(self, own: Own) -> Mapping[str, str | None]:
        """Return what TRL has no flag for; 4-bit layers multiply in the type of the weights."""
        lacks: dict[str, str | None] = dict.fromkeys(
            ("quantization", "attention", "sequence", "lora_rank", "activation_offload", "loss")
        )
        lacks["four_bit_compute"] = "TRL's 4-bit layers multiply in the weights' type, `dtype`"
        if own.on("load_in_8bit"):
            lacks["quantization"] = "the weights are loaded in 8 bits (`load_in_8bit`)"
        if _always_chunks(own.looked):
            lacks["loss"] = "TRL always takes the loss in pieces"
        elif own.on("use_liger_kernel") or own.values.get("loss_type") not in (None, "nll"):
            lacks["loss"] = "the loss is Liger's, or one that TRL does not take in pieces"
        return lacks

    def changes(self, own: Own, start: Plan, plan: Plan) -> dict[str, Any]:
        """Return TRL's own flags of a plan; precision is always written, as its default moves."""
        changed: dict[str, Any] = {"bf16": plan.dtype == "bf16", "fp16": plan.dtype == "fp16"}
        changed["env"] = None  # it is the environment already, where ours comes last
        launching = [key for key in own.values if accelerate_config.is_launching(key)]
        changed |= dict.fromkeys((*launching, *_CONFIGS))
        if plan.attention != start.attention:
            changed["attn_implementation"] = plan.attention
        if plan.quantization != start.quantization:
            changed["load_in_4bit"] = plan.quantization == "nf4"
            changed |= {"bnb_4bit_quant_type": "nf4", "use_bnb_nested_quant": True}
        if plan.loss != start.loss:
            changed["loss_type"] = "chunked_nll"
        if plan.activation_offload != start.activation_offload:
            changed["activation_offloading"] = plan.activation_offload
        if plan.sequence != start.sequence:
            changed["max_length"] = plan.sequence
        if plan.lora_rank != start.lora_rank:
            alpha = own.number("lora_alpha", 32)
            changed["lora_r"] = plan.lora_rank
            changed["lora_alpha"] = alpha_kept(alpha, start.lora_rank, plan.lora_rank)
        return changed

    def more_faults(self, own: Own, given: Given, where: str) -> list[Fault]:
        """Return what this TRL cannot do."""
        faults = accelerate_config.faults(_launching(given, own.looked), where)
        installed = own.looked.versions.get("trl")
        if installed is not None and parse_version(installed) < parse_version(RESUMES_SINCE):
            text = f"TRL {installed} reads --resume_from_checkpoint and begins anew all the same, "
            text += "so nothing could be gone on with"
            hint = f"pip install 'trl>={RESUMES_SINCE}' in the job's Python"
            faults.append(Fault(text, where, hint))
        if installed is None and own.looked.versions:
            text = "TRL is not installed in the job's Python"
            faults.append(Fault(text, where, "pip install trl there, or name that Python"))
        four_or_eight = own.on("load_in_4bit") or own.on("load_in_8bit")
        if four_or_eight and not own.on("use_peft"):
            text = "quantized weights cannot be trained themselves, and `use_peft` is off"
            faults.append(Fault(text, where, "set `use_peft: true`, or load the weights whole"))
        name = given.values().get("accelerate_config")
        if _accelerate_file(given.values()) is None and name is not None and not _shipped(name):
            text = f"`accelerate_config: {name}` is no configuration of TRL's"
            faults.append(Fault(text, where, f"there are {', '.join(_SHIPPED)}, or give a file"))
        return faults

    def more_notes(self, own: Own, given: Given, where: str) -> list[Fault]:
        """Return what TRL does unless it is told otherwise."""
        notes = []
        if "dtype" not in own.values:
            text = "TRL loads the weights in float32 unless `dtype` says otherwise, which takes "
            notes.append(Fault(text + "twice the memory of bfloat16", where))
        if _launching(given, own.looked):
            text = "accelerate's own settings are replaced by ones that start the plan's ranks; "
            notes.append(Fault(text + "its DeepSpeed and precision become the training's", where))
        return notes

    def trains(self, own: Own) -> Trained:
        """Return the length of the rows and what is adapted."""
        return Trained(
            _length(own) or None,
            own.number("lora_r", 16) if own.on("use_peft") else 0,
            targets_of(own.values.get("lora_target_modules"), own.looked.model_config),
            number_of(own.values.get("lora_dropout"), 0.05),
            own.on("trust_remote_code"),
            TILE if _always_chunks(own.looked) else None,
        )

    def launched(self, given: Given, setting: Setting) -> tuple[tuple[str, ...], dict[str, str]]:
        """Return `trl sft` on the copy, and an accelerate configuration for the plan's ranks."""
        file, launch = (f"{setting.folder}/{one}" for one in (TRAIN_FILE, accelerate_config.FILE))
        argv = (
            setting.python, script(setting.python, "trl"), "sft", "--config", file,
            *given.line.words, "--config_file", launch,
        )  # fmt: skip
        ranks = accelerate_config.written(setting.plan.world_size, setting.port)
        return argv, {TRAIN_FILE: to_yaml(given.table), accelerate_config.FILE: ranks}

    def relaunched(self, given: Given, setting: Setting) -> tuple[str, ...]:
        """Return `trl sft` on the known-good, by as many processes as the plan has ranks."""
        return (
            "trl", "sft", "--config", f"{setting.folder}/{TRAIN_FILE}", *given.line.words,
            "--num_processes", str(setting.plan.world_size),
        )  # fmt: skip


def _shipped(name: Any) -> bool:
    return isinstance(name, str) and name in _SHIPPED


def _accelerate_file(values: Mapping[str, Any]) -> str | None:
    named = next((values[key] for key in _CONFIGS if values.get(key) is not None), None)
    if not isinstance(named, str) or _shipped(named):
        return None
    return named if "/" in named or "." in named else None


def _launching(given: Given, looked: Looked) -> dict[str, Any]:
    values = given.values()
    named, file = values.get("accelerate_config"), _accelerate_file(values)
    document = looked.documents.get(file) if file else _SHIPPED.get(str(named), {})
    return accelerate_config.flat(document if isinstance(document, Mapping) else {}, values)


def _always_chunks(looked: Looked) -> bool:
    installed = looked.versions.get("trl", ALWAYS_CHUNKS_SINCE)
    return parse_version(installed) >= parse_version(ALWAYS_CHUNKS_SINCE)


def _loss(own: Own) -> Loss:
    said = own.values.get("loss_type")
    if said not in (None, "nll", "chunked_nll"):
        return "whole"
    if _always_chunks(own.looked) or said == "chunked_nll" or own.on("use_liger_kernel"):
        return "chunked"
    return "chunked" if said is None else "whole"


def _length(own: Own) -> int:
    return integer(own.values.get("max_length", 1024)) or 0
