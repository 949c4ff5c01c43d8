"""Lets 4-bit layers multiply in single precision where the plan's precision has no kernel."""

from autotune.core.plan import Plan
from autotune.core.rung import Result, Rung, Scene

# bitsandbytes takes the 4-bit weights back to this precision for each product, and gives the result
# in the plan's: what lies between the 4-bit layers keeps its precision.


def _applies(scene: Scene) -> str | None:
    if scene.plan.quantization == "none":
        return "no weights are 4-bit"
    if scene.plan.four_bit_compute == "fp32" or scene.plan.dtype == "fp32":
        return "the 4-bit layers multiply in fp32 already"
    return None


def _apply(scene: Scene) -> Plan:
    return scene.plan.but(four_bit_compute="fp32")


RUNG = Rung(
    name="four_bit_compute",
    summary="4-bit layers multiply in fp32",
    result=Result.CLOSE,
    knobs=frozenset({"four_bit_compute"}),
    applies=_applies,
    apply=_apply,
)
