"""The named facts a policy's rules may ask about; the list in policies/README.md is this one."""

from collections.abc import Callable

from autotune.core.failure import Phase, Trait
from autotune.core.rung import Scene


def _in(*phases: Phase) -> Callable[[Scene], bool]:
    return lambda scene: scene.diagnosis.phase in phases


def _is(trait: Trait) -> Callable[[Scene], bool]:
    return lambda scene: trait in scene.diagnosis.traits


def _shown(*signatures: str) -> Callable[[Scene], bool]:
    """Return whether the diagnosis rests on one of these signatures."""
    return lambda scene: scene.diagnosis.rests_on(*signatures)


def _exceeds_device(scene: Scene) -> bool:
    """Return whether one request alone asks for more than there is, however empty the device."""
    figures = scene.diagnosis.figures
    room = [size for size in (figures.limit_bytes, figures.capacity_bytes) if size]
    told = Trait.REQUEST_EXCEEDS_DEVICE in scene.diagnosis.traits
    return told or (bool(room) and (figures.requested_bytes or 0) > min(room))


FACTS: dict[str, Callable[[Scene], bool]] = {
    **{trait.value: _is(trait) for trait in Trait},
    "in_evaluation": _in(Phase.EVAL),
    "in_save": _in(Phase.SAVE),
    "in_load": _in(Phase.LOAD),
    "in_optimizer_creation": _in(Phase.OPTIMIZER_CREATION),
    "in_resume": _in(Phase.RESUME),
    "in_optimizer_step": _in(Phase.STEP),
    "op_missing": _shown("offload_op_missing", "offload_optimizer_half_built"),
    "native_crash": _shown("native_crash"),
    "access_refused": _shown("hub_refused"),
    "toolkit_missing": _shown("toolkit_missing"),
    "offloading": lambda scene: (
        scene.plan.offload_optimizer or scene.plan.offload_param or scene.plan.activation_offload
    ),
    "beside_neighbour": lambda scene: scene.beside_neighbour,
    "quantized": lambda scene: scene.plan.quantization != "none",
    "in_fp16": lambda scene: scene.plan.dtype == "fp16",
    "on_gpu": lambda scene: scene.around.device == "cuda",
    "on_cpu": lambda scene: scene.around.device == "cpu",
    Trait.REQUEST_EXCEEDS_DEVICE.value: _exceeds_device,
}
