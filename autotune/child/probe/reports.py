"""Turns the moments of a training into events: phases, settings, steps, saves and refusals."""

from __future__ import annotations

import math
import os
import time
from typing import Any

from . import events, faults, figures, fingerprint, in_force, last_words, moments, settings, state


class Step:
    """What an optimizer step adds up to on this rank, while it goes on."""

    def __init__(self) -> None:
        self.began: float | None = None
        self.micros = 0
        self.loss: Any = None
        self.norm: Any = None
        self.prints: Any = None
        self.tokens: Any = None
        self.rows = 0
        self.widest = 0


current = Step()
_told: dict[str, Any] = {}  # the settings as last reported
_steps = 0
_counted = 0  # steps whose cost was reported


def listen() -> None:
    """Report what the built-in trainer does not report itself."""
    moments.on("refused", refused)
    moments.on("boundary", count)
    moments.on("train_end", cost)
    moments.on("ending", cost)
    if settings.get("own_events"):
        return
    moments.on("phase", lambda name: events.emit("phase", phase=name, memory=figures.memory()))
    moments.on("phase", bare)
    moments.on("steps_begin", steps_begin)
    moments.on("micro_begin", micro_begin)
    moments.on("micro_end", micro_end)
    moments.on("grad_norm", grad_norm)
    moments.on("boundary", boundary)
    moments.on("save_end", save_end)


def bare(name: str) -> None:
    """Once, where all memory is the process's own: what it takes without its model.

    What tools import differs by more than a gigabyte, and nobody can tell beforehand.
    """
    model = getattr(state.trainer, "model", None)
    if name != "optimizer_creation" or model is None or _told.get("bare"):
        return
    _told["bare"] = True
    whole = figures.of_process().get("VmData:")
    if whole is None or figures.cuda_in_use() is not None:
        return
    tensors = (*model.parameters(), *model.buffers())
    if any(hasattr(one, "ds_id") for one in tensors):
        return  # sharded as it was made: a tensor does not know what lies here of it
    held = whole - sum(one.numel() * one.element_size() for one in tensors)
    if held > 0:
        events.emit("probe", moment="base", peak_bytes=held, held_bytes=held)


def steps_begin(trainer: Any, engine: Any) -> None:
    global current
    current = Step()
    tell_settings(trainer, engine)


def micro_begin(inputs: Any) -> None:
    if current.micros == 0 and current.loss is None:
        current.began = time.monotonic()
    current.micros += 1
    found = fingerprint.of_rows(inputs)
    if found is None:
        return
    prints, tokens, rows, width = found
    current.prints = prints if current.prints is None else current.prints + prints
    current.tokens = tokens if current.tokens is None else current.tokens + tokens
    current.rows += rows
    current.widest = max(current.widest, width)
    if not _told.get("seen"):
        _told["seen"] = True
        if _told.get("micro_batch") != rows:
            tell_settings(state.trainer, state.engine, micro_batch=rows)


def micro_end(loss: Any) -> None:
    """Of this rank alone; a Trainer and an engine have divided it by the accumulation."""
    if hasattr(loss, "detach"):
        loss = loss.detach()
        current.loss = loss if current.loss is None else current.loss + loss


def grad_norm(norm: Any) -> None:
    current.norm = norm


def boundary(step: int, trainer: Any, engine: Any) -> None:
    global current
    done, current = current, Step()
    if done.micros and _told.get("accumulation") not in (None, done.micros) and _steps == 1:
        tell_settings(trainer, engine, accumulation=done.micros)
    events.emit(
        "step",
        step=step,
        total=None if trainer is None else int(trainer.state.max_steps),
        epoch=None if trainer is None else trainer.state.epoch,
        loss=number(done.loss),
        lr=learning_rate(trainer, engine),
        grad_norm=number(norm_of(done, engine)),
        seconds=None if done.began is None else time.monotonic() - done.began,
        micros=done.micros or None,
        rows=done.rows or None,
        tokens=None if done.tokens is None else int(done.tokens),
        fingerprint=None if done.prints is None else fingerprint.shown(int(done.prints)),
        max_length=done.widest or None,
        skipped_steps=getattr(engine, "skipped_steps", None),
        memory=figures.memory(),
    )
    if engine is None and trainer is None:
        current.began = time.monotonic()


def norm_of(done: Step, engine: Any) -> Any:
    return done.norm if engine is None else engine.get_global_grad_norm()


def learning_rate(trainer: Any, engine: Any) -> float | None:
    """The rate the schedule has reached, as a Trainer logs it."""
    if trainer is not None:
        return float(trainer._get_learning_rate())
    optimizer = state.optimizer if engine is None else getattr(engine, "optimizer", None)
    groups = getattr(optimizer, "param_groups", None)
    return None if not groups else float(groups[0]["lr"])


def number(value: Any) -> float | str | None:
    """A number JSON can hold; float() reads "nan" and "inf" back."""
    if value is None:
        return None
    plain = float(value)
    return plain if math.isfinite(plain) else str(plain)


def tell_settings(trainer: Any, engine: Any, **seen: Any) -> None:
    """Report what is in force; `seen` are figures that the first step showed to be otherwise."""
    found = {**in_force.settings(trainer, engine), **seen}
    _told.update(found)
    events.emit("settings", **found)


def save_end(step: int, path: str) -> None:
    """This rank's part is written; the supervisor waits for the others' before it counts."""
    events.emit("checkpoint", step=step, path=path, world_size=world_size())


def world_size() -> int:
    return int(os.environ.get("WORLD_SIZE", "1"))


def refused(error: BaseException, phase: str) -> None:
    """An exception left a part of the training; the program may still catch it and go on."""
    events.emit(
        "refused", phase=phase, step=state.step, memory=figures.memory(), **last_words.of(error)
    )


def count(**_: Any) -> None:
    global _steps
    _steps += 1


def cost(**_: Any) -> None:
    """What the probe's hooks took of this training's time, and how many faults they met."""
    global _counted
    if _steps > _counted:
        _counted = _steps
        spent = round(faults.seconds, 6)
        swallowed = {"faults": faults.count, "lost_events": events.lost}
        events.emit("probe_cost", seconds=spent, steps=_steps, **swallowed)
