"""Memory of the ranks and of the whole process tree, sampled through /proc and psutil."""

import contextlib
from collections.abc import Callable, Sequence
from pathlib import Path

import psutil

from autotune.core.evidence import Gap, Memory
from autotune.world.cgroup import Cgroup
from autotune.world.gpu import Gpus


def data_bytes(pid: int) -> int | None:
    """Return VmData of a process: what RLIMIT_DATA counts. The kernel keeps no peak of it."""
    with contextlib.suppress(OSError, ValueError, IndexError):
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("VmData:"):
                return int(line.split()[1]) * 1024
    return None


def tree_resident_bytes(pids: Sequence[int]) -> int | None:
    """Return the resident memory of these processes together, shared pages counted each time."""
    total = 0
    for pid in pids:
        with contextlib.suppress(psutil.Error):
            total += psutil.Process(pid).memory_info().rss
    return total or None


class MemorySampler:
    """Samples one attempt; a reading that fails is a gap and never stops the watching."""

    def __init__(
        self,
        device: str,
        limit_bytes: int | None,
        ranks: Callable[[], Sequence[int]],
        gpus: Gpus,
        cgroup: Cgroup | Gap | None,
    ) -> None:
        """Sample the process ids that `ranks` returns at each moment."""
        self._device = device
        self._limit = limit_bytes
        self._ranks = ranks
        self._gpus = gpus
        self._cgroup = cgroup if isinstance(cgroup, Cgroup) else None
        self._kills: int | None = None
        self._peak: int | None = None
        self._host_peak: int | None = None
        self._others: int | None = None
        self._gaps: dict[str, str] = {}
        self.latest_bytes: int | None = None

    def sample(self) -> None:
        """Take one reading."""
        ranks = self._ranks()
        if self._device == "cpu":
            readings = [r for r in map(data_bytes, ranks) if r is not None]
        else:
            readings, self._others, gap = self._gpus.use(ranks)
            if gap:
                self._gaps.setdefault("gpu memory by process", gap)
        if readings:
            self.latest_bytes = max(readings)
            self._peak = max(self._peak or 0, self.latest_bytes)
        host = tree_resident_bytes(ranks)
        if host is not None:
            self._host_peak = max(self._host_peak or 0, host)

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
        )
        return memory, tuple(Gap(name, why) for name, why in self._gaps.items())
