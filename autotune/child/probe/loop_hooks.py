"""Listens to bare torch loops through the hooks that every optimizer offers; less is seen there.

Under a Trainer or an engine they only tell when the optimizer steps.
"""

from __future__ import annotations

from typing import Any

from . import arming, faults, hook, moments, state

_first: Any = None  # the optimizer whose steps are counted, by its id; a loop may have several


def listen() -> None:
    """Wait for torch's optimizers, which `import torch` has brought along."""
    hook.when_imported("torch.optim.optimizer", wrap)


def wrap(module: Any) -> None:
    """Hear of every step of every optimizer."""
    before, after = faults.guarded(step_begin), faults.guarded(step_end)
    module.register_optimizer_step_pre_hook(lambda optimizer, *_: before(optimizer))
    module.register_optimizer_step_post_hook(lambda optimizer, *_: after(optimizer))


def bare(optimizer: Any) -> bool:
    """Whether nobody else tells of this loop's steps, and this is the optimizer they go by."""
    return state.trainer is None and _first == id(optimizer)


def step_begin(optimizer: Any) -> None:
    global _first
    if state.engine is not None:  # which tells of its steps itself
        return
    arming.sign_of_training()
    state.phase = "step"
    if _first is None and state.trainer is None:
        _first = id(optimizer)
        state.hold("optimizer", optimizer)
        state.training = True
        moments.enter("train")
        moments.tell("optimizer_made", optimizer=optimizer)
        moments.tell("steps_begin", trainer=None, engine=None)
        state.phase = "step"


def step_end(optimizer: Any) -> None:
    if state.engine is not None:
        return
    state.phase = "train"
    if bare(optimizer):
        state.step += 1
        moments.tell("boundary", step=state.step, trainer=None, engine=None)
