"""Remembers at each completed optimizer step what its checkpoint needs beside the tensors.

The tensors themselves stay as they are until the next optimizer step begins: forward and backward
change gradients, and what the random numbers and the counters remembered here stand for.
"""

from __future__ import annotations

import random
import sys
import threading
from typing import Any

from . import moments, room

# Held while a rank's state is written; the optimizer step waits for it.
gate = threading.Lock()
inside = False  # an optimizer step has begun, and its boundary was not reached
_ended = False  # that step has ended, on the way to its boundary
newest: Moment | None = None


class Moment:
    """The end of one optimizer step, as its checkpoint tells of it."""

    def __init__(self, step: int, trainer: Any, engine: Any) -> None:
        state = trainer.state
        self.step = step  # as the trainer counts
        self.engine_steps: int = engine.global_steps  # as DeepSpeed counts
        self.trainer = trainer
        self.engine = engine
        self.random = random_states(trainer)
        self.scheduler: dict[str, Any] = dict(trainer.lr_scheduler.state_dict())
        self.counters = {
            "global_step": state.global_step,
            "epoch": state.epoch,
            "num_input_tokens_seen": state.num_input_tokens_seen,
            "total_flos": state.total_flos + float(trainer.current_flos) * trainer.args.world_size,
        }
        self._done = event_on_device()

    def committed(self) -> bool:
        """Whether the device has finished the step; asks it, and waits for nothing."""
        return self._done is None or bool(self._done.query())


def listen() -> None:
    moments.on("boundary", remember)
    moments.on("engine_step_begin", step_begins)
    moments.on("engine_step_end", step_ends)
    moments.on("eval_end", draw_again)


def remember(step: int, trainer: Any, engine: Any) -> None:
    """A step is complete on this rank; without a trainer nobody could resume from it."""
    global inside, newest
    if trainer is None or engine is None:
        return
    moment = room.with_room(lambda: Moment(step, trainer, engine))
    with gate:
        newest, inside = moment, False


def step_begins(engine: Any) -> None:
    """Wait until nobody reads the state any more, then say that it is changing."""
    global inside, _ended
    if not engine.is_gradient_accumulation_boundary():
        return
    with gate:
        inside, _ended = True, False


def step_ends(**_: Any) -> None:
    """The weights are updated; schedule, counters and the program's own callbacks come next."""
    global _ended
    _ended = inside


def catch_up() -> None:
    """Take the boundary of a step that is complete but for callbacks of the program's own.

    Where one of them is refused memory, or waits for a rank that was, the boundary never comes.
    """
    last = newest
    if last is None or not (inside and _ended):
        return
    counted = last.trainer.state.global_step == last.step + 1
    if counted and last.engine.global_steps == last.engine_steps + 1:
        remember(last.step + 1, last.trainer, last.engine)


def draw_again(**_: Any) -> None:
    """An evaluation draws random numbers too, and a resumed run does not repeat it."""
    if newest is not None and not inside:
        newest.random = random_states(newest.trainer)


def committed_step() -> int | None:
    """The step whose state this rank holds whole now; None inside a step or before the first."""
    moment = newest
    return moment.step if moment is not None and not inside and moment.committed() else None


def random_states(trainer: Any) -> dict[str, Any]:
    """What transformers' `_save_rng_state` saves, for the devices that DeepSpeed trains on here."""
    torch, numpy = sys.modules["torch"], sys.modules["numpy"]
    states = {
        "python": random.getstate(),
        "numpy": numpy.random.get_state(),
        "cpu": torch.random.get_rng_state(),
    }
    if torch.cuda.is_available():
        alone = trainer.args.parallel_mode.value != "distributed"
        cuda = torch.cuda.random
        states["cuda"] = cuda.get_rng_state() if alone else cuda.get_rng_state_all()
    return states


def event_on_device() -> Any:
    """A mark behind the work queued so far; None where the device works at once."""
    torch = sys.modules["torch"]
    if not torch.cuda.is_available() or not torch.cuda.is_initialized():
        return None
    event = torch.cuda.Event()
    event.record()
    return event
