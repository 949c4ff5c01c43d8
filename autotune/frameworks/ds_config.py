"""A DeepSpeed configuration: read for where a plan starts, edited key by key for the next."""

import copy
from collections.abc import Iterable
from typing import Any

from autotune.core.fault import Fault
from autotune.core.plan import Plan
from autotune.frameworks.ds_remark import AUTO, FILLED_BY_HF, Use

Config = dict[str, Any]

BATCH_KEYS = (
    "train_batch_size",
    "train_micro_batch_size_per_gpu",
    "gradient_accumulation_steps",
)
# DeepSpeed's own default (runtime/zero/config.py): one bucket is then 1 GB in bf16.
DEFAULT_BUCKET = 500_000_000
OFFLOADS = ("offload_optimizer", "offload_param")
_READ_HERE = (
    "reduce_bucket_size", "allgather_bucket_size", "sub_group_size", "round_robin_gradients",
    "stage3_gather_16bit_weights_on_model_save", "offload_optimizer.pin_memory",
    "offload_param.pin_memory",
)  # fmt: skip
# Other names of keys that `with_plan` writes: DeepSpeed refuses two names at once.
_OTHER_NAMES = (
    "prefetch_bucket_size", "gather_16bit_weights_on_model_save", "cpu_offload",
    "cpu_offload_param", "stage3_gather_fp16_weights_on_model_save",
)  # fmt: skip
# What becomes of a configuration under the built-in trainer: `with_plan`, then HF Trainer.
BUILT_IN = Use(
    who="the built-in trainer",
    fills=FILLED_BY_HF | {f"zero_optimization.{key}" for key in _READ_HERE},
    literal=frozenset(
        {"zero_optimization", "gradient_clipping"}
        | {f"zero_optimization.{key}" for key in (*_READ_HERE, *_OTHER_NAMES)}
    ),
    elsewhere=frozenset(
        {*BATCH_KEYS, "bf16.enabled", "fp16.enabled", "zero_optimization.stage", "optimizer"}
        | {"scheduler", "autotuning", "elasticity"}
    ),
    offload_elsewhere=True,
    hf=True,
)
LARGEST_NUMBER = 1e15  # beyond it lies infinity, which YAML can write


def with_plan(config: Config, plan: Plan) -> Config:
    """Return a copy of `config` that carries out `plan`; whatever the plan does not name stays.

    Defaults that moved between DeepSpeed releases are written out when the user left them open:
    gradient clipping (0.19.3) is left to the caller, pinned memory (0.19.5) is stated here.
    """
    edited = copy.deepcopy(config)
    edited["train_batch_size"] = plan.global_batch
    edited["train_micro_batch_size_per_gpu"] = plan.micro_batch
    edited["gradient_accumulation_steps"] = plan.accumulation
    edited["bf16"] = {**_table(edited, "bf16"), "enabled": plan.dtype == "bf16"}
    edited["fp16"] = {**_table(edited, "fp16"), "enabled": plan.dtype == "fp16"}
    zero = _table(edited, "zero_optimization")
    zero["stage"] = plan.zero_stage
    zero["reduce_bucket_size"] = plan.reduce_bucket
    zero["allgather_bucket_size"] = plan.allgather_bucket
    zero.setdefault("overlap_comm", False)
    zero["round_robin_gradients"] = plan.round_robin_gradients
    if plan.zero_stage == 3:
        zero["sub_group_size"] = plan.sub_group_size
        zero["stage3_gather_16bit_weights_on_model_save"] = plan.gather_on_save
        if zero.get("stage3_prefetch_bucket_size", AUTO) == AUTO:
            zero["stage3_prefetch_bucket_size"] = min(50_000_000, plan.reduce_bucket)
    for key, wanted in zip(OFFLOADS, (plan.offload_optimizer, plan.offload_param), strict=True):
        set_offload(zero, key, wanted, plan.pinned_memory)
    edited["zero_optimization"] = zero
    return edited


def with_overrides(config: Config, overrides: Iterable[tuple[str, bool | int]]) -> Config:
    """Return a copy of `config` with keys set by dotted path."""
    edited = copy.deepcopy(config)
    for path, value in overrides:
        *tables, key = path.split(".")
        table = edited
        for name in tables:
            table = table.setdefault(name, {})
        table[key] = value
    return edited


def _table(config: Config, key: str) -> Config:
    value = config.get(key)
    return dict(value) if isinstance(value, dict) else {}


def set_offload(zero: Config, key: str, wanted: bool, may_pin: bool) -> None:
    """Turn an offload of `zero_optimization` on or off in place; memory is pinned if it was."""
    if not wanted:
        zero.pop(key, None)
        return
    table = _table(zero, key)
    if table.get("device", "none") == "none":
        table["device"] = "cpu"
    table["pin_memory"] = may_pin and table.get("pin_memory") is True
    zero[key] = table


def stage(config: Config) -> int | None:
    """Return the ZeRO stage the configuration asks for, or None where it says nothing."""
    value = _table(config, "zero_optimization").get("stage")
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def offloads(config: Config, key: str) -> bool:
    """Return whether `offload_optimizer` or `offload_param` names a device."""
    table = _table(_table(config, "zero_optimization"), key)
    return table.get("device", "none") not in ("none", None)


def pins(config: Config) -> bool:
    """Return whether an offload asks for host memory that cannot be swapped."""
    zero = _table(config, "zero_optimization")
    return any(_table(zero, key).get("pin_memory") is True for key in OFFLOADS)


def flag(config: Config, key: str) -> bool:
    """Return whether a switch of `zero_optimization` is on; silence means off."""
    return _table(config, "zero_optimization").get(key) is True


def number(config: Config, key: str, default: int) -> int:
    """Return a whole number of `zero_optimization`, or `default` where it says nothing."""
    value = _table(config, "zero_optimization").get(key, AUTO)
    counts = isinstance(value, (int, float)) and not isinstance(value, bool)
    return int(value) if counts and 0 < value < LARGEST_NUMBER else default


def batch_faults(config: Config, world: int, micro: int, total: int, where: str) -> list[Fault]:
    """Return where the configuration's batch keys disagree with each other or with the job."""
    accumulation = total // (world * micro) if total % (world * micro) == 0 else None
    wanted = dict(zip(BATCH_KEYS, (total, micro, accumulation), strict=True))
    faults = []
    for key in BATCH_KEYS:
        value = config.get(key, AUTO)
        if value == AUTO or wanted[key] is None or value == wanted[key]:
            continue
        what = f"`{key}` is {value!r} in the DeepSpeed configuration, and the job makes it "
        what += f"{wanted[key]} ({world} ranks, micro-batch {micro}, global batch {total})"
        faults.append(Fault(what, where, 'write "auto" there; autotune fills it in'))
    return faults


def precision_faults(config: Config, dtype: str, where: str) -> list[Fault]:
    """Return where the configuration trains in another precision than the job."""
    faults = []
    for name in ("bf16", "fp16"):
        wanted, value = dtype == name, _table(config, name).get("enabled", AUTO)
        if value not in (AUTO, wanted):
            text = f"`{name}` says {value!r} in the DeepSpeed configuration, and the job trains in "
            hint = 'write "auto" there, or set `dtype' + (f": {name}`" if value is True else "`")
            faults.append(Fault(text + dtype, where, hint))
    return faults


def clipping(config: Config) -> float | None:
    """Return the norm that gradients are clipped to, or None where it says nothing."""
    value = config.get("gradient_clipping", AUTO)
    return float(value) if isinstance(value, (int, float)) else None


def shape_faults(config: Config, where: str) -> list[Fault]:
    """Return what the built-in trainer would refuse at start."""
    faults = []
    zero = _table(config, "zero_optimization")
    if zero.get("stage", AUTO) != AUTO and stage(config) not in (1, 2, 3):
        text = f"`stage` is {zero['stage']!r}, and the built-in trainer runs at ZeRO stage 1, 2 "
        text += "or 3"
        hint = "on one rank stage 1 costs nothing; stage 0 sums gradients in another precision"
        faults.append(Fault(text, where, hint))
    for key in ("offload_optimizer", "offload_param"):
        if _table(zero, key).get("device") == "nvme":
            text = f"`{key}` to NVMe leaves a part of each checkpoint in swap files of one layout, "
            text += "which no other plan can go on from, so the first failure would end the run"
            hint = "say `device: cpu`; where the host is too small, more GPUs or `method: lora`"
            faults.append(Fault(text, where, hint))
    for key in ("optimizer", "scheduler"):
        if key in config:
            text = f"the built-in trainer brings its own {key}; a `{key}` block would override it"
            faults.append(Fault(text, where, f"take `{key}` out; set it under `settings`"))
    for key in ("autotuning", "elasticity"):
        if key in config:
            text = f"`{key}` changes the batch behind autotune's back"
            faults.append(Fault(text, where, f"take `{key}` out"))
    return faults
