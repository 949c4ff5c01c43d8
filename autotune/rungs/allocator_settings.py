"""Lets the CUDA allocator grow its segments instead of leaving gaps between them."""

from autotune.core.allocator import merge
from autotune.core.plan import Plan
from autotune.core.rung import Result, Rung, Scene

# It relieves fragmentation and nothing else. A garbage collection threshold would be the next
# thing to try, and torch obeys it only under a memory fraction.
SETTING = ("expandable_segments", "True")


def _applies(scene: Scene) -> str | None:
    if scene.around.device != "cuda":
        return "these settings belong to the CUDA allocator, and the job trains on the CPU"
    if scene.around.platform in ("wsl", "tegra"):
        return f"expandable segments do not work on {scene.around.platform}"
    if SETTING[0] in dict(scene.plan.allocator):
        return f"{SETTING[0]} is set already"
    return None


def _apply(scene: Scene) -> Plan:
    return scene.plan.but(allocator=merge(scene.plan.allocator, (SETTING,)))


RUNG = Rung(
    name="allocator_settings",
    summary="allocator settings against fragmentation",
    result=Result.SAME,
    knobs=frozenset({"allocator"}),
    applies=_applies,
    apply=_apply,
)
