"""Saves the last completed step when memory is refused: holds the rank's exit until it is saved.

The rank that was refused memory holds, because a launcher ends all ranks at the first exit. The
supervisor then tells every rank to save, and each writes its own part (`shards`) from its watching
thread. When the supervisor has published the whole, or has not been heard of for too long, the rank
goes on dying as it would have without us.
"""

from __future__ import annotations

import gc
import json
import os
import sys
import threading
import time
import traceback
from typing import Any

from . import boundary, events, faults, moments, room, settings, shards, state, watcher

WAIT_SECONDS = 0.05

_released = threading.Event()
_prepared: list[bool] = []
_stream: Any = None
_answered = 0  # id of the newest order to save that was answered


def listen() -> None:
    if settings.get("rescue") is None:
        return
    boundary.listen()
    watcher.listen()
    watcher.when_told("save", save)
    for command in ("release", "end"):
        watcher.when_told(command, release)
    moments.on("engine_made", prepare)


def prepare(**_: Any) -> None:
    """Listen after all others, and make the stream that tensors are read on, in good time."""
    global _stream
    if _prepared:
        return
    _prepared.append(True)
    moments.on("refused", refused)
    torch = sys.modules["torch"]
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        _stream = torch.cuda.Stream()


def refused(error: BaseException, phase: str) -> None:
    """An exception leaves forward, backward, step, evaluation or save: hold it, if that helps."""
    if not room.is_refusal(error):
        return
    why = why_not()  # first: it may find one step more
    step = None if boundary.newest is None else boundary.newest.step
    began = time.perf_counter()
    if why is None:
        let_go(error)  # first: telling needs room too
    events.emit("holds", step=step, phase=phase, why=why)
    if why is None:
        hold()
        faults.seconds -= time.perf_counter() - began  # this costs a training nothing any more


def why_not() -> str | None:
    """The sentence why nothing can be saved here; None where it can."""
    faults.guarded(boundary.catch_up)()
    moment = boundary.newest
    if moment is None:
        return "no optimizer step was completed in this attempt"
    if boundary.inside:
        return "the optimizer step had begun, so weights and moments may be half updated"
    try:
        shards.check(moment.engine)
    except shards.CannotSave as cannot:
        return str(cannot)
    except Exception as error:
        return f"whether it can be saved could not be found out ({type(error).__name__}: {error})"
    return None


def let_go(error: BaseException) -> None:
    """Free what only the frames of the failed call still hold; its lines stay readable."""
    seen: set[int] = set()
    chain: BaseException | None = error
    while chain is not None and id(chain) not in seen:
        seen.add(id(chain))
        traceback.clear_frames(chain.__traceback__)
        chain = chain.__cause__ or chain.__context__
    gc.collect()


def hold() -> None:
    """Return when the supervisor says so, or has not been heard of for `rescue.seconds`."""
    began, patience = time.monotonic(), float(settings.get("rescue")["seconds"])
    while not _released.wait(WAIT_SECONDS):
        silent = time.monotonic() - max(began, watcher.heard)
        if silent > patience and not watcher.answering:
            return


def release(_: dict[str, Any]) -> None:
    _released.set()


def save(word: dict[str, Any]) -> None:
    """Write this rank's part of the step that is asked for, then the file that vouches for it."""
    global _answered
    order, step = int(word["id"]), int(word["step"])
    if order <= _answered:
        return
    _answered = order
    room.lift()
    given = settings.get("rescue")
    began = time.monotonic()
    told: dict[str, Any] = {"id": order, "step": step, "rank": state.rank()}
    try:
        until = began + float(given["seconds"])
        # A rank may still be on its last lines of the step; the device may still work on it.
        while boundary.committed_step() != step and time.monotonic() < until:
            time.sleep(WAIT_SECONDS)
            boundary.catch_up()
        with boundary.gate:
            moment = boundary.newest
            if moment is None or boundary.committed_step() != step:
                at = boundary.committed_step()
                where = "inside an optimizer step" if at is None else f"at step {at}"
                raise shards.CannotSave(f"this rank is {where}")
            shards.check(moment.engine)
            folder = os.path.join(given["folder"], f"checkpoint-{step}")
            told["files"] = shards.write(folder, moment, _stream)
            told["world_size"] = moment.trainer.args.world_size
            told["zero_stage"] = int(moment.engine.zero_optimization_stage())
    except Exception as error:
        told["why"] = f"{type(error).__name__}: {error}"[:500]
    vouch(os.path.join(given["folder"], f"rank{told['rank']}.json"), told)
    told.pop("files", None)
    events.emit("rescue", seconds=round(time.monotonic() - began, 3), **told)


def vouch(path: str, told: dict[str, Any]) -> None:
    """Put the file there whole or not at all."""
    os.makedirs(os.path.dirname(path), exist_ok=True)
    draft = path + ".draft"
    with open(draft, "w", encoding="utf-8") as file:
        json.dump(told, file)
        file.flush()
        os.fsync(file.fileno())
    os.replace(draft, path)
