"""`autotune estimate`: the predicted peak of one setting on one rank; launches nothing."""

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from autotune.core.fault import Fault, InputError, nearest
from autotune.core.memory.belief import Belief, interval
from autotune.core.memory.forecast import Forecast
from autotune.core.memory.plain import OPTIMIZERS
from autotune.core.memory.predict import forecast
from autotune.core.memory.reading import read_shape
from autotune.core.memory.shape import ModelShape
from autotune.core.memory.workload import Subject, Workload
from autotune.core.plan import Attention, Device, Dtype, Optimizer, Plan
from autotune.core.units import show_bytes
from autotune.world.files import read_json

# Assumed of the context of CUDA on each GPU, as the shipped policies do (`cuda_context`): published
# figures lie between 141 MiB (a T4) and 600.
CONTEXT = 600 << 20
BUCKET = 500_000_000  # elements, as DeepSpeed has it unless told otherwise


@dataclass(frozen=True)
class Asked:
    """One setting, as the command line names it."""

    model: Path
    sequence: int
    micro_batch: int
    method: str
    lora_rank: int
    lora_targets: tuple[str, ...]
    checkpointing: bool
    zero: int
    ranks: int
    offload: str
    optimizer: str
    dtype: Dtype
    attention: str
    device: Device


def estimate(asked: Asked, as_json: bool) -> int:
    """Print the predicted bytes; raises InputError where nothing can be predicted."""
    shape = _shape(asked.model)
    workload = _workload(asked, shape)
    # Under ZeRO the plan says the optimizer; without, it may be one that no plan can say.
    named = None if asked.zero else asked.optimizer
    found = forecast(workload, optimizer=named)
    low, high = interval(Belief(), workload.plan, found)  # as `plan` says it
    if as_json:
        print(json.dumps(_as_json(found, low, high)))
    else:
        print("\n".join(_as_text(found, low, high)))
    return 0


def _shape(model: Path) -> ModelShape:
    file = model / "config.json" if model.is_dir() else model
    config = read_json(file, links=True)
    if not isinstance(config, dict):
        text = "the model's config is missing or cannot be read"
        raise InputError(Fault(text, str(file), "name a model folder or its config.json"))
    shape = read_shape(config)
    if isinstance(shape, str):
        raise InputError(Fault(shape, str(file), "name the config of a causal language model"))
    return shape


def _workload(asked: Asked, shape: ModelShape) -> Workload:
    if asked.attention not in get_args(Attention):
        raise _unknown("attention", asked.attention, get_args(Attention))
    if asked.optimizer not in OPTIMIZERS:
        raise _unknown("optimizer", asked.optimizer, OPTIMIZERS)
    ours = asked.optimizer in get_args(Optimizer)
    if asked.zero and not ours:
        text = f"{asked.optimizer} is predicted without ZeRO only"
        raise InputError(Fault(text, "--optimizer", "give --zero 0, or another optimizer"))
    if asked.zero == 0 and asked.offload != "none":
        text = "nothing is offloaded without ZeRO"
        raise InputError(Fault(text, "--offload", "give --zero 2, or --zero 3 for parameters"))
    if asked.zero < 3 and asked.offload == "optimizer+param":
        text = f"ZeRO stage {asked.zero} keeps the parameters on the device"
        raise InputError(Fault(text, "--offload", "give --zero 3"))
    plan = Plan(
        world_size=asked.ranks,
        micro_batch=asked.micro_batch,
        accumulation=1,
        eval_micro_batch=asked.micro_batch,
        method="full" if asked.method == "full" else "lora",
        quantization="nf4" if asked.method == "qlora" else "none",
        dtype=asked.dtype,
        activation_checkpointing=asked.checkpointing,
        zero_stage=asked.zero,
        offload_optimizer=asked.offload != "none",
        offload_param=asked.offload == "optimizer+param",
        reduce_bucket=BUCKET,
        allgather_bucket=BUCKET,
        gather_on_save=False,
        attention=asked.attention,  # type: ignore[arg-type]
        optimizer=asked.optimizer if ours else "adamw",  # type: ignore[arg-type]
    )
    subject = Subject(
        shape=shape,
        device=asked.device,
        sequence=asked.sequence,
        lora_rank=asked.lora_rank,
        lora_targets=asked.lora_targets,
        host_ranks=asked.ranks,
        cuda_context=CONTEXT,
    )
    return Workload(subject, plan)


def _unknown(option: str, given: str, known: tuple[str, ...]) -> InputError:
    hint = nearest(given, known) or f"one of {', '.join(known)}"
    return InputError(Fault(f"{given!r} is no {option} known here", f"--{option}", hint))


def _as_json(found: Forecast, low: int, high: int) -> dict[str, Any]:
    return {
        "peak_bytes": found.peak,
        "low_bytes": low,
        "high_bytes": high,
        "parts": {"tensors": found.tensors, **found.parts},
        "method": found.method,
        "peak_at": found.peak_at.value,
        "doubts": list(found.doubts),
    }


def _as_text(found: Forecast, low: int, high: int) -> list[str]:
    lines = [f"{show_bytes(found.peak)} at the peak ({found.peak_at.value.replace('_', ' ')})"]
    lines.append(f"{show_bytes(low)} to {show_bytes(high)} in nine cases of ten")
    width = max(map(len, found.parts), default=0)
    rows = sorted(found.parts.items(), key=lambda part: -part[1])
    lines += [f"  {name:<{width}}  {show_bytes(size):>12}" for name, size in rows if size]
    percent = math.ceil(100 * found.spread)
    return [*lines, f"{found.method}, off by {percent} % as a rule", *found.doubts]
