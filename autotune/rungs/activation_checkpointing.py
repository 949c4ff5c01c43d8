"""Recomputes activations in the backward pass instead of keeping them."""

from autotune.core.plan import Plan
from autotune.core.rung import Result, Rung, Scene


def _applies(scene: Scene) -> str | None:
    if scene.plan.activation_checkpointing:
        return "activation checkpointing is on already"
    return None


def _apply(scene: Scene) -> Plan:
    return scene.plan.but(activation_checkpointing=True)


RUNG = Rung(
    name="activation_checkpointing",
    summary="activation checkpointing",
    result=Result.SAME,
    knobs=frozenset({"activation_checkpointing"}),
    applies=_applies,
    apply=_apply,
)
