"""The DeepSpeed configuration of a tool that ends in HF Trainer: found, judged, and changed."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from autotune.core.fault import Fault
from autotune.core.plan import Plan
from autotune.frameworks import ds_config
from autotune.frameworks.arguments import decimal
from autotune.frameworks.ds_doctor import examine, examine_text
from autotune.frameworks.ds_remark import AUTO, HF_TRAINER, Remark, View
from autotune.frameworks.ds_text import parse
from autotune.frameworks.framework import Looked

FILE = "ds_config.json"  # of the attempt


def named_file(value: Any) -> str | None:
    """Return the path that a `deepspeed` argument names; None where it is inline, or absent."""
    if not isinstance(value, str) or not value.strip() or value.lstrip().startswith("{"):
        return None
    return value


def config_of(value: Any, looked: Looked) -> dict[str, Any] | None:
    """Return the configuration that a `deepspeed` argument stands for; None without DeepSpeed.

    One that cannot be read is an empty one here, and a fault of `judge`.
    """
    if isinstance(value, Mapping):
        return dict(value)
    if not isinstance(value, str) or not value.strip():
        return None
    path = named_file(value)
    parsed = parse(value if path is None else looked.texts.get(path, "{}"))
    return dict(parsed.value) if isinstance(parsed.value, Mapping) else {}


def judge(
    value: Any, looked: Looked, ranks: int, where: str
) -> tuple[tuple[Fault, ...], tuple[Fault, ...]]:
    """Return the faults and the notes of the configuration that a `deepspeed` argument names."""
    if value is None:
        return (), ()
    if not isinstance(value, (str, Mapping)):
        text = f"`deepspeed` is {value!r}, which is neither a file nor a configuration"
        return (Fault(text, where, "name a DeepSpeed JSON, or take the key out"),), ()
    use = replace(HF_TRAINER, deepspeed=looked.versions.get("deepspeed"), world_size=ranks)
    path = named_file(value)
    if isinstance(value, Mapping):
        return _sorted(examine(value, use), lambda _: where)
    parsed = parse(value if path is None else looked.texts.get(path, "{}"))
    remarks = examine_text(parsed, use)
    if not parsed.broken:
        remarks += examine(parsed.value, use)

    def place(remark: Remark) -> str:
        if path is None:
            return where
        if parsed.broken:
            return f"{path}:{parsed.broken_line}"
        for end in range(len(remark.path), 0, -1):
            if remark.path[:end] in parsed.lines:
                return f"{path}:{parsed.lines[remark.path[:end]]}"
        return path

    return _sorted(remarks, place)


def _sorted(remarks: list[Remark], place: Any) -> tuple[tuple[Fault, ...], tuple[Fault, ...]]:
    said = [(remark.fault, Fault(remark.what, place(remark), remark.hint)) for remark in remarks]
    return (
        tuple(fault for is_fault, fault in said if is_fault),
        tuple(fault for is_fault, fault in said if not is_fault),
    )


def buckets(config: Mapping[str, Any], hidden: int | None) -> tuple[int, int]:
    """Return reduce and allgather bucket in elements, as HF Trainer would fill them in."""
    zero = config.get("zero_optimization")
    zero = zero if isinstance(zero, Mapping) else {}
    reduce = ds_config.number(dict(config), "reduce_bucket_size", ds_config.DEFAULT_BUCKET)
    if zero.get("reduce_bucket_size") == AUTO and hidden:
        reduce = hidden * hidden
    gather = ds_config.number(dict(config), "allgather_bucket_size", ds_config.DEFAULT_BUCKET)
    return reduce, gather


def with_plan(
    config: Mapping[str, Any],
    start: Plan,
    plan: Plan,
    overrides: tuple[tuple[str, bool | int], ...],
    load_universal: bool,
) -> str:
    """Return the user's configuration as `plan` wants it, as JSON; what it leaves alone stays.

    The keys that HF Trainer synchronises with its arguments are left for it to fill in.
    """
    edited = ds_config.with_plan(dict(config), plan)
    for key in ds_config.BATCH_KEYS:
        edited[key] = AUTO
    for name in ("bf16", "fp16"):
        edited[name]["enabled"] = AUTO
    edited.setdefault("gradient_clipping", AUTO)
    was = config.get("zero_optimization")
    was, zero = (was if isinstance(was, Mapping) else {}), edited["zero_optimization"]
    for key, name in (
        ("reduce_bucket_size", "reduce_bucket"),
        ("allgather_bucket_size", "allgather_bucket"),
        ("stage3_gather_16bit_weights_on_model_save", "gather_on_save"),
    ):
        if getattr(start, name) == getattr(plan, name) and start.zero_stage:
            _put_back(zero, was, key)
    for key in ("overlap_comm", "stage3_prefetch_bucket_size"):
        if key not in was or was[key] == AUTO:
            _put_back(zero, was, key)
    edited = ds_config.with_overrides(edited, overrides)
    if load_universal:
        edited["checkpoint"] = {**edited.get("checkpoint", {}), "load_universal": True}
    return json.dumps(edited, indent=1) + "\n"


# What HF Trainer compares with its own arguments, and refuses where the two differ: the key, the
# argument, and what transformers takes where neither a file nor a command line says it.
_SYNCHRONISED = (
    ("gradient_clipping", "max_grad_norm", 1.0),
    ("optimizer.params.lr", "learning_rate", 5e-5),
    ("optimizer.params.eps", "adam_epsilon", 1e-8),
    ("optimizer.params.weight_decay", "weight_decay", 0.0),
    ("scheduler.params.warmup_max_lr", "learning_rate", 5e-5),
)


def mismatches(config: Mapping[str, Any], values: Mapping[str, Any], where: str) -> Iterator[Fault]:
    """Yield where the configuration contradicts the arguments, which the tool would refuse."""
    view = View(config, HF_TRAINER)
    for key, argument, default in _SYNCHRONISED:
        held = view.get(key, AUTO)
        asked = decimal(values.get(argument, default))
        if isinstance(held, (int, float)) and asked is not None and held != asked:
            text = f"`{key}` is {held:g} in the DeepSpeed configuration, and `{argument}` is "
            text += f"{asked:g}: the two must be equal"
            yield Fault(text, where, 'write "auto" there, and it is filled in')


def _put_back(zero: dict[str, Any], was: Mapping[str, Any], key: str) -> None:
    if key in was:
        zero[key] = was[key]
    else:
        zero.pop(key, None)
