"""LLaMA-Factory's own keys and a plan: what they start at, and how a plan changes them."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from autotune.core.allocator import NEW_NAME, OLD_NAME
from autotune.core.job import Job, absolute
from autotune.core.plan import Attention, Plan
from autotune.frameworks import ds_config
from autotune.frameworks.arguments import decimal, integer
from autotune.frameworks.framework import Looked, Trained
from autotune.frameworks.llamafactory_config import Given
from autotune.frameworks.llamafactory_keys import OWN
from autotune.frameworks.llamafactory_rules import Seen, refusals
from autotune.frameworks.trainer import Own
from autotune.frameworks.trainer import lacks_of as trainer_lacks
from autotune.frameworks.trainer_keys import Habits

# It switches checkpointing on itself, under a key of its own (disable_gradient_checkpointing).
HABITS = Habits(checkpointing=None, checkpointing_default=True)
CUTOFF, RANK = 2048, 8  # its defaults (hparams/data_args.py, hparams/finetuning_args.py)
ATTENTION: Mapping[str, Attention] = {
    "disabled": "eager",
    "sdpa": "sdpa",
    "fa2": "flash_attention_2",
}
FOUR_BITS = {"quantization_bit": 4, "quantization_method": "bnb", "quantization_type": "nf4"}
# What its launcher sets for every training under torchrun, unless OPTIM_TORCH=0.
EXPANDABLE = (("expandable_segments", "True"),)
_PATHS = ("dataset_dir", "media_dir", "tokenized_path", "cache_dir", "deepspeed", "offload_folder")


def own_of(job: Job, looked: Looked, given: Given) -> Own:
    """Return the configuration as the substrate of all Trainers sees it."""
    # Some of its keys were TrainingArguments once, and are its own now.
    values = {key: value for key, value in given.values.items() if key not in OWN}
    job = job.model_copy(update={"env": dict(given.environment)})
    return Own(job, values, looked, HABITS)


def fields_of(given: Given, plan: Plan) -> dict[str, Any]:
    """Return what LLaMA-Factory's own keys make of a plan that TrainingArguments began."""
    seen = Seen(given, plan.zero_stage)
    lora = seen.method in ("lora", "oft")
    four_bit = seen.bits == 4 and given.text("quantization_type", "nf4") == "nf4"
    said = any(name in given.environment for name in (NEW_NAME, OLD_NAME))
    expands = not said and not plan.allocator and given.enabled("OPTIM_TORCH", "1")
    return {
        "method": "lora" if lora else "full",
        "quantization": "nf4" if four_bit and seen.quantizer == "bnb" else "none",
        "dtype": "bf16" if given.on("pure_bf16") else plan.dtype,
        "activation_checkpointing": not given.on("disable_gradient_checkpointing"),
        "activation_offload": given.on("use_unsloth_gc"),
        "attention": ATTENTION.get(given.text("flash_attn", "auto"), "given"),
        "loss": "chunked" if given.on("enable_liger_kernel") else "whole",
        "sequence": integer(given.values.get("cutoff_len")) or CUTOFF,
        "lora_rank": (integer(given.values.get("lora_rank")) or RANK) if lora else 0,
        "allocator": EXPANDABLE if expands else plan.allocator,
    }


def changes_of(given: Given, start: Plan, plan: Plan) -> dict[str, Any]:
    """Return its own keys as `plan` wants them; what it has in common with the start stays."""
    changed: dict[str, Any] = {}
    if plan.activation_checkpointing != start.activation_checkpointing:
        changed["disable_gradient_checkpointing"] = not plan.activation_checkpointing
    if plan.activation_offload != start.activation_offload:
        changed["use_unsloth_gc"] = plan.activation_offload
    if plan.quantization != start.quantization:
        changed |= FOUR_BITS if plan.quantization == "nf4" else dict.fromkeys(FOUR_BITS)
    if plan.attention != start.attention:
        names = {value: name for name, value in ATTENTION.items()}
        changed["flash_attn"] = names.get(plan.attention, "auto")
    if plan.loss != start.loss:
        changed["enable_liger_kernel"] = plan.loss == "chunked"
    if plan.dtype != start.dtype and given.on("pure_bf16"):
        changed["pure_bf16"] = False
    if plan.sequence != start.sequence:
        # A cache of tokens holds rows of the old length, and would be taken as it lies.
        changed |= {"cutoff_len": plan.sequence, "tokenized_path": None}
    if plan.lora_rank != start.lora_rank:
        changed |= {"lora_rank": plan.lora_rank, "lora_alpha": _alpha(given, start, plan)}
    return changed


def _alpha(given: Given, start: Plan, plan: Plan) -> int | float:
    """Return the alpha that keeps alpha over rank; unset it is twice the rank."""
    said = decimal(given.values.get("lora_alpha"))
    alpha = (said or 2 * start.lora_rank) * plan.lora_rank / start.lora_rank
    return int(alpha) if alpha == int(alpha) else alpha


def lacks_of(given: Given, own: Own) -> dict[str, str]:
    """Return the settings of a plan that LLaMA-Factory has no key for, and why."""
    lacks = trainer_lacks(own)
    for name in ("quantization", "attention", "sequence", "lora_rank", "loss",
                 "activation_offload"):  # fmt: skip
        lacks.pop(name, None)
    lacks["four_bit_compute"] = "4-bit layers multiply in the precision that is trained in"
    versions = own.looked.versions
    if given.text("stage", "sft") not in ("sft", "pt"):
        lacks["loss"] = "LLaMA-Factory leaves Liger's fused loss out where logits are compared"
    elif versions and "liger-kernel" not in versions:
        lacks["loss"] = "the fused loss is liger-kernel's, which is not in the job's Python"
    stage = ds_config.stage(dict(own.deepspeed or {})) or 0
    four_bits = replace(given, values={**given.values, **FOUR_BITS})
    if why := _refused(given, stage, four_bits, stage):
        lacks["quantization"] = why
    elif versions and "bitsandbytes" not in versions:
        lacks["quantization"] = "bitsandbytes is not installed in the job's Python"
    if why := _refused(given, stage, given, 3):
        lacks["zero_stage"] = why
    if versions.get("torch", "").endswith("+cpu"):
        lacks["activation_offload"] = "its way to move activations to the host works on GPUs only"
    return lacks


def _refused(before: Given, at: int, after: Given, then: int) -> str:
    """Return what LLaMA-Factory refuses of the one configuration and not of the other, or ""."""
    known = {fault.what for fault in refusals(before, at, "")}
    return next((one.what for one in refusals(after, then, "") if one.what not in known), "")


def trained_of(given: Given, sequence: int | None) -> Trained:
    """Return what decides memory beside the model and the plan."""
    targets = tuple(name for name in given.names("lora_target") if name != "all")
    lora = given.text("finetuning_type", "lora") in ("lora", "oft")
    # Two rows a sample and a second model's logits: nothing here has measured what that takes.
    alone = given.text("stage", "sft") in ("sft", "pt")
    cutoff = (integer(given.values.get("cutoff_len")) or CUTOFF) if alone else None
    return Trained(
        sequence=sequence or cutoff,
        lora_rank=(integer(given.values.get("lora_rank")) or RANK) if lora else 0,
        lora_targets=targets if lora else (),
        lora_dropout=decimal(given.values.get("lora_dropout")) or 0.0,
        trust_remote_code=given.on("trust_remote_code"),
    )


def rooted(values: Mapping[str, Any], folder: str, *, with_model: bool) -> dict[str, Any]:
    """Return the configuration with its paths read against `folder`, for a start from anywhere.

    `with_model` says that the model lies here; else its name is one of a hub, and stays.
    """
    made = dict(values)
    made.setdefault("dataset_dir", "data")
    for key in (*_PATHS, *(("model_name_or_path",) if with_model else ())):
        path = made.get(key)
        remote = key == "dataset_dir" and str(path).startswith(("ONLINE", "REMOTE:"))
        if isinstance(path, str) and path and not remote and not path.lstrip().startswith("{"):
            made[key] = absolute(path, folder)
    adapters = made.get("adapter_name_or_path")
    if isinstance(adapters, str):
        made["adapter_name_or_path"] = ",".join(
            _adapter(name.strip(), folder) for name in adapters.split(",")
        )
    return made


def _adapter(name: str, folder: str) -> str:
    # `a/b` is the form of a hub's name, and is left as it is.
    local = name.startswith(".") or name.count("/") > 1
    return absolute(name, folder) if local else name
