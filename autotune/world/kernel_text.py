"""Reads single numbers out of the small text files in which the kernel shows its counters."""

import contextlib
from pathlib import Path


def number(path: Path) -> int | None:
    """Return the number a file holds; None where it cannot be read or holds none."""
    with contextlib.suppress(OSError, ValueError):
        return int(path.read_text())
    return None


def keyed(path: Path, wanted: str) -> int | None:
    """Return the number behind a word at the beginning of a line; None where there is none."""
    with contextlib.suppress(OSError, ValueError):
        for line in path.read_text().splitlines():
            key, _, value = line.partition(" ")
            if key == wanted:
                return int(value)
    return None
