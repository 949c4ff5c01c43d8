"""Keeps the optimizer's moments in 8 bits, which the owner must have allowed."""

from autotune.core.plan import Plan
from autotune.core.rung import Result, Rung, Scene


def _applies(scene: Scene) -> str | None:
    plan = scene.plan
    if plan.optimizer in ("adamw_8bit", "paged_adamw_8bit"):
        return "the optimizer's moments are in 8 bits already"
    if plan.method != "full":
        return "adapters have too few moments for their size to matter"
    if plan.offload_optimizer:
        return "the optimizer is on the host, where only torch's own can step"
    return None


def _apply(scene: Scene) -> Plan:
    paged = scene.plan.optimizer == "paged_adamw"
    return scene.plan.but(optimizer="paged_adamw_8bit" if paged else "adamw_8bit")


RUNG = Rung(
    name="eight_bit_optimizer",
    summary="the optimizer's moments in 8 bits",
    result=Result.CHANGED,
    knobs=frozenset({"optimizer"}),
    applies=_applies,
    apply=_apply,
)
