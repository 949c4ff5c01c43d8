"""The host's memory as a whole: what is left, swapped and promised, and DeepSpeed's segments."""

import contextlib
import os
import re
import stat
from pathlib import Path

from autotune.core.doctor.facts import Memory, Segment
from autotune.world.counters import PROC, SHARED_MEMORY, room
from autotune.world.kernel_text import number

# ops/csrc/cpu/comm/shm.cpp: user id, address and port of the rendezvous, and the rank.
_SEGMENT = re.compile(r"deepspeed_allreduce_buffer_(\d{1,10})_[\w.:-]{1,200}")
MOST_SEGMENTS = 256


def host_memory(proc: Path = PROC, shared: Path = SHARED_MEMORY) -> Memory:
    """Return what the kernel says of memory, each part None where it does not."""
    now = room(proc, shared)
    promised: dict[str, int] = {}
    with contextlib.suppress(OSError, ValueError):
        for line in (proc / "meminfo").read_text().splitlines():
            name, _, value = line.partition(":")
            if name in ("CommitLimit", "Committed_AS"):
                promised[name] = int(value.split()[0]) * 1024
    return Memory(
        total_bytes=now.total,
        available_bytes=now.available,
        swap_bytes=now.swap,
        swap_free_bytes=now.swap_free,
        shm_bytes=now.shm,
        shm_free_bytes=now.shm_free,
        segments=segments(proc, shared),
        overcommit=number(proc / "sys/vm/overcommit_memory"),
        commit_limit_bytes=promised.get("CommitLimit"),
        committed_bytes=promised.get("Committed_AS"),
    )


def segments(proc: Path = PROC, shared: Path = SHARED_MEMORY) -> tuple[Segment, ...]:
    """Return the segments of DeepSpeed's CPU collectives; they are looked at and left alone."""
    found: list[tuple[str, int, bool]] = []
    with contextlib.suppress(OSError):
        for entry in os.scandir(shared):
            with contextlib.suppress(OSError):
                told = entry.stat(follow_symlinks=False)
                if _SEGMENT.fullmatch(entry.name) and stat.S_ISREG(told.st_mode):
                    found.append((entry.name, told.st_blocks * 512, told.st_uid == os.getuid()))
    if not found:
        return ()
    mapped, blind = _mapped(proc)
    return tuple(
        Segment(
            name, size, mine,
            # Whoever shares our user id is seen whole; of others nothing is known.
            True if name in mapped else False if mine and not blind else None,
        )
        for name, size, mine in sorted(found)[:MOST_SEGMENTS]
    )  # fmt: skip


def _mapped(proc: Path) -> tuple[set[str], bool]:
    """Return the segments that processes of ours map, and whether one of ours was not shown."""
    names: set[str] = set()
    blind = False
    with contextlib.suppress(OSError):
        for folder in proc.iterdir():
            if not folder.name.isdigit():
                continue
            try:
                mine = folder.stat().st_uid == os.getuid()
                text = (folder / "maps").read_text(errors="replace") if mine else ""
            except FileNotFoundError:
                continue  # gone meanwhile
            except ProcessLookupError:
                continue
            except OSError:
                blind = True
                continue
            names.update(match[0] for match in _SEGMENT.finditer(text))
    return names, blind
