"""Saves ZeRO-3 shards as they are, since gathering whole weights needs room for all of them."""

from autotune.core.plan import Plan
from autotune.core.rung import Result, Rung, Scene


def _applies(scene: Scene) -> str | None:
    if scene.plan.zero_stage != 3:
        return "only ZeRO stage 3 gathers weights to save them"
    if not scene.plan.gather_on_save:
        return "nothing is gathered to save already"
    return None


def _apply(scene: Scene) -> Plan:
    return scene.plan.but(gather_on_save=False)


RUNG = Rung(
    name="save_without_gather",
    summary="save shards without gathering the weights",
    result=Result.SAME,
    knobs=frozenset({"gather_on_save"}),
    applies=_applies,
    apply=_apply,
)
