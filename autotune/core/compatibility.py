"""Which settings cannot go together, by version: the one table, and how it is asked."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

from autotune.core.plan import Device, Plan

Version = tuple[int, ...]


@dataclass(frozen=True)
class Conflict:
    """One combination that does not work, where, and who says so.

    `package`, `since` and `before` bound the versions it concerns: since ≤ version < before.
    Without a package it holds everywhere.
    """

    name: str
    holds: Callable[[Plan, Device], bool]
    why: str
    source: str
    package: str | None = None
    since: str | None = None
    before: str | None = None
    absent: bool = False  # it holds where `package` is not installed at all


CONFLICTS: tuple[Conflict, ...] = (
    Conflict(
        "four_bit_full",
        lambda plan, _: plan.quantization != "none" and plan.method == "full",
        "4-bit weights cannot be trained themselves; use LoRA, or train unquantized",
        "transformers, validate_quantization_for_training",
    ),
    Conflict(
        "param_offload_below_stage_3",
        lambda plan, _: plan.offload_param and plan.zero_stage != 3,
        "parameters can be offloaded at ZeRO stage 3 only",
        "DeepSpeed, runtime/zero/config.py",
    ),
    Conflict(
        "offload_without_zero",
        lambda plan, _: plan.offload_optimizer and plan.zero_stage == 0,
        "an optimizer is offloaded by ZeRO alone, at stage 1 or above",
        "DeepSpeed, runtime/zero/config.py",
    ),
    Conflict(
        "offload_at_stage_3",
        lambda plan, _: plan.zero_stage == 3 and (plan.offload_optimizer or plan.offload_param),
        "DeepSpeed 0.14.1 and 0.14.2 mix devices at ZeRO stage 3 with offload; 0.14.3 mends it",
        "DeepSpeed #5461, #5538",
        package="deepspeed",
        since="0.14.1",
        before="0.14.3",
    ),
    Conflict(
        "four_bit_without_bitsandbytes",
        lambda plan, _: plan.quantization != "none",
        "4-bit weights need bitsandbytes in the training's Python",
        "bitsandbytes",
        package="bitsandbytes",
        absent=True,
    ),
    Conflict(
        "optimizer_without_bitsandbytes",
        lambda plan, _: plan.optimizer != "adamw",
        "8-bit and paged optimizers need bitsandbytes in the training's Python",
        "bitsandbytes",
        package="bitsandbytes",
        absent=True,
    ),
    Conflict(
        "optimizer_under_offload",
        lambda plan, _: plan.optimizer != "adamw" and plan.offload_optimizer,
        "under optimizer offload accelerate silently puts DeepSpeed's CPU Adam in the place of an "
        "8-bit or paged optimizer, with another weight decay",
        "accelerate, utils/deepspeed.py map_pytorch_optim_to_deepspeed",
    ),
    Conflict(
        "paged_optimizer_cpu",
        lambda plan, device: plan.optimizer.startswith("paged") and device == "cpu",
        "paging moves optimizer state between a GPU and the host, and the job trains on the CPU",
        "bitsandbytes, functional.get_paged",
    ),
    Conflict(
        "activation_offload_alone",
        lambda plan, _: plan.activation_offload and not plan.activation_checkpointing,
        "activation offload moves what activation checkpointing keeps, and that is off",
        "child/finetune.py, offload_activations",
    ),
    Conflict(
        "four_bit_param_offload",
        lambda plan, _: plan.quantization != "none" and plan.offload_param,
        "4-bit weights carry state on their device and cannot be offloaded",
        "bitsandbytes fsdp_qlora docs; untested upstream",
    ),
    Conflict(
        "four_bit_stage_3",
        lambda plan, _: plan.quantization != "none" and plan.zero_stage == 3,
        "4-bit weights under ZeRO stage 3 need bitsandbytes 0.43 (float quant storage)",
        "peft docs, deepspeed.md",
        package="bitsandbytes",
        before="0.43",
    ),
    Conflict(
        "checkpointing_frozen_stage_3",
        lambda plan, _: (
            plan.activation_checkpointing and plan.zero_stage == 3 and plan.method == "lora"
        ),
        "activation checkpointing over frozen weights at ZeRO stage 3 fails before DeepSpeed "
        "0.19.3 (CheckpointError, shape [0])",
        "DeepSpeed #8148",
        package="deepspeed",
        before="0.19.3",
    ),
    Conflict(
        "bf16_base_fp32_adapter_stage_3",
        lambda plan, _: plan.zero_stage == 3 and plan.method == "lora" and plan.dtype != "fp32",
        "a half-precision base with fp32 adapters at ZeRO stage 3 fails before DeepSpeed 0.19.3",
        "DeepSpeed #8073",
        package="deepspeed",
        before="0.19.3",
    ),
    Conflict(
        "flash_attention_fp32",
        lambda plan, _: plan.attention == "flash_attention_2" and plan.dtype == "fp32",
        "flash attention has kernels for bf16 and fp16 only",
        "flash-attention README",
    ),
    Conflict(
        "flash_attention_cpu",
        lambda plan, device: plan.attention == "flash_attention_2" and device == "cpu",
        "flash attention runs on a GPU only",
        "flash-attention README",
    ),
    Conflict(
        "fp16_cpu",
        lambda plan, device: plan.dtype == "fp16" and device == "cpu",
        "DeepSpeed's CPU accelerator trains in bf16 or fp32, not in fp16",
        "DeepSpeed, accelerator/cpu_accelerator.py",
    ),
)


def conflicts(plan: Plan, device: Device, versions: dict[str, str]) -> list[Conflict]:
    """Return the rows that hold for this plan; a version we do not know breaks nothing."""
    return [row for row in CONFLICTS if _concerns(row, versions) and row.holds(plan, device)]


@cache
def parse_version(text: str) -> Version:
    """Return the leading numbers of a version: `2.13.0+cpu` is (2, 13, 0)."""
    numbers = []
    for part in text.split("+")[0].split("."):
        digits = ""
        for char in part:
            if not char.isdigit():
                break
            digits += char
        if not digits:
            break
        numbers.append(int(digits))
    return tuple(numbers)


def _concerns(row: Conflict, versions: dict[str, str]) -> bool:
    if row.package is None:
        return True
    if row.absent:
        return bool(versions) and row.package not in versions
    if row.package not in versions:
        return False
    version = parse_version(versions[row.package])
    if row.since is not None and version < parse_version(row.since):
        return False
    return row.before is None or version < parse_version(row.before)
