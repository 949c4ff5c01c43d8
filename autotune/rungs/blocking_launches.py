"""Waits for every CUDA kernel, so that the next illegal access names the line that made it."""

from autotune.core.plan import Plan
from autotune.core.rung import Result, Rung, Scene


def _applies(scene: Scene) -> str | None:
    if scene.around.device != "cuda":
        return "the job trains on the CPU, where nothing is launched"
    if scene.plan.blocking_launches:
        return "launches are waited for already, so the traceback names the operation"
    return None


def _apply(scene: Scene) -> Plan:
    return scene.plan.but(blocking_launches=True)


RUNG = Rung(
    name="blocking_launches",
    summary="CUDA launches that block, to find the operation",
    result=Result.SAME,
    knobs=frozenset({"blocking_launches"}),
    applies=_applies,
    apply=_apply,
)
