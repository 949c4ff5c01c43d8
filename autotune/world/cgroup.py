"""Memory cgroups: one made for an attempt where that can be, and the one that we live in."""

import contextlib
from dataclasses import dataclass
from pathlib import Path

from autotune.core.evidence import Gap
from autotune.world.kernel_text import keyed, number

ROOT = Path("/sys/fs/cgroup")
_NO_LIMIT = 2**60  # version 1 writes a number of pages that no machine has


@dataclass(frozen=True)
class Cgroup:
    """One memory cgroup that we made."""

    path: Path
    limit_bytes: int
    version: int

    def oom_kills(self) -> int | None:
        """Return how many processes the kernel killed here for memory; None when unreadable."""
        return _oom_kills(self.path, self.version)

    def remove(self) -> None:
        """Take the cgroup away; possible only when nothing lives in it any more."""
        with contextlib.suppress(OSError):
            self.path.rmdir()


@dataclass(frozen=True)
class OwnCgroup:
    """The memory cgroup that autotune, and with it all that it starts, lives in."""

    path: Path
    name: str  # as the kernel calls it, unless we live in a container
    version: int

    def oom_kills(self) -> int | None:
        """Return how many processes the kernel killed here for memory; None when unreadable."""
        return _oom_kills(self.path, self.version)

    def refusals(self) -> int | None:
        """Return how often it was at its limit; None when unreadable."""
        if self.version == 2:
            return keyed(self.path / "memory.events", "max")
        return number(self.path / "memory.failcnt")

    def limit_bytes(self) -> int | None:
        """Return its limit; None where it has none, or it cannot be read."""
        name = "memory.max" if self.version == 2 else "memory.limit_in_bytes"
        limit = number(self.path / name)
        return limit if limit is not None and limit < _NO_LIMIT else None


def make_cgroup(name: str, limit_bytes: int, root: Path = ROOT) -> Cgroup | Gap:
    """Make a memory cgroup below our own, or say why it cannot be."""
    try:
        version, path = _where_we_live()
    except OSError as error:
        return Gap("memory cgroup", f"/proc/self/cgroup cannot be read ({error.strerror})")
    if version == 1:
        return make_v1(root / "memory" / path / name, limit_bytes)
    if version == 2:
        return make_v2(root / path, name, limit_bytes)
    return Gap("memory cgroup", "this machine shows no memory cgroup to us")


def own_cgroup(root: Path = ROOT) -> OwnCgroup | None:
    """Return the memory cgroup we live in, or None where none can be found."""
    try:
        version, path = _where_we_live()
    except OSError:
        return None
    if version is None:
        return None
    top = root / "memory" if version == 1 else root
    # A container may be told a path of the machine and see only its own part of the tree.
    folder = top / path if (top / path).is_dir() else top
    return OwnCgroup(folder, f"/{path}", version) if folder.is_dir() else None


def cgroup_name(pid: int) -> str | None:
    """Return how a process's memory cgroup is called, or None where that cannot be read."""
    try:
        return f"/{_where_we_live(str(pid))[1]}"
    except OSError:
        return None


def _where_we_live(process: str = "self") -> tuple[int | None, str]:
    """Return the version of our memory cgroup, None for none, and its path; raises OSError."""
    paths = {}
    for line in Path(f"/proc/{process}/cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        paths[controllers] = path.lstrip("/")
    for controllers, path in paths.items():
        if "memory" in controllers.split(","):
            return 1, path
    return (2, paths[""]) if "" in paths else (None, "")


def _oom_kills(folder: Path, version: int) -> int | None:
    return keyed(folder / ("memory.events" if version == 2 else "memory.oom_control"), "oom_kill")


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
