"""The named facts a policy's rules may ask about; the list in policies/README.md is this one."""

from collections.abc import Callable

from autotune.core.failure import Phase, Trait
from autotune.core.rung import Scene


def _in(*phases: Phase) -> Callable[[Scene], bool]:
    return lambda scene: scene.diagnosis.phase in phases


def _is(trait: Trait) -> Callable[[Scene], bool]:
    return lambda scene: trait in scene.diagnosis.traits


FACTS: dict[str, Callable[[Scene], bool]] = {
    **{trait.value: _is(trait) for trait in Trait},
    "in_evaluation": _in(Phase.EVAL),
    "in_save": _in(Phase.SAVE),
    "in_load": _in(Phase.LOAD),
    "in_optimizer_creation": _in(Phase.OPTIMIZER_CREATION),
    "in_resume": _in(Phase.RESUME),
    "in_optimizer_step": _in(Phase.STEP),
    "offloading": lambda scene: scene.plan.offload_optimizer or scene.plan.offload_param,
    "quantized": lambda scene: scene.plan.quantization != "none",
    "on_gpu": lambda scene: scene.around.device == "cuda",
    "on_cpu": lambda scene: scene.around.device == "cpu",
}
