"""Moves the optimizer's state and step to the host."""

from autotune.core.plan import Plan
from autotune.core.rung import Result, Rung, Scene


def _applies(scene: Scene) -> str | None:
    if scene.plan.offload_optimizer:
        return "the optimizer is on the host already"
    if scene.around.device == "cpu":
        return "the job trains on the host's memory already; offloading would relieve nothing"
    return None


def _apply(scene: Scene) -> Plan:
    return scene.plan.but(offload_optimizer=True)


RUNG = Rung(
    name="offload_optimizer",
    summary="optimizer state on the host",
    result=Result.SAME,
    knobs=frozenset({"offload_optimizer"}),
    applies=_applies,
    apply=_apply,
)
