"""What a rank allocates under ZeRO, moment by moment, whatever the stage."""

from autotune.core.memory import zero2, zero3
from autotune.core.memory.activations import Activations
from autotune.core.memory.counts import Counts
from autotune.core.memory.forecast import Moment
from autotune.core.memory.plain import Stage
from autotune.core.memory.workload import Workload


def moments(workload: Workload, counts: Counts, activations: Activations) -> dict[Moment, Stage]:
    """Return what each moment of a training under ZeRO takes on the accelerator, in bytes.

    Raises ValueError for a stage other than 1, 2 and 3.
    """
    stage = workload.plan.zero_stage
    if stage not in (1, 2, 3):
        raise ValueError(f"ZeRO stage {stage} shards nothing; the stages are 1, 2 and 3")
    moments_of = zero3.moments if stage == 3 else zero2.moments
    return moments_of(workload, counts, activations)
