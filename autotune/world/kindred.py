"""Remembers which processes an attempt had, so that the kernel's words can be joined to them."""

import contextlib
import os
from collections.abc import Mapping
from pathlib import Path

import psutil

from autotune.world.cgroup import cgroup_name
from autotune.world.kernel_text import read

_BEGINNING = 60  # looks: while ranks are started, and build and read what they need
_WALK_EVERY = 5
MOST_REMEMBERED = 4096
MOST_CGROUPS = 64
_INITIAL_PID_NAMESPACE = 0xEFFFFFFC  # numbers that Linux gives to the namespaces of the machine
_INITIAL_CGROUP_NAMESPACE = 0xEFFFFFFB


class Kindred:
    """Every process seen below one process, and its name when it was last seen."""

    def __init__(self, root: int) -> None:
        """Look below the process `root`."""
        self._root = root
        self.names: dict[int, str] = {}
        self.alive: tuple[int, ...] = ()
        self.threads = 0  # of all that live, at the last look
        self.cgroups: set[str] = set()  # where any of them was seen to live
        self._looks = 0

    def look(self, beside: Mapping[int, int]) -> None:
        """See who lives now; `beside` holds ids known from elsewhere.

        To walk is to ask each thread of each process for its children: a rank on a GPU has a
        hundred. After the beginning only every fifth look does, unless somebody has gone.
        """
        self._looks += 1
        settled = self._looks > _BEGINNING and self._looks % _WALK_EVERY
        if settled and beside.keys() <= set(self.alive) and all(map(_is_there, self.alive)):
            return
        found = descendants(self._root)
        for pid in beside:
            if pid not in found:
                threads = _threads(pid)
                if threads:
                    found[pid] = len(threads)
        self.alive, self.threads = tuple(found), sum(found.values())
        for pid in found:
            if (pid not in self.names or pid in beside) and len(self.cgroups) < MOST_CGROUPS:
                self.cgroups |= {name for name in (cgroup_name(pid),) if name}
            with contextlib.suppress(OSError):
                name = read(f"/proc/{pid}/comm").decode("utf-8", "replace").rstrip("\n")
                self.names.pop(pid, None)
                self.names[pid] = name
        while len(self.names) > MOST_REMEMBERED:
            del self.names[next(iter(self.names))]


def descendants(root: int) -> dict[int, int]:
    """Return the processes below `root`, each with the number of its threads.

    The kernel lists the children of each thread, which costs by the size of our own tree and not
    of the machine's; where it was built without that, psutil walks over all processes.
    """
    if not Path(f"/proc/{root}/task/{root}/children").exists():
        with contextlib.suppress(psutil.Error):
            below = psutil.Process(root).children(recursive=True)
            return {process.pid: len(_threads(process.pid)) for process in below}
        return {}
    found: dict[int, int] = {}
    ahead = [root]
    while ahead:
        pid = ahead.pop()
        threads = _threads(pid)
        if pid != root:
            found[pid] = len(threads)
        for thread in threads:
            with contextlib.suppress(OSError, ValueError):
                listed = read(f"/proc/{pid}/task/{thread}/children")
                ahead += [child for child in map(int, listed.split()) if child not in found]
    return found


def _is_there(pid: int) -> bool:
    try:
        os.stat(f"/proc/{pid}")  # noqa: PTH116 - of each process at each look
    except OSError:
        return False
    return True


def _threads(pid: int) -> list[str]:
    try:
        return os.listdir(f"/proc/{pid}/task")  # noqa: PTH208 - names alone, of each process
    except OSError:
        return []


def ids_are_the_machines() -> bool:
    """Return whether process ids mean to us what they mean to the kernel and the driver."""
    return _namespace("pid") == _INITIAL_PID_NAMESPACE


def cgroups_are_the_machines() -> bool:
    """Return whether the paths of our cgroups are those the kernel writes."""
    return _namespace("cgroup") == _INITIAL_CGROUP_NAMESPACE


def _namespace(kind: str) -> int | None:
    try:
        return Path(f"/proc/self/ns/{kind}").stat().st_ino
    except OSError:
        return None
