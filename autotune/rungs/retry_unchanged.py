"""Starts the same plan again, for what passes by itself."""

from autotune.core.plan import Plan
from autotune.core.rung import Result, Rung, Scene


def _applies(_: Scene) -> str | None:
    return None


def _apply(scene: Scene) -> Plan:
    return scene.plan


RUNG = Rung(
    name="retry_unchanged",
    summary="the same plan again, from the newest checkpoint",
    result=Result.SAME,
    knobs=frozenset(),
    applies=_applies,
    apply=_apply,
)
