"""Empties the compiled extensions, the run's and those of our cache, and builds them anew."""

from autotune.core.plan import Plan
from autotune.core.rung import Deed, Result, Rung, Scene


def _applies(_: Scene) -> str | None:
    return None


def _apply(scene: Scene) -> Plan:
    return scene.plan


RUNG = Rung(
    name="rebuild_ops",
    summary="compiled extensions built anew",
    result=Result.SAME,
    knobs=frozenset(),
    applies=_applies,
    apply=_apply,
    deed=Deed.REBUILD_OPS,
)
