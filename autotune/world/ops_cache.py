"""Keeps DeepSpeed's compiled extensions between runs, and a run's own copy free of stale locks.

A build that is killed leaves a lock file for which every later start waits for ever, in silence.
So each run builds in a folder of its own, where a lock may be removed while no child lives.
"""

import contextlib
import hashlib
import os
import shutil
from collections.abc import Mapping
from pathlib import Path

from autotune.world.files import is_plain, is_real_folder


def cache_folder(versions: Mapping[str, str], python: str) -> Path:
    """Return where builds of these versions are kept for the next run of this user.

    Ninja builds anew what another environment built, whose sources lie elsewhere; so each Python
    keeps its own.
    """
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    key = "-".join(f"{name}{versions.get(name, '')}" for name in ("torch", "deepspeed"))
    place = hashlib.sha256(python.encode()).hexdigest()[:8]
    return base / "autotune" / "ops" / f"{key}-{place}"


def warm(ops: Path, cache: Path) -> None:
    """Copy finished builds from the cache into a run's folder; a cold start is no fault."""
    for built in cache.glob("*/*.so"):
        target = ops / built.parent.name
        if not target.exists():
            try:
                # Times are kept: ninja rebuilds what looks older than its sources.
                shutil.copytree(built.parent, target, ignore=shutil.ignore_patterns("lock"))
            except OSError:  # another run may be emptying the cache
                shutil.rmtree(target, ignore_errors=True)


def forget(ops: Path, cache: Path) -> None:
    """Empty a run's own folder and the cache of these versions, so that all is compiled anew.

    Only while no child of the run lives; what other runs hold are copies of their own.
    """
    for folder in (ops, cache):
        shutil.rmtree(folder, ignore_errors=True)


def clear_locks(ops: Path) -> list[str]:
    """Remove lock files from a run's own folder; only while no child of the run lives."""
    removed = []
    for lock in ops.glob("*/lock"):
        if not is_real_folder(lock.parent) or not is_real_folder(ops):
            continue  # a link leads to somebody else's
        with contextlib.suppress(OSError):
            lock.unlink()
            removed.append(lock.parent.name)
    return removed


def keep(ops: Path, cache: Path) -> None:
    """Copy a run's finished builds into the cache, whole or not at all.

    A build that is newer than the one there takes its place: ninja made it anew because the sources
    had changed, as in an environment that was installed again, and would in every run to come.
    """
    for built in ops.glob("*/*.so"):
        target = cache / built.parent.name
        with contextlib.suppress(OSError):
            if (built.parent / "lock").exists() or not _newer(built, target / built.name):
                continue
            partial = target.with_name(f".{target.name}.{os.getpid()}")
            cache.mkdir(parents=True, exist_ok=True, mode=0o700)
            try:
                shutil.copytree(built.parent, partial, ignore=_odd)
                shutil.rmtree(target, ignore_errors=True)
                partial.rename(target)
            finally:
                shutil.rmtree(partial, ignore_errors=True)


def _newer(built: Path, kept: Path) -> bool:
    return not kept.exists() or built.stat().st_mtime > kept.stat().st_mtime


def _odd(folder: str, names: list[str]) -> list[str]:
    """Name what no build makes: what a link that a training put there leads to may never end."""
    paths = (Path(folder, name) for name in names)
    return [path.name for path in paths if not (is_plain(path) or is_real_folder(path))]
