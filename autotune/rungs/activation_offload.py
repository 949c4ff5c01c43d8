"""Lets what checkpointed blocks keep for the backward pass wait in host memory."""

from autotune.core.plan import Plan
from autotune.core.rung import Result, Rung, Scene


def _applies(scene: Scene) -> str | None:
    if scene.plan.activation_offload:
        return "activations wait on the host already"
    if scene.around.device == "cpu":
        return "the job trains on the host's memory already; offloading would relieve nothing"
    if not scene.plan.activation_checkpointing:
        return "without activation checkpointing too much would have to travel to the host"
    return None


def _apply(scene: Scene) -> Plan:
    return scene.plan.but(activation_offload=True)


RUNG = Rung(
    name="activation_offload",
    summary="checkpointed activations on the host",
    result=Result.SAME,
    knobs=frozenset({"activation_offload"}),
    applies=_applies,
    apply=_apply,
)
