"""What the processes of an attempt can be seen doing from outside: compiling, reading, writing."""

import contextlib
from collections.abc import Sequence

import psutil

from autotune.core.rhythm import Work

COMPILERS = (
    "nvcc", "cicc", "ptxas", "cudafe", "fatbinary", "cc1", "g++", "gcc", "c++", "clang", "x86_64-",
    "as", "ld", "collect2", "ninja", "hipcc", "icpx", "triton",
)  # fmt: skip


def work_of(pids: Sequence[int], device_bytes: int | None) -> Work:
    """Return what these processes do; one that goes away meanwhile is left out."""
    compilers: list[tuple[int, float]] = []
    moved = held = 0
    for pid in pids:
        with contextlib.suppress(psutil.Error, OSError):
            process = psutil.Process(pid)
            with process.oneshot():
                if compiles(process.name()):
                    times = process.cpu_times()
                    compilers.append((pid, times.user + times.system))
                held += process.memory_info().rss
                moved += _moved_bytes(process)
    return Work(tuple(compilers), moved, held + (device_bytes or 0), frozenset(pids))


def _moved_bytes(process: psutil.Process) -> int:
    # A kernel without I/O accounting has no such file, and then psutil no such method; of a process
    # that is just going away the file is empty, of which psutil makes errors that are not its own.
    with contextlib.suppress(psutil.Error, OSError, AttributeError, RuntimeError, ValueError):
        counters = process.io_counters()
        # Not what is read in all: a trainer that looks at itself in /proc reads for ever.
        return int(counters.read_bytes + counters.write_chars)
    return 0


def compiles(name: str) -> bool:
    """Return whether a process of this name builds something."""
    return name in ("as", "ld") or any(
        name.startswith(one) for one in COMPILERS if one not in ("as", "ld")
    )
