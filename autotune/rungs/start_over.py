"""Sets every checkpoint aside and starts at the first step, where the owner allows it."""

from autotune.core.plan import Plan
from autotune.core.rung import Deed, Result, Rung, Scene


def _applies(scene: Scene) -> str | None:
    if not scene.checkpoints:
        return "nothing has been saved, so every attempt starts at the first step"
    return scene.clears_newest()


def _apply(scene: Scene) -> Plan:
    return scene.plan


RUNG = Rung(
    name="start_over",
    summary="from the first step, with every checkpoint set aside",
    result=Result.SAME,
    knobs=frozenset(),
    applies=_applies,
    apply=_apply,
    deed=Deed.START_OVER,
    gives_up="every step trained so far",
)
