"""Writes this rank's events, one line each, in the form the built-in trainer writes them."""

import os
import sys
import time

from . import moments, settings, state

TYPE_CHECKING = False  # typing itself would be an import the program may never make
if TYPE_CHECKING:
    from typing import Any

lost = 0  # events that could not be written

_file: "int | None" = None


def listen() -> None:
    """Say who is here as soon as this process is known for a rank."""
    moments.on("armed", opened)


def opened() -> int:
    """The file of this rank; the first line in it says who is here."""
    global _file
    if _file is None:
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
        path = os.path.join(settings.get("events"), f"rank{state.rank()}.jsonl")
        _file = os.open(path, flags, 0o600)
        emit("armed", pid=os.getpid(), python=sys.version.split()[0])
    return _file


def emit(kind: str, **fields: "Any") -> None:
    """Write one event, from a rank's own process; a fault costs the event and nothing else."""
    global lost
    if not state.armed():
        return
    try:
        import json  # as imported by torch, or when something has gone wrong before that

        event = {
            "t": time.time(),
            "rank": state.rank(),
            "kind": kind,
            "attempt": settings.get("attempt"),
            **fields,
        }
        os.write(opened(), (json.dumps(event, default=str) + "\n").encode())
    except Exception:  # an event is evidence; the training is the work
        lost += 1


def report(kind: str, **fields: "Any") -> None:
    """Write an event that the built-in trainer writes itself; where it runs, nothing."""
    if not settings.get("own_events"):
        emit(kind, **fields)
