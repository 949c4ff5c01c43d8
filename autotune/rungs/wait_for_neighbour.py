"""Waits until the device has room again, and starts the same plan."""

from autotune.core.plan import Plan
from autotune.core.rung import Deed, Result, Rung, Scene


def _applies(_: Scene) -> str | None:
    return None


def _apply(scene: Scene) -> Plan:
    return scene.plan


RUNG = Rung(
    name="wait_for_neighbour",
    summary="wait for the neighbour's memory, then the same plan",
    result=Result.SAME,
    knobs=frozenset(),
    applies=_applies,
    apply=_apply,
    deed=Deed.WAIT_FOR_ROOM,
)
