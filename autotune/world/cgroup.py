"""Memory cgroups: one made for an attempt where that can be, and the one that we live in."""

import contextlib
import os
from dataclasses import dataclass
from pathlib import Path

from autotune.core.evidence import Gap
from autotune.world.kernel_text import keyed, number, read

ROOT = Path("/sys/fs/cgroup")
LEAF = "autotune-supervisor"  # the group we move into, below the one that was delegated to us
_NO_LIMIT = 2**60  # version 1 writes a number of pages that no machine has
_DELEGATED = ("user.delegate", "trusted.delegate")  # systemd's marks; the second is root's to read


@dataclass(frozen=True)
class Cgroup:
    """One memory cgroup that we made."""

    path: Path
    limit_bytes: int | None
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


def _enter_leaf(folder: Path) -> Gap | None:
    """Have `folder`, in which we live, hand on the memory controller; say why that cannot be.

    A group of version 2 that hands on a controller may hold no process itself (cgroups(7)), so we
    move into a leaf of our own first. Only as its one process, and only where systemd says that
    it delegates: else the group is somebody else's to arrange.
    """
    try:
        if "memory" in (folder / "cgroup.subtree_control").read_text().split():
            return None
        why = _not_ours(folder)
        if why:
            return Gap("memory cgroup", why)
        (folder / LEAF).mkdir(exist_ok=True)
        (folder / LEAF / "cgroup.procs").write_text(str(os.getpid()))
        (folder / "cgroup.subtree_control").write_text("+memory")
    except OSError as error:
        return Gap("memory cgroup", f"version 2 is not delegated to us ({error.strerror})")
    return None


def _not_ours(folder: Path) -> str:
    """Return nothing where the group was delegated to this process, else why it was not."""
    if not _is_delegated(folder):
        return "version 2 is not delegated to us (Delegate= of the unit)"
    if set((folder / "cgroup.procs").read_text().split()) != {str(os.getpid())}:
        return "other processes live in the version 2 group that was delegated to us"
    if "memory" not in (folder / "cgroup.controllers").read_text().split():
        return "version 2 does not delegate the memory controller to us"
    return ""


def _is_delegated(folder: Path) -> bool:
    for name in _DELEGATED:
        with contextlib.suppress(OSError):
            return os.getxattr(folder, name) == b"1"
    # Before systemd 251 only root can read the mark. A unit's first process whose group belongs
    # to its own user was given it.
    first = os.environ.get("SYSTEMD_EXEC_PID") == str(os.getpid())
    return first and os.getuid() != 0 and folder.stat().st_uid == os.getuid()


def make_cgroup(name: str, limit_bytes: int | None, root: Path = ROOT) -> Cgroup | Gap:
    """Make a memory cgroup for an attempt, or say why it cannot be; None: without a limit."""
    try:
        version, folder = _place(name, root)
    except OSError as error:
        return Gap("memory cgroup", f"/proc/self/cgroup cannot be read ({error.strerror})")
    if version == 1:
        return make_v1(folder, limit_bytes)
    if version == 2:
        return _enter_leaf(folder.parent) or make_v2(folder.parent, name, limit_bytes)
    return Gap("memory cgroup", "this machine shows no memory cgroup to us")


def left_cgroup(name: str, root: Path = ROOT) -> Cgroup | None:
    """Return the cgroup of an attempt that a dead supervisor left, or None where there is none."""
    try:
        version, folder = _place(name, root)
    except OSError:
        return None
    return Cgroup(folder, None, version) if version and folder.is_dir() else None


def _place(name: str, root: Path) -> tuple[int | None, Path]:
    """Return the version and where an attempt's group belongs; raises OSError."""
    version, path = _where_we_live()
    if version == 1:
        return 1, root / "memory" / path / name
    return version, _above_leaf(root / path) / name


def _above_leaf(folder: Path) -> Path:
    return folder.parent if folder.name == LEAF else folder


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
    if folder.name == LEAF:
        # What limits us and counts for us is the group that holds the attempts' too.
        folder, path = folder.parent, path.rpartition("/")[0]
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
    for line in read(f"/proc/{process}/cgroup").decode(errors="replace").splitlines():
        _, controllers, path = line.split(":", 2)
        paths[controllers] = path.lstrip("/")
    for controllers, path in paths.items():
        if "memory" in controllers.split(","):
            return 1, path
    return (2, paths[""]) if "" in paths else (None, "")


def _oom_kills(folder: Path, version: int) -> int | None:
    return keyed(folder / ("memory.events" if version == 2 else "memory.oom_control"), "oom_kill")


def make_v1(folder: Path, limit_bytes: int | None) -> Cgroup | Gap:
    """Make a version 1 group at `folder`, its limit holding for swap too where that is counted."""
    try:
        folder.mkdir(exist_ok=True)  # a killed supervisor may have left it
        if limit_bytes is not None:
            (folder / "memory.limit_in_bytes").write_text(str(limit_bytes))
            with contextlib.suppress(OSError):  # swap accounting may be off
                (folder / "memory.memsw.limit_in_bytes").write_text(str(limit_bytes))
    except OSError as error:
        with contextlib.suppress(OSError):
            folder.rmdir()
        return Gap("memory cgroup", f"version 1 is not writable for us ({error.strerror})")
    return Cgroup(folder, limit_bytes, 1)


def make_v2(parent: Path, name: str, limit_bytes: int | None) -> Cgroup | Gap:
    """Make a version 2 group below `parent`, which must hand on the memory controller."""
    folder = parent / name
    try:
        enabled = (parent / "cgroup.subtree_control").read_text().split()
        if "memory" not in enabled:
            return Gap("memory cgroup", "version 2 does not delegate the memory controller to us")
        folder.mkdir(exist_ok=True)
        (folder / "memory.max").write_text("max" if limit_bytes is None else str(limit_bytes))
    except OSError as error:
        with contextlib.suppress(OSError):
            folder.rmdir()
        return Gap("memory cgroup", f"version 2 is not delegated to us ({error.strerror})")
    return Cgroup(folder, limit_bytes, 2)
