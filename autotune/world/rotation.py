"""Keeps the logs of attempts that are over below a size and an age, the oldest cut short first."""

import re
from collections.abc import Iterator
from pathlib import Path

from autotune.world.disk_bound import DiskBound

KEPT_BYTES = 256 * 1024  # of each file: its beginning and its end, with a line between them
_ATTEMPT = re.compile(r"\d{3,}")


def rotate(attempts: Path, most_bytes: int, oldest_at: float) -> tuple[Path, ...]:
    """Cut logs and events short until all together take `most_bytes`; return what was cut.

    Those last written before `oldest_at` (seconds since the epoch) are cut whatever they take. What
    a diagnosis rests on stands in the journal and in diagnosis.json, and stays. Never raises; call
    it only while nothing writes to them.
    """
    found = sorted(_logs(attempts))
    left = sum(size for _, _, size, _ in found)
    cut = []
    for _, path, size, written in found:
        if size <= KEPT_BYTES or (left <= most_bytes and written >= oldest_at):
            continue
        bound = DiskBound(path, KEPT_BYTES)
        bound.compact()
        if bound.gap is None:
            left -= size - KEPT_BYTES
            cut.append(path)
    return tuple(cut)


def _logs(attempts: Path) -> Iterator[tuple[int, Path, int, float]]:
    """Yield number, path, disk space and last change of every file that grows with a training."""
    try:
        folders = [one for one in attempts.iterdir() if _ATTEMPT.fullmatch(one.name)]
    except OSError:
        return
    for folder in folders:
        for path in (folder / "output.log", *folder.glob("events/rank*.jsonl")):
            try:
                seen = path.lstat()
            except OSError:
                continue
            if path.is_file() and not path.is_symlink():
                taken = min(seen.st_size, seen.st_blocks * 512)
                yield int(folder.name), path, taken, seen.st_mtime
