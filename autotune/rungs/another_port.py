"""Starts the same plan again; every launch draws a port that no attempt of the run has had."""

from autotune.core.plan import Plan
from autotune.core.rung import Result, Rung, Scene


def _applies(_: Scene) -> str | None:
    return None


def _apply(scene: Scene) -> Plan:
    return scene.plan


RUNG = Rung(
    name="another_port",
    summary="the same plan on another port",
    result=Result.SAME,
    knobs=frozenset(),
    applies=_applies,
    apply=_apply,
)
