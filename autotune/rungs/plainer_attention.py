"""Computes the same attention by a plainer implementation: flash, then sdpa, then eager."""

from autotune.core.plan import Attention, Plan
from autotune.core.rung import Result, Rung, Scene

_NEXT: dict[Attention, Attention] = {"flash_attention_2": "sdpa", "sdpa": "eager"}


def _applies(scene: Scene) -> str | None:
    if scene.plan.attention == "given":
        return "the plan does not say how attention is computed"
    if scene.plan.attention not in _NEXT:
        return "attention is computed in the plainest way already"
    return None


def _apply(scene: Scene) -> Plan:
    return scene.plan.but(attention=_NEXT[scene.plan.attention])


RUNG = Rung(
    name="plainer_attention",
    summary="a plainer attention implementation",
    result=Result.SAME,
    knobs=frozenset({"attention"}),
    applies=_applies,
    apply=_apply,
)
