"""Reads the samples in the rank itself, in the same order, instead of in processes of their own."""

from autotune.core.plan import Plan
from autotune.core.rung import Result, Rung, Scene


def _applies(scene: Scene) -> str | None:
    if scene.plan.loader_workers == 0:
        return "no loader workers run"
    return None


# All at once, since a step is a restart: how many a full host or a small /dev/shm bears is unknown.
def _apply(scene: Scene) -> Plan:
    return scene.plan.but(loader_workers=0)


RUNG = Rung(
    name="no_loader_workers",
    summary="samples read without worker processes",
    result=Result.SAME,
    knobs=frozenset({"loader_workers"}),
    applies=_applies,
    apply=_apply,
)
