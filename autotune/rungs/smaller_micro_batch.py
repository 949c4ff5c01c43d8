"""Halves the micro-batch and raises accumulation so that the global batch stays exactly."""

from autotune.core.plan import Plan, largest_split
from autotune.core.rung import Result, Rung, Scene


def _applies(scene: Scene) -> str | None:
    if scene.plan.micro_batch == 1:
        return "the micro-batch is 1 already"
    return None


def _apply(scene: Scene) -> Plan:
    plan = scene.plan
    per_rank = plan.micro_batch * plan.accumulation
    micro = largest_split(per_rank, plan.micro_batch // 2)
    return plan.but(
        micro_batch=micro,
        accumulation=per_rank // micro,
        # An evaluation batch above the training's would be the next thing to fail.
        eval_micro_batch=min(plan.eval_micro_batch, micro),
    )


RUNG = Rung(
    name="smaller_micro_batch",
    summary="smaller micro-batch, more gradient accumulation",
    result=Result.SAME,
    knobs=frozenset({"micro_batch", "accumulation", "eval_micro_batch"}),
    applies=_applies,
    apply=_apply,
)
