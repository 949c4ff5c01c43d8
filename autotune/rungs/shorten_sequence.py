"""Cuts samples to half as many tokens, which the owner must have allowed."""

from autotune.core.plan import Plan
from autotune.core.rung import Result, Rung, Scene

SHORTEST = 256  # tokens; below, more is cut from most texts than is left of them


def _applies(scene: Scene) -> str | None:
    if not scene.plan.sequence:
        return "the plan does not say how long samples are"
    if scene.around.packing:
        return "rows are packed up to the sequence: a shorter one makes other samples of them"
    if scene.plan.sequence // 2 < SHORTEST:
        return f"half of {scene.plan.sequence} tokens is less than {SHORTEST}"
    return None


def _apply(scene: Scene) -> Plan:
    return scene.plan.but(sequence=scene.plan.sequence // 2)


RUNG = Rung(
    name="shorten_sequence",
    summary="samples cut to half as many tokens",
    result=Result.CHANGED,
    knobs=frozenset({"sequence"}),
    applies=_applies,
    apply=_apply,
)
