"""Lets the host's memory be swapped, which costs speed of copies and frees what was pinned."""

from autotune.core.plan import Plan
from autotune.core.rung import Result, Rung, Scene


def _applies(scene: Scene) -> str | None:
    if not scene.plan.pinned_memory:
        return "no host memory is pinned"
    return None


def _apply(scene: Scene) -> Plan:
    return scene.plan.but(pinned_memory=False)


RUNG = Rung(
    name="unpinned_memory",
    summary="no pinned host memory",
    result=Result.SAME,
    knobs=frozenset({"pinned_memory"}),
    applies=_applies,
    apply=_apply,
)
