"""Marks the checkpoints of a Trainer that is not ours: where one began, and that it is whole.

Each rank leaves a file when its own part is written. The one that finds the files of all ranks says
that the checkpoint is whole, in the words of the built-in trainer; nobody waits for anybody.
"""

from __future__ import annotations

import contextlib
import json
import os
from typing import Any

from . import moments, settings, state

BEGUN = "autotune-begun.json"  # these two as world/checkpoints.py knows them
WHOLE = "autotune-complete.json"
PART = "autotune-rank{}.json"


def listen() -> None:
    """The built-in trainer marks its own."""
    if settings.get("own_events") or settings.get("rescue") is None:
        return
    moments.on("save_begin", begun)
    moments.on("save_end", written)


def begun(step: int = 0, path: str = "") -> None:
    """Before its first file: a folder that says no more than this is half a checkpoint."""
    if state.trainer is not None and state.rank() == 0:
        os.makedirs(path, exist_ok=True)
        put(os.path.join(path, BEGUN), {"step": step, "attempt": settings.get("attempt")})


def written(step: int, path: str) -> None:
    """This rank's part is there; once all are, the checkpoint is whole."""
    if state.trainer is None:  # a loop of the program's own lays out its saves as it likes
        return
    ranks = int(os.environ.get("WORLD_SIZE", "1"))
    put(os.path.join(path, PART.format(state.rank())), {"step": step})
    parts = [os.path.join(path, PART.format(rank)) for rank in range(ranks)]
    if not all(os.path.exists(part) for part in parts):
        return
    told = {"step": step, "attempt": settings.get("attempt"), "world_size": ranks}
    put(os.path.join(path, WHOLE), {**told, "plain": state.engine is None})
    for name in (*parts, os.path.join(path, BEGUN)):
        with contextlib.suppress(FileNotFoundError):  # another rank was first
            os.remove(name)


def put(path: str, told: dict[str, Any]) -> None:
    """Put the file there whole or not at all."""
    draft = f"{path}.{state.rank()}.draft"
    with open(draft, "w", encoding="utf-8") as file:
        json.dump(told, file)
        file.flush()
        os.fsync(file.fileno())
    os.replace(draft, path)
