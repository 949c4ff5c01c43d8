"""Sets the newest checkpoint aside and goes on from the one before it."""

from autotune.core.plan import Plan
from autotune.core.rung import Deed, Result, Rung, Scene


def _applies(scene: Scene) -> str | None:
    held = scene.checkpoints
    if not held:
        return "nothing has been saved yet"
    not_to_blame = scene.clears_newest()
    if not_to_blame:
        return not_to_blame
    if len(held) == 1:
        return f"no whole checkpoint before the one of step {held[0]} is left"
    return None


def _apply(scene: Scene) -> Plan:
    return scene.plan


RUNG = Rung(
    name="previous_checkpoint",
    summary="the checkpoint before the newest, which is set aside",
    result=Result.SAME,
    knobs=frozenset(),
    applies=_applies,
    apply=_apply,
    deed=Deed.SET_ASIDE,
)
