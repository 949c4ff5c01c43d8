"""Listens to DeepSpeed's engine, with a Trainer around it or with a loop of the user's own."""

from __future__ import annotations

import os
from typing import Any

from . import arming, hook, moments, state
from .wrapping import around

_stepping = False  # the call of `step` that runs updates the weights


def listen() -> None:
    """Wait for the module that holds the engine."""
    hook.when_imported("deepspeed.runtime.engine", wrap)


def wrap(module: Any) -> None:
    """Hear of every engine, and of what those do that train."""
    engine = module.DeepSpeedEngine
    around(engine, "__init__", making, made)
    around(engine, "forward", forward_begin, forward_end)
    around(engine, "backward", backward_begin, backward_end)
    around(engine, "step", step_begin, step_end)
    around(engine, "save_checkpoint", save_begin, save_end)
    around(engine, "load_checkpoint", load_begin, load_end)


def making(*_: Any, **__: Any) -> None:
    arming.sign_of_training()
    if state.trainer is None:
        moments.enter("optimizer_creation")


def made(_: Any, engine: Any, *__: Any, **___: Any) -> None:
    """An engine without an optimizer only infers, and is none that we listen to."""
    if getattr(engine, "optimizer", None) is None:
        return
    state.hold("engine", engine)
    moments.tell("engine_made", engine=engine)
    if state.trainer is None:
        moments.enter("train")
        moments.tell("steps_begin", trainer=None, engine=engine)


def trains(engine: Any) -> bool:
    return engine is state.engine and bool(engine.module.training)


def forward_begin(engine: Any, *args: Any, **kwargs: Any) -> None:
    if not trains(engine):
        if engine is state.engine and state.trainer is None and state.phase != "eval":
            moments.enter("eval")
        return
    if state.trainer is None:
        if state.phase == "eval":
            moments.enter("train")
        first = args[0] if args else None
        moments.tell("micro_begin", inputs=kwargs or first)
    state.phase = "forward"
    moments.tell("forward_begin")


def forward_end(*_: Any, **__: Any) -> None:
    """The loss may still be computed outside of the engine: it stays the forward pass."""


def backward_begin(engine: Any, *_: Any, **__: Any) -> None:
    if trains(engine):
        state.phase = "backward"
        moments.tell("backward_begin")


def backward_end(loss: Any, engine: Any, *_: Any, **__: Any) -> None:
    if trains(engine):
        state.phase = "train"
        if state.trainer is None:
            moments.tell("micro_end", loss=loss)


def step_begin(engine: Any, *_: Any, **__: Any) -> None:
    global _stepping
    _stepping = trains(engine) and ends_a_step(engine)
    if _stepping:
        state.phase = "step"
        moments.tell("engine_step_begin", engine=engine)


def step_end(_: Any, engine: Any, *__: Any, **___: Any) -> None:
    """A step that the loss scaler skipped is counted by DeepSpeed and was not applied."""
    if not (_stepping and trains(engine)):
        return
    state.phase = "train"
    moments.tell("engine_step_end", engine=engine, applied=bool(engine.was_step_applied()))
    if state.trainer is None:
        state.step = int(engine.global_steps)
        moments.tell("boundary", step=state.step, trainer=None, engine=engine)


def ends_a_step(engine: Any) -> bool:
    """Whether this call of `step` updates the weights; with accumulation left to it, each does."""
    managed = getattr(engine, "managed_gradient_accumulation", None)
    if managed is not None and not managed():
        return True
    return bool(engine.is_gradient_accumulation_boundary())


def save_begin(*_: Any, **__: Any) -> None:
    if state.trainer is None:
        moments.enter("save")
        moments.tell("save_begin")


def save_end(_: Any, engine: Any, save_dir: Any, tag: Any = None, *__: Any, **___: Any) -> None:
    if state.trainer is None:
        step = int(engine.global_steps)
        path = os.path.join(os.path.abspath(save_dir), str(tag or f"global_step{step}"))
        moments.tell("save_end", step=step, path=path)
        moments.enter("train")


def load_begin(*_: Any, **__: Any) -> None:
    moments.enter("resume")


def load_end(_: Any, engine: Any, *__: Any, **___: Any) -> None:
    if state.trainer is None:
        state.step = int(engine.global_steps)
        moments.enter("train")
