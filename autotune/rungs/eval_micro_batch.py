"""Evaluates one sample at a time when the evaluation, not the training, ran out of memory."""

from autotune.core.plan import Plan
from autotune.core.rung import Result, Rung, Scene


def _applies(scene: Scene) -> str | None:
    if not scene.around.has_evaluation:
        return "the job evaluates nothing"
    if scene.plan.eval_micro_batch == 1:
        return "it evaluates one sample at a time already"
    return None


def _apply(scene: Scene) -> Plan:
    return scene.plan.but(eval_micro_batch=1)


RUNG = Rung(
    name="eval_micro_batch",
    summary="evaluate one sample at a time",
    result=Result.SAME,
    knobs=frozenset({"eval_micro_batch"}),
    applies=_applies,
    apply=_apply,
)
