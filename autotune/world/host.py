"""Memory of the ranks and of the whole process tree, sampled through /proc and psutil."""

import contextlib
import os
import time
from collections.abc import Callable, Sequence

import psutil

from autotune.core.curve import Curve
from autotune.core.evidence import Gap, Machine, Memory
from autotune.core.view import View
from autotune.world.cgroup import Cgroup
from autotune.world.gpu import Gpus
from autotune.world.kernel_text import read
from autotune.world.machine import MachineWatch


def data_bytes(pid: int) -> int | None:
    """Return VmData of a process: what RLIMIT_DATA counts. The kernel keeps no peak of it."""
    with contextlib.suppress(OSError, ValueError, IndexError):
        _, found, rest = read(f"/proc/{pid}/status").partition(b"\nVmData:")
        if found:
            return int(rest.split(maxsplit=1)[0]) * 1024
    return None


def tree_resident_bytes(pids: Sequence[int]) -> int | None:
    """Return the resident memory of these processes together, shared pages counted each time."""
    total = 0
    for pid in pids:
        with contextlib.suppress(OSError, ValueError, IndexError):
            total += int(read(f"/proc/{pid}/statm").split()[1]) * _PAGE
    return total or None


def room_of_a_rank(limit: int | None, ranks: int) -> int | None:
    """Return this machine's memory for one of `ranks`, no more than their common limit.

    All of it, and not what is free now: a neighbour's visit is no proof that a job cannot run.
    """
    try:
        whole = int(psutil.virtual_memory().total)
    except (psutil.Error, OSError):
        return limit // ranks if limit else None
    return min(limit or whole, whole) // ranks


_PAGE = os.sysconf("SC_PAGESIZE")
_BY_PROCESS = "gpu memory by process"


class MemorySampler:
    """Samples one attempt; a reading that fails is a gap and never stops the watching."""

    def __init__(
        self,
        device: str,
        limit_bytes: int | None,
        view: Callable[[], View],
        gpus: Gpus,
        cgroup: Cgroup | Gap | None,
        ranks_here: int | None = None,
    ) -> None:
        """Sample the ranks that `view` names at each moment, and all that they started.

        Of ranks beyond `ranks_here` the process ids are another machine's.
        """
        self._ranks_here = ranks_here
        self._device = device
        self._limit = limit_bytes
        self._view = view
        self._gpus = gpus
        self._cgroup = cgroup if isinstance(cgroup, Cgroup) else None
        self._around = MachineWatch(gpus if device == "cuda" else None, self._cgroup)
        self._began = time.monotonic()
        self._curve = Curve()
        self._kills: int | None = None
        self._peak: int | None = None
        self._host_peak: int | None = None
        self._others: int | None = None
        self._card_free: int | None = None
        self._card_before: int | None = None
        self._gaps: dict[str, str] = {}
        self.latest_bytes: int | None = None

    def sample(self) -> None:
        """Take one reading."""
        view = self._view()
        if not view.ranks and self._device == "cuda":
            # Whatever is taken now is taken by others: this needs no process ids.
            self._card_before = self._gpus.free_bytes()
        self._around.sample(self._ranks())
        readings = self._of_ranks(tuple(self._ranks()))
        now = max(readings, default=None)
        if now is not None:
            self.latest_bytes = now
            self._peak = max(self._peak or 0, now)
        host = tree_resident_bytes(self._around.kindred.alive)
        if host is not None:
            self._host_peak = max(self._host_peak or 0, host)
        self._curve.add(time.monotonic() - self._began, view.step, now, host)

    def sample_last(self) -> None:
        """Read the counters of the cgroup, which is about to go."""
        self._kills = self._cgroup.oom_kills() if self._cgroup else None

    def reading(self) -> tuple[Memory, tuple[Gap, ...]]:
        """Return the highest of everything sampled, and what could not be read."""
        if self._peak is None:
            self._gaps.setdefault("rank memory", "no rank lived long enough to be sampled")
        memory = Memory(
            device=self._device,
            limit_bytes=self._limit,
            peak_bytes=self._peak,
            host_limit_bytes=self._cgroup.limit_bytes if self._cgroup else None,
            host_peak_bytes=self._host_peak,
            cgroup_oom_kills=self._kills,
            device_total_bytes=self._gpus.total_bytes() if self._device == "cuda" else None,
            device_others_bytes=self._others,
            device_free_low_bytes=self._card_free,
            device_free_before_bytes=self._card_before,
            curve=self._curve.points(),
        )
        gaps = tuple(Gap(name, why) for name, why in self._gaps.items())
        return memory, (*gaps, *self._around.reading(self._ranks())[1])

    def machine(self) -> Machine:
        """Return what the machine's counters and its kernel's log said meanwhile."""
        return self._around.reading(self._ranks())[0]

    def _of_ranks(self, pids: Sequence[int]) -> list[int]:
        if self._device == "cpu":
            return [size for size in map(data_bytes, pids) if size is not None]
        alive = [pid for pid in pids if pid in self._around.kindred.alive]
        if pids and not alive:
            return []  # who holds the card now says nothing of what they died of
        readings, others, gap = self._gpus.use(alive)
        if others is not None or self._peak is None:
            self._others = others  # once ours were found there, a look that finds none is late
        if readings:
            # Before its context exists a rank holds nothing, and looks like one of a container.
            self._gaps.pop(_BY_PROCESS, None)
        elif gap and self._peak is None:
            self._gaps[_BY_PROCESS] = gap
        free = self._gpus.free_bytes()
        if free is not None:
            self._card_free = min(free, self._card_free if self._card_free is not None else free)
        return readings

    def _ranks(self) -> dict[int, int]:
        """Which process is which rank."""
        return {pid: rank for rank, pid in self._view().ranks_below(self._ranks_here).items()}
