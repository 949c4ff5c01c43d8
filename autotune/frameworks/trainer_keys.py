"""Names and defaults of transformers' TrainingArguments, by version, and of the tools around it."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from autotune.core.compatibility import parse_version
from autotune.core.fault import Fault
from autotune.core.plan import Dtype, Optimizer


@dataclass(frozen=True)
class Habits:
    """Where a tool's configuration differs from bare TrainingArguments: names, and defaults."""

    micro: str = "per_device_train_batch_size"
    accumulation: str = "gradient_accumulation_steps"
    eval_micro: str = "per_device_eval_batch_size"
    optimizer: str = "optim"
    resume: str = "resume_from_checkpoint"
    micro_default: int = 8
    accumulation_default: int = 1
    eval_default: int = 8
    # None: the tool has a key of its own for it, or none, and sets it itself.
    checkpointing: str | None = "gradient_checkpointing"
    checkpointing_default: bool = False
    dtype_default: Dtype = "fp32"
    pins_default: bool = True


HF = Habits()

# The names of `optim` that a plan can say; what is not here is left as it is and never changed.
OPTIMIZERS: Mapping[str, Optimizer] = {
    "adamw_torch": "adamw",
    "adamw_torch_fused": "adamw",
    "adamw_8bit": "adamw_8bit",
    "adamw_bnb_8bit": "adamw_8bit",
    "paged_adamw": "paged_adamw",
    "paged_adamw_32bit": "paged_adamw",
    "paged_adamw_8bit": "paged_adamw_8bit",
}

# Keys that a version refuses: since when, and what to write instead (transformers' own changes,
# compared between the wheels of 4.57.6 and 5.23.0; the versions between were looked at singly).
GONE: Mapping[str, tuple[str, str]] = {
    "overwrite_output_dir": ("5.0", "take it out; a resume names its checkpoint"),
    "save_safetensors": ("5.0", "take it out; weights are always saved as safetensors"),
    "no_cuda": ("5.0", "write `use_cpu`"),
    "use_mps_device": ("5.0", "take it out"),
    "adafactor": ("5.0", "write `optim: adafactor`"),
    "fp16_opt_level": ("5.0", "take it out"),
    "half_precision_backend": ("5.0", "take it out"),
    "fp16_backend": ("5.0", "take it out"),
    "per_gpu_train_batch_size": ("5.0", "write `per_device_train_batch_size`"),
    "per_gpu_eval_batch_size": ("5.0", "write `per_device_eval_batch_size`"),
    "jit_mode_eval": ("5.0", "take it out"),
    "past_index": ("5.0", "take it out"),
    "use_legacy_prediction_loop": ("5.0", "take it out"),
    "include_inputs_for_metrics": ("5.0", "write `include_for_metrics`"),
    "push_to_hub_model_id": ("5.0", "write `hub_model_id`"),
    "push_to_hub_token": ("5.0", "write `hub_token`"),
    "ray_scope": ("5.0", "take it out"),
    "include_tokens_per_second": ("5.0", "write `include_num_input_tokens_seen`"),
    "group_by_length": ("5.3", "write `train_sampling_strategy: group_by_length`"),
    "warmup_ratio": ("5.15", "write `warmup_steps` with a share below 1"),
    "logging_dir": ("5.15", "set TENSORBOARD_LOGGING_DIR under `env` of the job"),
    "evaluation_strategy": ("4.46", "write `eval_strategy`"),
}
# Since then accelerate takes ranks on the CPU for one rank each, unless `use_cpu` says otherwise:
# they train the same thing side by side (state.py, _prepare_backend, of 1.12.0 and 1.13.0).
ALONE_ON_THE_CPU_SINCE = "1.13"
CALLED_OTHERWISE_SINCE = "5.23"  # activation_checkpointing, before: gradient_checkpointing


def has(versions: Mapping[str, str], since: str, package: str = "transformers") -> bool:
    """Return whether the installed package is at least `since`; unknown ones are new."""
    installed = versions.get(package)
    return installed is None or parse_version(installed) >= parse_version(since)


def checkpointing_key(values: Mapping[str, Any], versions: Mapping[str, str]) -> str:
    """Return under which name activation checkpointing is switched: the user's own, if used."""
    for name in ("activation_checkpointing", "gradient_checkpointing"):
        if name in values:
            return name
    new = has(versions, CALLED_OTHERWISE_SINCE)
    return "activation_checkpointing" if new else "gradient_checkpointing"


def key_faults(
    values: Mapping[str, Any], versions: Mapping[str, str], where: str
) -> Iterator[Fault]:
    """Yield the keys that the installed transformers does not know any more, or not yet."""
    installed = versions.get("transformers")
    if installed is None:
        return  # that it is missing is said elsewhere
    for key, (since, instead) in GONE.items():
        if key in values and has(versions, since):
            text = f"`{key}` is gone from transformers since {since}, and {installed} is installed"
            yield Fault(text, where, instead)
    new = {"activation_checkpointing": CALLED_OTHERWISE_SINCE, "train_sampling_strategy": "5.3",
           "eval_strategy": "4.41"}  # fmt: skip
    for key, since in new.items():
        if key in values and not has(versions, since):
            text = f"`{key}` needs transformers {since}, and {installed} is installed"
            yield Fault(text, where, "use the older name, or install a newer transformers")
