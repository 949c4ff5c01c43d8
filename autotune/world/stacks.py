"""Takes the stacks of living processes: by the trainer's own handler, by py-spy, or from /proc.

Nothing is stopped for it: the handler writes and returns, and py-spy reads a process as it runs.
"""

import contextlib
import os
import shutil
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path

import psutil

from autotune.core.evidence import Gap
from autotune.core.stack import (
    STOPPED,
    Frame,
    Helper,
    Lock,
    Stack,
    frames_of_faulthandler,
    frames_of_py_spy,
    printable,
)
from autotune.world.files import write_text

# On which the built-in trainer writes its stacks (child/finetune.py says the same). A real-time
# signal, because frameworks and schedulers use SIGUSR1 and SIGUSR2 for things of their own.
STACK_SIGNAL = signal.SIGRTMIN + 7
MOST_PROCESSES = 64
MOST_NAMELESS = 16  # processes looked at where no rank has said who it is
MOST_HELPERS = 32
MOST_LOCKS = 16
MOST_BYTES = 64 * 1024  # of what one process says
HANDLER_SECONDS = 2.0
SPY_SECONDS = 5.0  # for one process
ALL_SECONDS = 20.0  # for everything, so that nobody who asks us to stop waits long
POLL_SECONDS = 0.05
_NEW, _BEFORE = "stacks.txt", "stacks-before.txt"
_BATON = "file_baton.py"  # torch waits here for somebody else's build


class StackTaker:
    """Takes the stacks of one attempt and lays the texts into a folder, the newest two."""

    def __init__(self, folder: Path, ops: Path, python: str) -> None:
        """Write into `folder`; `ops` is the run's own folder of builds, `python` the job's."""
        self._folder = folder
        self._ops = ops
        beside = [Path(sys.executable).with_name("py-spy"), Path(python).with_name("py-spy")]
        found = next((str(path) for path in beside if os.access(path, os.X_OK)), None)
        self._py_spy = found or shutil.which("py-spy")
        self._gaps: dict[str, str] = {}

    def take(self, ranks: Mapping[int, int], members: Sequence[int]) -> tuple[Stack, ...]:
        """Return the stacks of the ranks, or of every Python of the attempt if none is known.

        Only processes among `members`, which are ours, are looked at and signalled.
        """
        until = time.monotonic() + ALL_SECONDS
        subjects = list(_subjects(ranks, members))
        texts = self._by_handler([(r, p) for r, p in subjects if r is not None], until)
        stacks, shown = [], []
        for rank, pid in subjects:
            source, text = "faulthandler", texts.get(pid, "")
            frames = frames_of_faulthandler(text)
            if not frames:
                source, text = "py-spy", self._by_py_spy(pid, until)
                frames = frames_of_py_spy(text)
            stack = self._found(pid, rank, source if frames else None, frames)
            if not frames:
                self._gaps[f"stack of {stack.name}"] = self._why_none(stack)
            stacks.append(stack)
            shown.append(_shown(stack, text))
        self._keep("\n".join(shown))
        return tuple(stacks)

    def gaps(self) -> tuple[Gap, ...]:
        """Return whose stack could not be taken, and why."""
        return tuple(Gap(name, why) for name, why in self._gaps.items())

    def _by_handler(self, ranks: list[tuple[int, int]], until: float) -> dict[int, str]:
        """What the ranks write about themselves when they are asked."""
        asked: dict[int, tuple[Path, int]] = {}
        for rank, pid in ranks:
            path = self._folder / f"rank{rank}.txt"
            size = _size(path)
            # The signal would end a process without a handler, and a stopped one cannot answer.
            if size and _handles(pid) and _state(pid) not in STOPPED:
                with contextlib.suppress(OSError):
                    os.kill(pid, STACK_SIGNAL)
                    asked[pid] = (path, size)
        until = min(until, time.monotonic() + HANDLER_SECONDS)
        sizes: dict[int, int] = {}
        while asked and time.monotonic() < until:
            time.sleep(POLL_SECONDS)
            now = {pid: _size(path) for pid, (path, _) in asked.items()}
            if now == sizes and all(now[pid] > size for pid, (_, size) in asked.items()):
                break  # all have written, and none is writing any more
            sizes = now
        return {pid: _read(path, size) for pid, (path, size) in asked.items()}

    def _by_py_spy(self, pid: int, until: float) -> str:
        left = min(SPY_SECONDS, until - time.monotonic())
        if self._py_spy is None or left <= 0:
            return ""
        command = [self._py_spy, "dump", "--nonblocking", "--full-filenames", "--pid", str(pid)]
        try:
            done = subprocess.run(command, capture_output=True, timeout=left, env={}, check=False)
        except (OSError, subprocess.SubprocessError):
            return ""
        return done.stdout[:MOST_BYTES].decode("utf-8", "replace")

    def _found(
        self, pid: int, rank: int | None, source: str | None, frames: tuple[Frame, ...]
    ) -> Stack:
        helpers = tuple(_helpers(pid))
        waits_for_build = any(frame.file.endswith(_BATON) for frame in frames)
        return Stack(
            pid=pid,
            rank=rank,
            state=_state(pid),
            source=source,
            frames=frames,
            cpu_seconds=_cpu_seconds([pid, *(helper.pid for helper in helpers)]),
            kernel=_line(f"/proc/{pid}/wchan").strip("0") or None,
            helpers=helpers,
            locks=tuple(self._locks(pid)) if waits_for_build else (),
        )

    def _locks(self, pid: int) -> Iterator[Lock]:
        """The lock files where this process builds extensions; they are read, never removed."""
        env = _environment(pid)
        home = Path(env.get("HOME", "/nonexistent"))
        folder = Path(env.get("TORCH_EXTENSIONS_DIR") or home / ".cache" / "torch_extensions")
        with contextlib.suppress(OSError):
            found = (path for depth in ("*/lock", "*/*/lock") for path in folder.glob(depth))
            for path in islice(found, MOST_LOCKS):
                age = time.time() - path.stat().st_mtime
                yield Lock(str(path), path.is_relative_to(self._ops), round(max(0.0, age), 1))

    def _why_none(self, stack: Stack) -> str:
        why = "it is stopped" if stack.state in STOPPED else "it did not answer"
        no_spy = "is not installed" if self._py_spy is None else "could not read it"
        return f"{why}, and py-spy {no_spy}"

    def _keep(self, text: str) -> None:
        with contextlib.suppress(OSError):  # what counts is in the evidence
            if (self._folder / _NEW).exists():
                (self._folder / _NEW).replace(self._folder / _BEFORE)
            write_text(self._folder / _NEW, text)


def _subjects(ranks: Mapping[int, int], members: Sequence[int]) -> Iterator[tuple[int | None, int]]:
    ours = set(members)
    known = [(rank, pid) for rank, pid in sorted(ranks.items()) if pid in ours]
    if known:
        yield from known[:MOST_PROCESSES]
        return
    pythons = (pid for pid in members if _line(f"/proc/{pid}/comm").startswith(("python", "pt_")))
    yield from ((None, pid) for pid in islice(pythons, MOST_NAMELESS))


def _shown(stack: Stack, text: str) -> str:
    head = f"{stack.name}, process {stack.pid}, state {stack.state}, in the kernel {stack.kernel}"
    helpers = "".join(f"\n  started {h.name} {h.pid}, state {h.state}" for h in stack.helpers)
    locks = "".join(f"\n  lock {lock.path}, {lock.age_seconds} s old" for lock in stack.locks)
    return f"{head}{helpers}{locks}\n{text or '  no stack could be taken'}\n"


def _handles(pid: int) -> bool:
    """Whether the process catches our signal, whose default would end it."""
    for line in _line(f"/proc/{pid}/status", whole=True).splitlines():
        if line.startswith("SigCgt:"):
            with contextlib.suppress(ValueError):
                return bool(int(line.split()[1], 16) >> (STACK_SIGNAL - 1) & 1)
    return False


def _state(pid: int) -> str | None:
    """The kernel's letter; it follows the name, which may hold anything."""
    after = _line(f"/proc/{pid}/stat").rpartition(")")[2].split()
    return after[0] if after else None


def _cpu_seconds(pids: Sequence[int]) -> float | None:
    used: list[float] = []
    for pid in pids:
        with contextlib.suppress(psutil.Error, OSError):
            times = psutil.Process(pid).cpu_times()
            used.append(times.user + times.system)
    return sum(used) if used else None


def _helpers(pid: int) -> Iterator[Helper]:
    with contextlib.suppress(psutil.Error, OSError):
        for child in psutil.Process(pid).children(recursive=True)[:MOST_HELPERS]:
            name = printable(_line(f"/proc/{child.pid}/comm"))[:40]
            yield Helper(child.pid, name, _state(child.pid) or "Z")


def _environment(pid: int) -> dict[str, str]:
    pairs = (item.partition("=") for item in _line(f"/proc/{pid}/environ", whole=True).split("\0"))
    return {name: value for name, _, value in pairs}


def _line(path: str, whole: bool = False) -> str:
    try:
        text = Path(path).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
    return text if whole else text.partition("\n")[0]


def _size(path: Path) -> int:
    """The bytes of a plain file; 0 for anything else."""
    try:
        found = path.lstat()
    except OSError:
        return 0
    return found.st_size if stat.S_ISREG(found.st_mode) else 0


def _read(path: Path, offset: int) -> str:
    """What was written since, and the first line, which names the main thread."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        with os.fdopen(descriptor, "rb") as file:
            head = file.readline(200)
            file.seek(offset)
            return (head + file.read(MOST_BYTES)).decode("utf-8", "replace")
    except OSError:
        return ""
