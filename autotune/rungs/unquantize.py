"""Keeps the base weights in the training's precision where 4-bit weights contradict something."""

from autotune.core.plan import Plan
from autotune.core.rung import Result, Rung, Scene


def _applies(scene: Scene) -> str | None:
    if scene.plan.quantization == "none":
        return "no weights are 4-bit"
    return None


def _apply(scene: Scene) -> Plan:
    return scene.plan.but(quantization="none")


RUNG = Rung(
    name="unquantize",
    summary="base weights in the training's precision",
    result=Result.CHANGED,
    knobs=frozenset({"quantization"}),
    applies=_applies,
    apply=_apply,
)
