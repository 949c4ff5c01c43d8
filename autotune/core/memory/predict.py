"""Puts the parts together: what one rank takes under a plan, moment by moment and at its peak."""

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from operator import attrgetter

from autotune.core.memory import plain, zero
from autotune.core.memory.activations import LOSS_TOKENS, Activations, activations_of
from autotune.core.memory.belief import grows
from autotune.core.memory.counts import DTYPE_BYTES, count
from autotune.core.memory.forecast import Bytes, Forecast, Moment
from autotune.core.memory.host import host
from autotune.core.memory.outside import CUBLAS_WORKSPACE, LATER, THREAD, outside
from autotune.core.memory.traced import Traced
from autotune.core.memory.workload import Alike, Workload
from autotune.core.plan import Plan

# Root mean squares of the logarithm of told over measured (tests/bench/RESULTS.md, 2026-11-21): of
# what one card reserved in 11 runs (tests/bench/memory_accuracy.py) 0.050, and 0.056 fitted on
# every other of them; 0.057 was fitted with half of the logits lost. Of VmData in real trainings on
# the CPU (tests/bench/cpu_memory.py) it is 0.010 in the fitted half and, but for one cell that is
# told 13.7 % too high, 0.008 in the other; half as much again, since no resume was among them.
RESERVED, ON_CPU = 0.057, 0.015
# Assumed, for want of measurements: of a traced plan on a GPU, whose allocator is replayed, and of
# what the model's shape or the plan leaves in doubt.
REPLAYED, DOUBTED = 0.04, 0.12
# What the allocator loses, with segments that grow (False) and whole ones (True): of the logits of
# the loss in float32; of those of one piece, and of the head's gradient. Middles of its replays of
# Llama-3.2-1B and Qwen2.5-7B (tests/bench/planner_traces.json); with the first, the 11 runs on a
# card are told 0.1 % too low on average (tests/bench/memory_accuracy.py), which showed 0.30 to
# 2.12 of the logits: that is the spread, a share of what is lost.
LOST = {False: 0.55, True: 0.7}
LOST_OF_PIECES = {False: (0.6, 0.25), True: (2.0, 0.5)}
LOST_SPREAD = 0.5
STACKED = (
    "LoRA on experts that lie in one tensor was never measured: peft may wrap them too, and makes"
    " the whole change of their weights in each pass"
)


def forecast(
    workload: Workload, traced: Traced | None = None, optimizer: str | None = None
) -> Forecast:
    """Return the predicted memory of one rank of `workload`, in bytes.

    `traced` replaces the closed form of the activations by what a trace of the model showed, and
    on a GPU what the allocator reserves beside the tensors by a replay of it.
    `optimizer` names one that no plan can say (`plain.OPTIMIZERS`); under ZeRO the plan's counts.
    """
    found = _of_settings(
        Alike(workload, _settings(workload.plan)), traced.activations if traced else None, optimizer
    )
    overhead, around = _overhead(workload, traced), outside(workload)
    doubts = _doubts(workload)
    return Forecast(
        peak=found.tensors + overhead + around,
        tensors=found.tensors,
        peak_at=found.peak_at,
        parts={**found.parts, "overhead": overhead, "outside": around},
        moments=found.moments,
        outside=around,
        overhead=overhead,
        host=found.host,
        pinned=found.pinned,
        spread=_spread(workload, traced, doubts, overhead / found.tensors),
        method="trace" if traced else "closed form",
        doubts=doubts,
    )


@dataclass(frozen=True)
class _Tensors:
    """What a forecast is made of, without what the allocator and the process add; bytes."""

    tensors: int
    peak_at: Moment
    parts: Mapping[str, int]
    moments: Mapping[Moment, Bytes]
    host: int
    pinned: int


# What changes neither tensors nor where they lie; candidates often differ in nothing else.
_ASIDE = ("allocator", "loader_workers", "blocking_launches", "excluded")
_settings = attrgetter(*(one.name for one in dataclasses.fields(Plan) if one.name not in _ASIDE))


@lru_cache(maxsize=2048)
def _of_settings(one: Alike, passes: Activations | None, optimizer: str | None) -> _Tensors:
    workload, subject = one.workload, one.workload.subject
    counts = count(workload)
    activations = passes or activations_of(workload)
    if workload.plan.zero_stage:
        stages = zero.moments(workload, counts, activations)
    else:
        stages = plain.moments(workload, counts, activations, optimizer)
    peak_at = max(stages, key=lambda moment: stages[moment].peak)
    # One for the thread of the forward pass and one for that of the backward.
    workspace = 2 * CUBLAS_WORKSPACE if subject.device == "cuda" else 0
    tensors = stages[peak_at].peak + workspace
    found: dict[Moment, Bytes] = {**stages}
    if subject.device == "cpu":  # of `outside` a part comes only after the libraries are there
        later = -LATER - (subject.threads - 1) * THREAD // 2  # half of a thread's was there before
        found[Moment.BASE] = Bytes(later, later)
    parts = {name: size for name, size in stages[peak_at].parts.items() if size}
    parts["workspace"] = workspace
    return _Tensors(tensors, peak_at, parts, found, *host(workload, counts, activations))


def _overhead(workload: Workload, traced: Traced | None) -> int:
    """Return what the allocator of a GPU reserves beside the tensors, in bytes.

    Without a trace: a share of the largest tensor of the loss, the logits in float32, and where
    the loss is taken in pieces and the head is trained, of the head's gradient.
    """
    if workload.subject.device == "cpu":
        return 0
    plan, shape = workload.plan, workload.subject.shape
    whole_segments = not grows(plan)
    if traced:
        return traced.overhead_bytes if whole_segments else traced.overhead_expandable_bytes
    if plan.loss == "whole":
        share = LOST[whole_segments]
        return round(share * 4 * shape.vocab * workload.tokens)
    pieces, head = LOST_OF_PIECES[whole_segments]
    # Tiles lie in one buffer, of which nothing is lost.
    tokens = 0 if workload.subject.tile else min(workload.tokens, LOSS_TOKENS)
    lost = pieces * 4 * shape.vocab * tokens
    if plan.method == "full":
        lost += head * DTYPE_BYTES[plan.dtype] * shape.vocab * shape.hidden
    return round(lost)


def _doubts(workload: Workload) -> tuple[str, ...]:
    shape, plan = workload.subject.shape, workload.plan
    targets = workload.subject.lora_targets
    stacked = [one for one in shape.linears if one.stacked]
    reached = not targets or any(one.name in targets for one in stacked)
    if plan.method == "lora" and stacked and reached:
        return (*shape.doubts, STACKED)
    return shape.doubts


def _spread(
    workload: Workload, traced: Traced | None, doubts: tuple[str, ...], lost: float
) -> float:
    """Return the spread of a forecast; `lost` is the allocator's share of the tensors."""
    if workload.subject.device == "cpu":
        return DOUBTED if doubts else ON_CPU
    known = REPLAYED if traced else RESERVED
    return math.hypot(DOUBTED if doubts else known, LOST_SPREAD * lost)
