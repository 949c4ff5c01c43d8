"""Takes everything back from the host when offloading itself is what fails."""

from autotune.core.plan import Plan
from autotune.core.rung import Result, Rung, Scene


def _applies(scene: Scene) -> str | None:
    plan = scene.plan
    if not (plan.offload_optimizer or plan.offload_param or plan.activation_offload):
        return "nothing is offloaded"
    return None


def _apply(scene: Scene) -> Plan:
    return scene.plan.but(offload_optimizer=False, offload_param=False, activation_offload=False)


RUNG = Rung(
    name="drop_offload",
    summary="no offload to the host",
    result=Result.SAME,
    knobs=frozenset({"offload_optimizer", "offload_param", "activation_offload"}),
    applies=_applies,
    apply=_apply,
)
