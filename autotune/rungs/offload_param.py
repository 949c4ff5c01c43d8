"""Keeps parameters on the host and brings each layer to the device when it is needed."""

from autotune.core.plan import Plan
from autotune.core.rung import Result, Rung, Scene


def _applies(scene: Scene) -> str | None:
    if scene.plan.offload_param:
        return "the parameters are on the host already"
    if scene.around.device == "cpu":
        return "the job trains on the host's memory already; offloading would relieve nothing"
    if scene.plan.zero_stage != 3:
        return "only ZeRO stage 3 can offload parameters"
    return None


def _apply(scene: Scene) -> Plan:
    return scene.plan.but(offload_param=True)


RUNG = Rung(
    name="offload_param",
    summary="parameters on the host",
    result=Result.SAME,
    knobs=frozenset({"offload_param"}),
    applies=_applies,
    apply=_apply,
)
