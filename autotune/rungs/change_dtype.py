"""Trains in another precision, which the owner must have allowed."""

from autotune.core.failure import Failure
from autotune.core.plan import Plan
from autotune.core.rung import Result, Rung, Scene

# fp32 has a kernel for everything and takes nothing away; its memory is the ladder's to answer.
# Against a loss that diverged, bf16 has the range that fp16 lacks, at the same size.


def _applies(scene: Scene) -> str | None:
    if scene.plan.dtype == "fp32":
        return "the training is in fp32 already"
    return None


def _apply(scene: Scene) -> Plan:
    plan = scene.plan
    diverged = scene.diagnosis.failure is Failure.NUMERIC_DIVERGENCE
    if diverged and plan.dtype == "fp16":
        return plan.but(dtype="bf16")
    plain = "sdpa" if plan.attention == "flash_attention_2" else plan.attention
    return plan.but(dtype="fp32", attention=plain)  # flash attention has half precision only


RUNG = Rung(
    name="change_dtype",
    summary="another precision: bf16 for an fp16 loss that diverged, else fp32",
    result=Result.CHANGED,
    knobs=frozenset({"dtype", "attention"}),
    applies=_applies,
    apply=_apply,
)
