"""How fast, how full and of what kind the file system is on which a run lives."""

import os
import tempfile
import time
from pathlib import Path

from autotune.core.doctor.facts import Disk
from autotune.world.throwaway import Late, in_time

MOST_BYTES = 64 * 2**20
MOST_SECONDS = 2.0
ANSWER_SECONDS = 10.0  # one sync that was begun is waited for
_CHUNK = 2 * 2**20
_SYNCS = 5


def look_at_disk(folder: Path, seconds: float = ANSWER_SECONDS) -> Disk:
    """Return what a run in `folder`, which need not exist yet, would find there."""
    try:
        told = in_time(lambda: _look(folder), seconds)
    except Late:
        text = f"it did not answer within {seconds:g} s"
        return Disk(str(folder), why_not=text)
    except OSError as error:
        return Disk(str(folder), why_not=str(error))
    return Disk(**told)


def _look(folder: Path) -> dict[str, object]:
    place = folder
    while not place.is_dir() and place != place.parent:
        place = place.parent
    told: dict[str, object] = {"path": str(folder), "kind": kind_of(place)}
    room = os.statvfs(place)
    told["free_bytes"] = room.f_bavail * room.f_frsize
    told["free_files"] = room.f_favail if room.f_files else None
    try:
        told.update(_write(place))
        told["writable"] = True
    except OSError as error:
        told.update(writable=False, why_not=error.strerror or str(error))
    return told


def _write(place: Path) -> dict[str, object]:
    """Write into a file without a name, which is gone with whoever holds it."""
    with tempfile.TemporaryFile(dir=place, buffering=0) as file:
        descriptor = file.fileno()
        syncs = []
        for _ in range(_SYNCS):
            began = time.monotonic()
            os.write(descriptor, b"x" * 200)
            os.fsync(descriptor)
            syncs.append(time.monotonic() - began)
            if sum(syncs) > MOST_SECONDS / 2:
                break
        skew = os.fstat(descriptor).st_mtime - time.time()
        # What a disk's controller could squeeze or share would be too fast.
        chunk = os.urandom(_CHUNK)
        began, written = time.monotonic(), 0
        while written < MOST_BYTES and time.monotonic() - began < MOST_SECONDS / 2:
            os.write(descriptor, chunk)
            os.fdatasync(descriptor)
            written += len(chunk)
        took = time.monotonic() - began
    return {
        "bytes_per_second": written / took if took > 0 else None,
        "sync_seconds": max(syncs),
        "skew_seconds": skew,
    }


def kind_of(folder: Path, mounts: Path = Path("/proc/self/mountinfo")) -> str | None:
    """Return the type of the file system that holds `folder`; None where nobody tells."""
    best, kind = -1, None
    try:
        where = folder.resolve()
        lines = mounts.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return None
    for line in lines:
        head, _, tail = line.partition(" - ")
        fields = head.split(" ")
        if len(fields) < 5 or not tail:
            continue
        point = Path(fields[4].encode().decode("unicode_escape"))  # a blank is written \040
        # A later mount covers an earlier one on the same place.
        if where.is_relative_to(point) and len(point.parts) >= best:
            best, kind = len(point.parts), tail.split(" ")[0]
    return kind
