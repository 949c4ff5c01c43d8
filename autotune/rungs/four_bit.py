"""Keeps the frozen base weights of an adapter in 4-bit NF4."""

from autotune.core.plan import Plan
from autotune.core.rung import Result, Rung, Scene


def _applies(scene: Scene) -> str | None:
    if scene.plan.method != "lora":
        return "4-bit weights cannot be trained; only a frozen base under adapters can be 4-bit"
    if scene.plan.quantization != "none":
        return "the base is 4-bit already"
    return None


def _apply(scene: Scene) -> Plan:
    return scene.plan.but(quantization="nf4")


RUNG = Rung(
    name="four_bit",
    summary="4-bit NF4 base weights under the adapters",
    result=Result.CLOSE,
    knobs=frozenset({"quantization"}),
    applies=_applies,
    apply=_apply,
)
