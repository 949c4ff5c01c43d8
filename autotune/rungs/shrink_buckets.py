"""Makes DeepSpeed's communication buckets small; each is one plain allocation of its size."""

from autotune.core.plan import Plan
from autotune.core.rung import Result, Rung, Scene

# 10 MB in bf16 where the default of 5e8 elements takes 1 GB. One step down, since a step is a
# restart, and less than twice this is not worth one.
SMALL = 5_000_000


def _applies(scene: Scene) -> str | None:
    if scene.plan.zero_stage == 0:
        return "without ZeRO there are no buckets"
    largest = max(scene.plan.reduce_bucket, scene.plan.allgather_bucket)
    if largest < 2 * SMALL:
        return f"the buckets hold {largest:,} elements already; less would relieve nothing"
    return None


def _apply(scene: Scene) -> Plan:
    return scene.plan.but(
        reduce_bucket=min(scene.plan.reduce_bucket, SMALL),
        allgather_bucket=min(scene.plan.allgather_bucket, SMALL),
    )


RUNG = Rung(
    name="shrink_buckets",
    summary="smaller ZeRO communication buckets",
    result=Result.SAME,
    knobs=frozenset({"reduce_bucket", "allgather_bucket"}),
    applies=_applies,
    apply=_apply,
)
