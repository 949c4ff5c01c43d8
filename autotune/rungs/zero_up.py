"""Shards one thing more over the ranks: gradients at ZeRO stage 2, parameters at stage 3."""

from autotune.core.plan import Plan
from autotune.core.rung import Result, Rung, Scene


def _applies(scene: Scene) -> str | None:
    if scene.plan.zero_stage == 3:
        return "ZeRO is at stage 3 already"
    if scene.plan.world_size == 1:
        return "one rank has nobody to share with; a higher ZeRO stage would only cost it memory"
    return None


def _apply(scene: Scene) -> Plan:
    return scene.plan.but(zero_stage=scene.plan.zero_stage + 1)


RUNG = Rung(
    name="zero_up",
    summary="the next ZeRO stage",
    result=Result.SAME,
    knobs=frozenset({"zero_stage"}),
    applies=_applies,
    apply=_apply,
)
