"""Lets the optimizer's moments be paged out to the host, which the owner must have allowed."""

from autotune.core.plan import Plan
from autotune.core.rung import Result, Rung, Scene

# Exact, and yet another program: it rounds otherwise than torch's AdamW and does not read its
# moments. What a checkpoint gives back is not paged, so that a resume may need more memory again.


def _applies(scene: Scene) -> str | None:
    plan = scene.plan
    if plan.optimizer.startswith("paged"):
        return "the optimizer's moments are paged already"
    if scene.around.device != "cuda":
        return "paging moves moments between a GPU and the host, and the job trains on the CPU"
    if plan.method != "full":
        return "adapters have too few moments for their size to matter"
    if plan.offload_optimizer:
        return "the optimizer is on the host already"
    if scene.checkpoints:
        return "moments that come back from a checkpoint are not paged"
    return None


def _apply(scene: Scene) -> Plan:
    eight = scene.plan.optimizer == "adamw_8bit"
    return scene.plan.but(optimizer="paged_adamw_8bit" if eight else "paged_adamw")


RUNG = Rung(
    name="paged_optimizer",
    summary="the optimizer's moments paged out to the host, until a resume",
    result=Result.CHANGED,
    knobs=frozenset({"optimizer"}),
    applies=_applies,
    apply=_apply,
)
