"""Lets the CUDA allocator grow its segments instead of leaving gaps between them."""

from autotune.core.allocator import merge
from autotune.core.plan import Plan
from autotune.core.rung import Result, Rung, Scene

# Tried in order; each relieves fragmentation and nothing else.
STEPS = (("expandable_segments", "True"), ("garbage_collection_threshold", "0.8"))


def _next(plan: Plan) -> tuple[str, str] | None:
    held = dict(plan.allocator)
    return next(((key, value) for key, value in STEPS if key not in held), None)


def _applies(scene: Scene) -> str | None:
    if scene.around.device != "cuda":
        return "these settings belong to the CUDA allocator, and the job trains on the CPU"
    if scene.around.platform in ("wsl", "tegra"):
        return f"expandable segments do not work on {scene.around.platform}"
    if _next(scene.plan) is None:
        return "the allocator settings are in force already"
    return None


def _apply(scene: Scene) -> Plan:
    step = _next(scene.plan)
    return scene.plan.but(allocator=merge(scene.plan.allocator, (step,) if step else ()))


RUNG = Rung(
    name="allocator_settings",
    summary="allocator settings against fragmentation",
    result=Result.SAME,
    knobs=frozenset({"allocator"}),
    applies=_applies,
    apply=_apply,
)
