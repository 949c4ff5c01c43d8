"""Compares a plan with what the ranks report to be in force: some tools restore old settings."""

from collections.abc import Collection, Iterator, Mapping
from typing import Any

from autotune.core.plan import KNOBS, Plan

# As torch names them.
_DTYPES = {"bf16": "bfloat16", "fp16": "float16", "fp32": "float32"}
# Fields of a plan that a rank reports under the same name and with the same kind of value.
_SAME = (
    "world_size", "micro_batch", "accumulation", "eval_micro_batch", "zero_stage", "quantization",
    "activation_checkpointing", "activation_offload", "loss", "loader_workers",
)  # fmt: skip


def ignored(
    plan: Plan, settings: Mapping[str, Any], knobs: Collection[str] = KNOBS
) -> tuple[str, ...]:
    """Return a sentence for each setting of the plan that is not in force.

    What was not reported, is left to the job's own settings, or cannot be set by this tool
    (`knobs` are what can) is not held against the plan.
    """
    return tuple(
        f"{name} is {found} in force and {wanted} in the plan"
        for name, wanted in _wanted(plan)
        if name in knobs
        and (found := settings.get(name)) is not None
        and _plain(name, found) != wanted
    )


def _wanted(plan: Plan) -> Iterator[tuple[str, Any]]:
    for name in _SAME:
        yield name, getattr(plan, name)
    if plan.zero_stage:  # without DeepSpeed the weights stay as they were loaded
        yield "dtype", _DTYPES[plan.dtype]
    yield "offload_optimizer", plan.offload_optimizer
    yield "offload_param", plan.offload_param
    if plan.attention != "given":
        yield "attention", plan.attention
    if plan.sequence:
        yield "sequence", plan.sequence
    if plan.lora_rank and plan.method == "lora":
        yield "lora_rank", plan.lora_rank


def _plain(name: str, found: Any) -> Any:
    """An offload is reported by the device it goes to."""
    if name.startswith("offload_") and isinstance(found, str):
        return found != "none"
    return found
