"""The bus between the parts of the probe: who listens to which moment of the training.

The moments, in the order of a run: armed() · trainer_made(trainer) · engine_made(engine) ·
optimizer_made(optimizer) · steps_begin(trainer, engine) · micro_begin(inputs) · forward_begin() ·
backward_begin() · micro_end(loss) · grad_norm(norm) · engine_step_begin(engine) ·
engine_step_end(engine, applied) · boundary(step, trainer, engine), an optimizer step is complete ·
eval_begin() · eval_end() · save_begin([step, path]) · save_end(step, path) ·
refused(error, phase), an exception leaves a part of the training · train_end() · ending(error).
Also phase(name), with each coarse phase. The built-in trainer's rehearsal passes through the engine
before steps_begin, and has no boundary.
"""

from . import faults, state

TYPE_CHECKING = False  # typing itself would be an import the program may never make
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

_listeners: "dict[str, list[Callable[..., Any]]]" = {}


def on(name: str, function: "Callable[..., Any]") -> None:
    """Call `function` with what is told of this moment, after those who asked before."""
    _listeners.setdefault(name, []).append(faults.guarded(function))


def enter(phase: str) -> None:
    """Enter a coarse phase; the fine ones inside a step only set `state.phase`."""
    state.phase = phase
    tell("phase", name=phase)


def tell(name: str, /, **objects: "Any") -> None:
    """Let everybody hear who listens; nothing comes back, and nothing is raised."""
    if state.armed():
        for listener in _listeners.get(name, ()):
            try:
                listener(**objects)
            except Exception:  # its guard was refused memory itself; the next may need none
                faults.count += 1
