"""Ends a Trainer's training at one step boundary on every rank, when the supervisor asks for it.

Rank 0 alone reads the supervisor's word, and writes down the step at which all end. It does so
before it takes part in that step, and no rank can complete a step without rank 0: so all the others
find it written when they come to that boundary, and none of them needs a collective of ours.
"""

from __future__ import annotations

import os
from typing import Any

from . import control, events, moments, settings, state

_decided: int | None = None  # the step at whose end this rank ends
_ended_at: int | None = None
_said = False


def listen() -> None:
    """Look for the supervisor's word whenever rank 0 begins a micro-batch."""
    if not settings.get("own_events"):  # the built-in trainer listens itself
        moments.on("micro_begin", lambda **_: decide(state.step + 1))
        moments.on("boundary", cannot)


def is_due(step: int) -> bool:
    """Whether the training ends at the boundary of `step`, which this rank has just reached."""
    if settings.get("own_events"):
        return False
    alone = world_size() == 1
    decide(step if alone else step + 1)
    due = decided()
    return due is not None and step >= due


def cannot(trainer: Any, **_: Any) -> None:
    """Say, once, that a loop of the program's own knows no way to be told to save and end."""
    global _said
    if trainer is None and not _said and control.command() == "stop":
        _said = True
        error = "a stop was asked for, and only a transformers.Trainer can be told to save and end"
        events.emit("probe_gap", where="stopping", error=error)


def decide(step: int) -> None:
    """On rank 0, if a stop is asked for, write down that it is at `step`; the first word counts."""
    if _decided is not None or state.rank() != 0 or control.command() != "stop":
        return
    draft = place() + ".draft"
    with open(draft, "w", encoding="ascii") as file:
        file.write(str(step))
    os.replace(draft, place())
    decided()


def decided() -> int | None:
    """The step that was written down, by whichever rank 0 this attempt has."""
    global _decided
    if _decided is None and os.path.exists(place()):
        with open(place(), encoding="ascii") as file:
            _decided = int(file.read())
    return _decided


def place() -> str:
    return os.path.join(state.folder or "", "stop-at")


def world_size() -> int:
    return int(os.environ.get("WORLD_SIZE", "1"))


def stop_here(step: int, saves: bool) -> None:
    """Remember that this rank's training is ended here, by us; say so where nothing is saved."""
    global _ended_at
    _ended_at = step
    if not saves:
        error = f"ended at step {step} without a checkpoint: the training asks for none"
        events.emit("probe_gap", where="stopping", error=error)


def leave() -> None:
    """After the training has saved and ended: leave the program, if it was us who ended it.

    What a script does after its training would else be done for a training that is not over.
    """
    if _ended_at is not None:
        events.emit("stopped", step=_ended_at)
        raise SystemExit(0)
