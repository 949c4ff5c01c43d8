"""Turns a run's finished attempts into a belief about the error of its forecasts."""

from collections.abc import Iterable
from dataclasses import dataclass

from autotune.core.failure import Failure
from autotune.core.memory.belief import (
    Belief,
    after_fragmentation,
    after_oom,
    after_peak,
    after_probes,
)
from autotune.core.memory.forecast import Forecast
from autotune.core.memory.probe import Probe
from autotune.core.plan import Plan

OUR_OWN = frozenset({Failure.DEVICE_OOM, Failure.DEVICE_OOM_FRAGMENTATION})


@dataclass(frozen=True)
class Lesson:
    """What one attempt measured; bytes of one rank, the fullest."""

    plan: Plan
    forecast: Forecast  # of that plan, made without the attempt's own figures
    probes: tuple[Probe, ...] = ()  # of the moments that were completed
    oom_bytes: int | None = None  # not enough, see `bound_of`; meant as a forecast's peak is
    fragmentation_bytes: int | None = None  # reserved minus allocated at the out-of-memory
    allocated_bytes: int | None = None  # then
    ran_peak: int | None = None  # of a whole training, or of a rehearsal of its longest batch
    sequence: int | None = None  # tokens of the longest row, which the forecast is of


def bound_of(failure: Failure, available: int | None, in_evaluation: bool = False) -> int | None:
    """Return the bytes that a failed attempt proved too few for its training, or None.

    `available` is the memory the rank really had at that moment: its limit, less what neighbours
    and other ranks held. Only an out-of-memory of our own on the device proves anything, and one
    of the evaluation says nothing of the training.
    """
    if failure not in OUR_OWN or in_evaluation or not available or available <= 0:
        return None
    return available


def learn(prior: Belief, lessons: Iterable[Lesson]) -> Belief:
    """Return what is believed after `lessons`, in the order they happened.

    Completed moments count before the failure that followed them. Fragmentation is no error of
    the live bytes: it is learned for itself, before the bound is read, which contains it.
    """
    belief = prior
    for one in lessons:
        belief = after_probes(belief, one.plan, one.forecast, one.probes, one.sequence)
        if one.fragmentation_bytes is not None:
            allocated = one.allocated_bytes or one.forecast.tensors
            belief = after_fragmentation(belief, one.plan, one.fragmentation_bytes, allocated)
        if one.oom_bytes is not None:
            belief = after_oom(belief, one.plan, one.forecast, one.oom_bytes)
        if one.ran_peak is not None:
            belief = after_peak(belief, one.plan, one.forecast, one.ran_peak)
    return belief
