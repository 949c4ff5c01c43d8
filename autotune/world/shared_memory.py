"""Removes what a dead training left in the machine's shared memory, which nobody else will."""

import os
import re
import stat
from pathlib import Path

from autotune.world.files import read_json

FOLDER = Path("/dev/shm")  # noqa: S108 - the place itself, not a temporary file


def sweep(prefix: str, folder: Path = FOLDER) -> list[str]:
    """Remove our own segments whose name begins with `prefix` and return their names.

    Only for a prefix that is this attempt's alone, and only when none of its processes lives.
    """
    removed: list[str] = []
    if not prefix:
        return removed
    try:
        entries = list(os.scandir(folder))
    except OSError:
        return removed
    for entry in entries:
        try:
            found = entry.stat(follow_symlinks=False)
            ours = found.st_uid == os.getuid() and stat.S_ISREG(found.st_mode)
            if entry.name.startswith(prefix) and ours:
                Path(entry.path).unlink()
                removed.append(entry.name)
        except OSError:
            continue  # gone by itself
    return removed


def prefix_of(attempt: Path) -> str:
    """Return the prefix an attempt was started with, also when another supervisor started it."""
    command = read_json(attempt / "command.json")
    prefix = command.get("shared_memory") if isinstance(command, dict) else None
    # The training may have written another one there, which would name what is not its own.
    wanted = rf"deepspeed_allreduce_buffer_{os.getuid()}_127\.0\.0\.1_\d{{1,5}}_"
    return prefix if isinstance(prefix, str) and re.fullmatch(wanted, prefix) else ""
