"""Goes back from ZeRO stage 3 to 2 where stage 3 and the way weights are loaded contradict."""

from autotune.core.breaks import DEVICE_MAP
from autotune.core.plan import Plan
from autotune.core.rung import Result, Rung, Scene


def _applies(scene: Scene) -> str | None:
    if scene.plan.quantization == "none" and not scene.diagnosis.rests_on(DEVICE_MAP):
        return "no weights are 4-bit"
    if scene.plan.zero_stage != 3:
        return "parameters are not sharded, since ZeRO is below stage 3"
    if scene.plan.offload_param:
        return "only ZeRO stage 3 can offload parameters"
    return None


def _apply(scene: Scene) -> Plan:
    return scene.plan.but(zero_stage=2)


RUNG = Rung(
    name="zero_down",
    summary="ZeRO stage 2, which loads 4-bit weights and what is told its device",
    result=Result.SAME,
    knobs=frozenset({"zero_stage"}),
    applies=_applies,
    apply=_apply,
)
