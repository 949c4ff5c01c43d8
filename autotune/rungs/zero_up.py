"""Shards one thing more over the ranks: gradients at ZeRO stage 2, parameters at stage 3."""

from autotune.core.plan import Plan
from autotune.core.rung import Result, Rung, Scene

# One rank has nobody to share with. Stage 3 steps its optimizer piece by piece all the same, and
# no other stage lets weights lie on a GPU's host; stage 2 would give it nothing.


def _applies(scene: Scene) -> str | None:
    plan = scene.plan
    if plan.zero_stage == 3:
        return "ZeRO is at stage 3 already"
    if plan.world_size == 1 and (plan.zero_stage == 0 or scene.around.device == "cpu"):
        return "one rank has nobody to share with; a higher ZeRO stage would only cost it memory"
    return None


def _apply(scene: Scene) -> Plan:
    plan = scene.plan
    return plan.but(zero_stage=plan.zero_stage + 1 if plan.world_size > 1 else 3)


RUNG = Rung(
    name="zero_up",
    summary="the next ZeRO stage",
    result=Result.SAME,
    knobs=frozenset({"zero_stage"}),
    applies=_applies,
    apply=_apply,
)
