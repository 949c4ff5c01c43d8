"""A plain DeepSpeed program's own configuration: where a plan starts in it, and a changed copy."""

import copy
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from autotune.core.fault import Fault
from autotune.core.job import Batch
from autotune.core.plan import Dtype, Plan
from autotune.frameworks import ds_config
from autotune.frameworks.arguments import integer
from autotune.frameworks.ds_doctor import examine, examine_text
from autotune.frameworks.ds_remark import PLAIN, Path, Remark, Use
from autotune.frameworks.ds_text import Parsed, parse

# The fields of a plan that a DeepSpeed configuration says, whatever the program does.
SAYS = frozenset(
    {
        "zero_stage", "offload_optimizer", "offload_param", "reduce_bucket", "allgather_bucket",
        "gather_on_save", "sub_group_size", "round_robin_gradients", "pinned_memory",
    }
)  # fmt: skip
_KEYS = {
    "zero_stage": "stage",
    "reduce_bucket": "reduce_bucket_size",
    "allgather_bucket": "allgather_bucket_size",
    "gather_on_save": "stage3_gather_16bit_weights_on_model_save",
    "sub_group_size": "sub_group_size",
    "round_robin_gradients": "round_robin_gradients",
}


@dataclass(frozen=True)
class Judged:
    """A configuration's content, and what is to be said of it."""

    config: dict[str, Any]
    faults: tuple[Fault, ...] = ()
    notes: tuple[Fault, ...] = ()
    lines: Mapping[Path, int] = field(default_factory=dict)


def judged(text: str, path: str, use: Use) -> Judged:
    """Return what the text of a DeepSpeed configuration holds, as DeepSpeed would read it."""
    parsed = parse(text)
    if parsed.broken:
        (remark,) = examine_text(parsed, use)
        return Judged({}, (Fault(remark.what, f"{path}:{parsed.broken_line}", remark.hint),))
    remarks = [*examine_text(parsed, use), *examine(parsed.value, use)]
    faults = tuple(_fault(one, path, parsed) for one in remarks if one.fault)
    notes = tuple(_fault(one, path, parsed) for one in remarks if not one.fault)
    config = parsed.value if isinstance(parsed.value, dict) else {}
    return Judged(config, faults, notes, parsed.lines)


def plain_use(deepspeed: str | None, ranks: int) -> Use:
    """Return the use of a program that hands its configuration to DeepSpeed itself."""
    return replace(PLAIN, deepspeed=deepspeed, world_size=ranks)


def settable(config: Mapping[str, Any]) -> frozenset[str]:
    """Return the fields of a plan that a changed copy of the configuration can set.

    An optimizer that the program brings is not offloaded: DeepSpeed refuses most of them. Where
    there is no ZeRO there is an engine of another kind, with other gradients.
    """
    held, had = dict(config), set(SAYS)
    if "optimizer" not in held and not ds_config.offloads(held, "offload_optimizer"):
        had.discard("offload_optimizer")
    if not ds_config.stage(held):
        had.discard("zero_stage")
    return frozenset(had)


def _fault(remark: Remark, path: str, parsed: Parsed) -> Fault:
    for end in range(len(remark.path), 0, -1):
        if remark.path[:end] in parsed.lines:
            return Fault(remark.what, f"{path}:{parsed.lines[remark.path[:end]]}", remark.hint)
    return Fault(remark.what, path, remark.hint)


def batch_in(config: Mapping[str, Any], ranks: int, path: str) -> Batch | Fault:
    """Return the batches of a configuration by DeepSpeed's own rules for what it leaves open."""
    total, micro, accumulation = (integer(config.get(key)) for key in ds_config.BATCH_KEYS)
    if micro is None and total is not None:
        micro, left = divmod(total, ranks * (accumulation or 1))
        if left or not micro:
            text = f"a `train_batch_size` of {total} cannot be shared by {ranks} ranks"
            text += f" in {accumulation} steps" if accumulation else ""
            return Fault(text, path, "choose a multiple, or name the micro-batch")
    if micro is None or micro < 1:
        hint = "name `train_micro_batch_size_per_gpu` and `gradient_accumulation_steps`"
        return Fault("the DeepSpeed configuration says no batch", path, hint)
    if total is None:
        total = micro * ranks * (accumulation or 1)
    if total != micro * ranks * (accumulation or total // (micro * ranks)):
        text = f"a batch of {total} is not {micro} for each of {ranks} ranks, {accumulation} times"
        return Fault(text, path, "leave one of the three keys out; DeepSpeed works it out")
    return Batch.model_validate({"global": total, "micro": micro})


def plan_in(config: Mapping[str, Any], base: Plan) -> Plan:
    """Return `base` with what the configuration says of ZeRO, its offloads and precision."""
    held = dict(config)
    stage = ds_config.stage(held) or 0
    return base.but(
        dtype=_dtype(held),
        zero_stage=stage,
        offload_optimizer=ds_config.offloads(held, "offload_optimizer"),
        offload_param=ds_config.offloads(held, "offload_param"),
        reduce_bucket=ds_config.number(held, "reduce_bucket_size", ds_config.DEFAULT_BUCKET),
        allgather_bucket=ds_config.number(held, "allgather_bucket_size", ds_config.DEFAULT_BUCKET),
        gather_on_save=ds_config.flag(held, _KEYS["gather_on_save"]),
        sub_group_size=ds_config.number(held, "sub_group_size", Plan.sub_group_size),
        round_robin_gradients=ds_config.flag(held, "round_robin_gradients"),
        pinned_memory=ds_config.pins(held),
    )


def with_changes(config: Mapping[str, Any], start: Plan, plan: Plan) -> dict[str, Any]:
    """Return a copy of the user's configuration with what `plan` has otherwise than `start`.

    The batches are written where DeepSpeed would work out others on the plan's ranks.
    """
    edited = copy.deepcopy(dict(config))
    asked = Batch.model_validate({"global": plan.global_batch, "micro": plan.micro_batch})
    if batch_in(config, plan.world_size, "") != asked:
        triad = (plan.global_batch, plan.micro_batch, plan.accumulation)
        edited.update(zip(ds_config.BATCH_KEYS, triad, strict=True))
    zero = edited.get("zero_optimization")
    zero = dict(zero) if isinstance(zero, dict) else {}
    before = dict(zero)
    for name, key in _KEYS.items():
        if getattr(plan, name) != getattr(start, name):
            zero[key] = getattr(plan, name)
    pins = plan.pinned_memory != start.pinned_memory
    for key in ds_config.OFFLOADS:
        wanted = getattr(plan, key)
        if wanted != getattr(start, key) or (wanted and pins):
            ds_config.set_offload(zero, key, wanted, plan.pinned_memory)
    if zero != before:
        edited["zero_optimization"] = zero
    return edited


def _dtype(config: dict[str, Any]) -> Dtype:
    for name in ("bf16", "fp16"):
        table = config.get(name)
        if isinstance(table, dict) and table.get("enabled") in (True, "true", 1):
            return "bf16" if name == "bf16" else "fp16"
    return "fp32"
