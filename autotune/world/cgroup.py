"""A memory cgroup for one attempt, where version 2 is delegated or version 1 is writable."""

import contextlib
from dataclasses import dataclass
from pathlib import Path

from autotune.core.evidence import Gap

ROOT = Path("/sys/fs/cgroup")


@dataclass(frozen=True)
class Cgroup:
    """One memory cgroup that we made."""

    path: Path
    limit_bytes: int
    version: int

    def oom_kills(self) -> int | None:
        """Return how many processes the kernel killed here for memory; None when unreadable."""
        name = "memory.events" if self.version == 2 else "memory.oom_control"
        with contextlib.suppress(OSError, ValueError):
            for line in (self.path / name).read_text().splitlines():
                key, _, value = line.partition(" ")
                if key == "oom_kill":
                    return int(value)
        return None

    def remove(self) -> None:
        """Take the cgroup away; possible only when nothing lives in it any more."""
        with contextlib.suppress(OSError):
            self.path.rmdir()


def make_cgroup(name: str, limit_bytes: int, root: Path = ROOT) -> Cgroup | Gap:
    """Make a memory cgroup below our own, or say why it cannot be."""
    try:
        lines = Path("/proc/self/cgroup").read_text().splitlines()
    except OSError as error:
        return Gap("memory cgroup", f"/proc/self/cgroup cannot be read ({error.strerror})")
    paths = {}
    for line in lines:
        _, controllers, path = line.split(":", 2)
        paths[controllers] = path
    for controllers, path in paths.items():
        if "memory" in controllers.split(","):
            return make_v1(root / "memory" / path.lstrip("/") / name, limit_bytes)
    if "" in paths:
        return make_v2(root / paths[""].lstrip("/"), name, limit_bytes)
    return Gap("memory cgroup", "this machine shows no memory cgroup to us")


def make_v1(folder: Path, limit_bytes: int) -> Cgroup | Gap:
    """Make a version 1 group at `folder`, its limit holding for swap too where that is counted."""
    try:
        folder.mkdir(exist_ok=True)  # a killed supervisor may have left it
        (folder / "memory.limit_in_bytes").write_text(str(limit_bytes))
        with contextlib.suppress(OSError):  # swap accounting may be off
            (folder / "memory.memsw.limit_in_bytes").write_text(str(limit_bytes))
    except OSError as error:
        with contextlib.suppress(OSError):
            folder.rmdir()
        return Gap("memory cgroup", f"version 1 is not writable for us ({error.strerror})")
    return Cgroup(folder, limit_bytes, 1)


def make_v2(parent: Path, name: str, limit_bytes: int) -> Cgroup | Gap:
    """Make a version 2 group below `parent`, which must hand on the memory controller."""
    folder = parent / name
    try:
        enabled = (parent / "cgroup.subtree_control").read_text().split()
        if "memory" not in enabled:
            return Gap("memory cgroup", "version 2 does not delegate the memory controller to us")
        folder.mkdir(exist_ok=True)
        (folder / "memory.max").write_text(str(limit_bytes))
    except OSError as error:
        with contextlib.suppress(OSError):
            folder.rmdir()
        return Gap("memory cgroup", f"version 2 is not delegated to us ({error.strerror})")
    return Cgroup(folder, limit_bytes, 2)
