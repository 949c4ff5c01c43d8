"""Remembers which processes an attempt had, so that the kernel's words can be joined to them."""

import contextlib
from collections.abc import Mapping
from pathlib import Path

import psutil

from autotune.world.cgroup import cgroup_name

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

    def look(self, beside: Mapping[int, int]) -> None:
        """See who lives now; `beside` holds ids known from elsewhere."""
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
                name = Path(f"/proc/{pid}/comm").read_text("utf-8", "replace").rstrip("\n")
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
                listed = Path(f"/proc/{pid}/task/{thread}/children").read_text()
                ahead += [child for child in map(int, listed.split()) if child not in found]
    return found


def _threads(pid: int) -> list[str]:
    try:
        return [task.name for task in Path(f"/proc/{pid}/task").iterdir()]
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
