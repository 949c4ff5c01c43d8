"""Trains adapters of half the rank, which the owner must have allowed."""

from autotune.core.plan import Plan
from autotune.core.rung import Result, Rung, Scene

LOWEST = 4


def _applies(scene: Scene) -> str | None:
    if scene.plan.method != "lora":
        return "the job trains no adapters"
    if not scene.plan.lora_rank:
        return "the plan does not say which rank its adapters have"
    if scene.plan.lora_rank // 2 < LOWEST:
        return f"half of rank {scene.plan.lora_rank} is less than {LOWEST}"
    if scene.checkpoints:
        return "adapters that were trained are of this rank; others would begin anew"
    return None


def _apply(scene: Scene) -> Plan:
    return scene.plan.but(lora_rank=scene.plan.lora_rank // 2)


RUNG = Rung(
    name="lower_lora_rank",
    summary="adapters of half the rank",
    result=Result.CHANGED,
    knobs=frozenset({"lora_rank"}),
    applies=_applies,
    apply=_apply,
)
