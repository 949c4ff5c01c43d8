"""Reads the small text files in which the kernel shows its counters, and single numbers of them."""

import contextlib
import os
from pathlib import Path

_ENOUGH = 4096  # bytes; nearly every such file is read at once


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


def read(path: str) -> bytes:
    """Return what a small file of /proc holds; raises OSError.

    A look at a training reads one for each of its threads, and pathlib takes five times as long.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        held = os.read(descriptor, _ENOUGH)
        while part := os.read(descriptor, _ENOUGH) if held else b"":
            held += part
    finally:
        os.close(descriptor)
    return held
