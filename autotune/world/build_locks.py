"""Locks of builds of extensions, in torch's own cache and in ours; they are looked at alone."""

import contextlib
import os
import time
from collections.abc import Iterable
from pathlib import Path

import psutil

from autotune.core.doctor.facts import BuildLock, Builds
from autotune.world.work import compiles

MOST_LOCKS = 64


def torch_cache() -> Path:
    """Return where torch builds extensions of trainings that autotune did not start."""
    named = os.environ.get("TORCH_EXTENSIONS_DIR")
    if named:
        return Path(named)
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "torch_extensions"


def look_at_builds(ours: Iterable[Path], shared: Path | None = None) -> Builds:
    """Return the locks below `ours` and torch's cache, and what ours hold built."""
    ours = tuple(ours)
    locks = [
        lock
        for folder, mine in (*((one, True) for one in ours), (shared or torch_cache(), False))
        for lock in _locks(folder, mine)
    ]
    kept = sorted({built.parent.name for folder in ours for built in _glob(folder, "*/*.so")})
    return Builds(tuple(locks[:MOST_LOCKS]), _compilers(), tuple(kept))


def _locks(folder: Path, ours: bool) -> Iterable[BuildLock]:
    # torch makes a folder for each Python and CUDA between its cache and the op.
    for depth in ("*/lock", "*/*/lock"):
        for path in _glob(folder, depth):
            with contextlib.suppress(OSError):
                age = max(0.0, time.time() - path.lstat().st_mtime)
                yield BuildLock(str(path), round(age, 1), ours)


def _glob(folder: Path, pattern: str) -> list[Path]:
    try:
        return sorted(folder.glob(pattern))[:MOST_LOCKS]
    except OSError:
        return []


def _compilers() -> int:
    """How many compilers of this user run now."""
    count = 0
    for process in psutil.process_iter(["name", "uids"]):
        uids = process.info["uids"]
        count += bool(uids and uids.real == os.getuid() and compiles(process.info["name"] or ""))
    return count
