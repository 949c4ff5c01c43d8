"""Takes everything back from the host when offloading itself is what fails."""

from autotune.core.plan import Plan
from autotune.core.rung import Result, Rung, Scene


def _applies(scene: Scene) -> str | None:
    if not (scene.plan.offload_optimizer or scene.plan.offload_param):
        return "nothing is offloaded"
    return None


def _apply(scene: Scene) -> Plan:
    return scene.plan.but(offload_optimizer=False, offload_param=False)


RUNG = Rung(
    name="drop_offload",
    summary="no offload to the host",
    result=Result.SAME,
    knobs=frozenset({"offload_optimizer", "offload_param"}),
    applies=_applies,
    apply=_apply,
)
