"""Computes the same attention without its matrix of scores: eager, then sdpa."""

from autotune.core.plan import Plan
from autotune.core.rung import Result, Rung, Scene

# Not on to flash attention: its package needs a card of compute capability 8.0, which nothing here
# knows, and on a GPU sdpa takes a kernel of the same memory by itself.


def _applies(scene: Scene) -> str | None:
    if scene.plan.attention == "given":
        return "the plan does not say how attention is computed"
    if scene.plan.attention != "eager":
        return "attention is computed without its matrix of scores already"
    return None


def _apply(scene: Scene) -> Plan:
    return scene.plan.but(attention="sdpa")


RUNG = Rung(
    name="better_attention",
    summary="attention without its matrix of scores",
    result=Result.SAME,
    knobs=frozenset({"attention"}),
    applies=_applies,
    apply=_apply,
)
