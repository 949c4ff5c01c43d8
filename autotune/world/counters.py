"""Counters of the machine that speak of memory: kills, what is available, /dev/shm, limits."""

import contextlib
import os
import re
from dataclasses import dataclass
from pathlib import Path

import psutil

from autotune.world.cgroup import OwnCgroup
from autotune.world.kernel_text import keyed

PROC = Path("/proc")
SHARED_MEMORY = Path("/dev/shm")  # noqa: S108 - it is looked at, and nothing is written there


@dataclass(frozen=True)
class Counts:
    """What only ever grows, read at one moment; None where it cannot be read."""

    oom_kills: int | None
    cgroup_kills: int | None
    cgroup_refusals: int | None
    stalled_seconds: float | None


@dataclass(frozen=True)
class Room:
    """Memory that is left, at one moment; None where it cannot be read."""

    total: int | None = None
    available: int | None = None
    swap: int | None = None
    swap_free: int | None = None
    shm: int | None = None
    shm_free: int | None = None


def counts(cgroup: OwnCgroup | None, proc: Path = PROC) -> Counts:
    """Read every counter once."""
    return Counts(
        oom_kills=keyed(proc / "vmstat", "oom_kill"),
        cgroup_kills=cgroup.oom_kills() if cgroup else None,
        cgroup_refusals=cgroup.refusals() if cgroup else None,
        stalled_seconds=_stalled(proc / "pressure" / "memory"),
    )


def grown(before: Counts, after: Counts) -> Counts:
    """Return by how much each counter grew."""

    def more(first: float | None, second: float | None) -> float | None:
        return max(0, second - first) if first is not None and second is not None else None

    def whole(first: int | None, second: int | None) -> int | None:
        grew = more(first, second)
        return None if grew is None else int(grew)

    stalled = more(before.stalled_seconds, after.stalled_seconds)
    return Counts(
        whole(before.oom_kills, after.oom_kills),
        whole(before.cgroup_kills, after.cgroup_kills),
        whole(before.cgroup_refusals, after.cgroup_refusals),
        None if stalled is None else round(stalled, 3),
    )


def room(proc: Path = PROC, shared: Path = SHARED_MEMORY) -> Room:
    """Read what is left of memory, swap and shared memory."""
    sizes: dict[str, int] = {}
    with contextlib.suppress(OSError, ValueError):
        for line in (proc / "meminfo").read_text().splitlines():
            name, _, value = line.partition(":")
            if name in ("MemTotal", "MemAvailable", "SwapTotal", "SwapFree"):
                sizes[name] = int(value.split()[0]) * 1024
    shm = shm_free = None
    with contextlib.suppress(OSError):
        stat = os.statvfs(shared)
        shm, shm_free = stat.f_blocks * stat.f_frsize, stat.f_bavail * stat.f_frsize
    get = sizes.get
    return Room(
        get("MemTotal"), get("MemAvailable"), get("SwapTotal"), get("SwapFree"), shm, shm_free
    )


def lowest(one: Room, other: Room) -> Room:
    """Return the sizes of the newer, and the least that either had left."""

    def less(first: int | None, second: int | None) -> int | None:
        return min((v for v in (first, second) if v is not None), default=None)

    return Room(
        other.total, less(one.available, other.available),
        other.swap, less(one.swap_free, other.swap_free),
        other.shm, less(one.shm_free, other.shm_free),
    )  # fmt: skip


@dataclass(frozen=True)
class Limits:
    """What a process may have at most; None: no limit, or none that binds it."""

    locked_bytes: int | None = None  # page-locked memory, which pinning counts against
    processes: int | None = None  # processes and threads of its user


def limits_of(pid: int) -> Limits:
    """Return the limits of a process as they are now."""
    soft: dict[str, int] = {}
    with contextlib.suppress(OSError, psutil.Error):
        # prlimit would need rights over the process that reading does not.
        for line in Path(f"/proc/{pid}/limits").read_text().splitlines():
            match = re.match(r"Max (locked memory|processes) +(\d{1,20}) ", line)
            if match is not None:
                soft[match[1]] = int(match[2])
        if psutil.Process(pid).uids().effective == 0:
            soft.pop("processes", None)  # the kernel lets root have as many as it likes
    return Limits(soft.get("locked memory"), soft.get("processes"))


def _stalled(path: Path) -> float | None:
    """Seconds since the boot in which every task waited for memory."""
    with contextlib.suppress(OSError, ValueError):
        for line in path.read_text().splitlines():
            if line.startswith("full "):
                return int(line.rpartition("total=")[2]) / 1e6
    return None
