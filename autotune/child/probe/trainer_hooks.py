"""Listens to transformers.Trainer and what inherits from it: TRL, LLaMA-Factory, axolotl, ours."""

from __future__ import annotations

import functools
import os
import weakref
from typing import Any

from . import arming, faults, hook, moments, state, stopping
from .wrapping import around, owner_of, refuse


def listen() -> None:
    """Wait for the modules that hold the Trainer, and accelerate's part in its steps."""
    hook.when_imported("transformers.trainer", wrap)
    hook.when_imported("accelerate.accelerator", wrap_accelerator)


def wrap(module: Any) -> None:
    """Hear of every Trainer once transformers' own part of its making is done."""
    around(module.Trainer, "__init__", end=lambda _, trainer, *__, **___: made(trainer, module))


def wrap_accelerator(module: Any) -> None:
    """Tell the backward pass from the forward one, where no engine does."""
    around(module.Accelerator, "backward", begin=backward_begin)
    around(module.Accelerator, "clip_grad_norm_", end=clipped)


def made(trainer: Any, module: Any) -> None:
    """Listen to this Trainer, and to what its class has made of the Trainer's methods."""
    arming.sign_of_training()
    if not state.armed():
        return
    trainer.add_callback(watch_of(module)(trainer))
    kind = type(trainer)
    around(owner_of(kind, "training_step"), "training_step", micro_begin, micro_end)
    around(owner_of(kind, "evaluate"), "evaluate", eval_begin, eval_end)
    around(owner_of(kind, "predict"), "predict", eval_begin, eval_end)
    around(owner_of(kind, "_save_checkpoint"), "_save_checkpoint", save_begin, save_end)
    wrap_train(owner_of(kind, "train"))
    moments.tell("trainer_made", trainer=trainer)


def wrap_train(owner: Any) -> None:
    """Hear when a training begins and ends, and leave the program where we ended it."""
    train = vars(owner)["train"]
    if hasattr(train, "autotune_wrapped"):
        return

    @functools.wraps(train)
    def train_and_end(trainer: Any, *args: Any, **kwargs: Any) -> Any:
        if state.trainer is not None:  # called by a child's own `train`
            return train(trainer, *args, **kwargs)
        faults.guarded(train_begin)(trainer)
        try:
            result = train(trainer, *args, **kwargs)
        except Exception as error:  # from between the methods listened to, as from the data
            refuse(error)
            raise
        finally:
            faults.guarded(train_end)()
        stopping.leave()  # raises SystemExit where the supervisor asked for a stop
        return result

    train_and_end.autotune_wrapped = True  # type: ignore[attr-defined]
    owner.train = train_and_end


def watch_of(module: Any) -> Any:
    """The callback's class, a child of the one that this version of transformers asks for."""

    class Watch(module.TrainerCallback):  # type: ignore[misc]
        """Hears of the steps; each ear is guarded, and nothing is handed back."""

        def __init__(self, trainer: Any) -> None:
            self.trainer = weakref.ref(trainer)

        def on_train_begin(self, *_: Any, **__: Any) -> None:
            faults.guarded(steps_begin)(self.trainer())

        def on_step_end(self, args: Any, its: Any, control: Any, **_: Any) -> None:
            faults.guarded(stepped)(self.trainer(), args, its, control)

        def on_train_end(self, *_: Any, **__: Any) -> None:
            state.training = False

    return Watch


def train_begin(trainer: Any) -> None:
    state.trainer = trainer
    moments.enter("optimizer_creation")


def train_end() -> None:
    state.trainer, state.training = None, False
    moments.enter("finish")
    moments.tell("train_end")


def steps_begin(trainer: Any) -> None:
    """The first step is next: the engine stands, and a checkpoint has been loaded."""
    state.training, state.step = True, int(trainer.state.global_step)
    moments.enter("train")
    moments.tell("steps_begin", trainer=trainer, engine=state.engine)


def micro_begin(_: Any, __: Any, inputs: Any, *___: Any, **____: Any) -> None:
    moments.tell("micro_begin", inputs=inputs)
    state.phase = "forward"
    moments.tell("forward_begin")


def micro_end(loss: Any, *_: Any, **__: Any) -> None:
    state.phase = "train"
    moments.tell("micro_end", loss=loss)


def backward_begin(*_: Any, **__: Any) -> None:
    if state.engine is None:  # else the engine tells of it
        state.phase = "backward"
        moments.tell("backward_begin")


def clipped(norm: Any, *_: Any, **__: Any) -> None:
    moments.tell("grad_norm", norm=norm)


def stepped(trainer: Any, args: Any, its: Any, control: Any) -> None:
    """An optimizer step is complete, on this rank; the Trainer has counted it."""
    state.step, state.phase = int(its.global_step), "train"
    moments.tell("boundary", step=state.step, trainer=trainer, engine=state.engine)
    if stopping.is_due(state.step) and state.step < its.max_steps:
        saves = getattr(args.save_strategy, "value", args.save_strategy) != "no"
        stopping.stop_here(state.step, saves)
        control.should_training_stop = True
        control.should_save = saves
        control.should_evaluate = False


def eval_begin(*_: Any, **__: Any) -> None:
    moments.enter("eval")
    moments.tell("eval_begin")


def eval_end(*_: Any, **__: Any) -> None:
    moments.enter("train" if state.training else "finish")
    moments.tell("eval_end")


def save_begin(trainer: Any, *_: Any, **__: Any) -> None:
    moments.enter("save")
    moments.tell("save_begin", **where_saved(trainer))


def save_end(_: Any, trainer: Any, *__: Any, **___: Any) -> None:
    """This rank has written its part; the checkpoint is whole when all ranks have said so."""
    moments.tell("save_end", **where_saved(trainer))
    moments.enter("train")


def where_saved(trainer: Any) -> dict[str, Any]:
    """The step that is saved, and the folder it is saved into."""
    step = int(trainer.state.global_step)
    path = os.path.join(trainer._get_output_dir(None), f"checkpoint-{step}")
    return {"step": step, "path": os.path.abspath(path)}
