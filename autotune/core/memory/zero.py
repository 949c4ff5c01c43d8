"""What a rank allocates under ZeRO, moment by moment, whatever the stage."""

import dataclasses
from functools import lru_cache
from operator import attrgetter

from autotune.core.memory import zero2, zero3
from autotune.core.memory.activations import Activations
from autotune.core.memory.counts import Counts
from autotune.core.memory.forecast import Moment
from autotune.core.memory.plain import Stage
from autotune.core.memory.workload import Alike, Workload
from autotune.core.plan import Plan


def moments(workload: Workload, counts: Counts, activations: Activations) -> dict[Moment, Stage]:
    """Return what each moment of a training under ZeRO takes on the accelerator, in bytes.

    Raises ValueError for a stage other than 1, 2 and 3.
    """
    if workload.plan.zero_stage not in (1, 2, 3):
        stage = workload.plan.zero_stage
        raise ValueError(f"ZeRO stage {stage} shards nothing; the stages are 1, 2 and 3")
    return _moments(Alike(workload, _settings(workload.plan)), counts, activations)


# What changes neither tensors nor where they lie; candidates often differ in nothing else.
_ASIDE = ("allocator", "pinned_memory", "loader_workers", "blocking_launches", "excluded")
_settings = attrgetter(*(one.name for one in dataclasses.fields(Plan) if one.name not in _ASIDE))


@lru_cache(maxsize=2048)
def _moments(one: Alike, counts: Counts, activations: Activations) -> dict[Moment, Stage]:
    moments_of = zero3.moments if one.workload.plan.zero_stage == 3 else zero2.moments
    return moments_of(one.workload, counts, activations)
