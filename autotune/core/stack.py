"""What one process of a training was doing at one moment, and what its stack says it waits for."""

import re
from dataclasses import dataclass, replace

from autotune.core.failure import Failure, Role
from autotune.core.signature import Signatures

MOST_FRAMES = 40
STOPPED = frozenset("Tt")  # by SIGSTOP, or by a debugger
ON_DISK = "D"
_STRENGTH = (Role.ROOT, Role.CASCADE, Role.CONFIRMS, Role.CONTEXT)

# Python's faulthandler; a thread's name is in brackets since 3.14.
_THREAD = re.compile(
    r"^(?:Current thread|Thread) 0x([0-9a-fA-F]{1,16})(?: \[[^\]]{0,80}\])? "
    r"\(most recent call first\)"
)
_MAIN = re.compile(r"^main thread 0x([0-9a-fA-F]{1,16})")
_FRAME = re.compile(r'^ {2}File "([^"]{1,1000})", line (\d{1,9}|\?\?\?) in ([^\n]{1,300})$')
# `py-spy dump --full-filenames`
_SPY_THREAD = re.compile(r'^Thread (\d{1,10}) \([^)]{1,40}\)(?:: "([^"]{0,200})")?')
_SPY_FRAME = re.compile(r"^ {4}(\S[^\n]{0,300}) \(([^\n]{1,1000}):(\d{1,9})\)$")
# Threads that Python itself started begin in one of these; what else runs Python was started by a
# library, as autograd does for a backward pass on a GPU, and works on the main thread's behalf.
_OWN_STARTS = frozenset({"_bootstrap", "_bootstrap_inner"})


@dataclass(frozen=True)
class Frame:
    """One call that has not returned yet."""

    file: str
    line: int
    function: str

    def __str__(self) -> str:
        """Return it as Python writes it in a traceback."""
        return f'File "{self.file}", line {self.line}, in {self.function}'


@dataclass(frozen=True)
class Helper:
    """A process that a rank started: a worker of its data loader, a compiler."""

    pid: int
    name: str
    state: str


@dataclass(frozen=True)
class Lock:
    """A lock file of the extension builds, in the folder that the process builds in."""

    path: str
    ours: bool  # in the run's own folder, where it is removed before the next start
    age_seconds: float | None = None


@dataclass(frozen=True)
class Waiting:
    """What a signature of stacks says a frame waits for."""

    signature: str
    failure: Failure
    role: Role
    means: str
    frame: Frame


@dataclass(frozen=True)
class Stack:
    """One process as it was found; None and empty where there was no reading."""

    pid: int
    rank: int | None = None
    state: str | None = None  # the kernel's letter: R, S, D, T, t, Z
    source: str | None = None  # faulthandler or py-spy
    frames: tuple[Frame, ...] = ()  # of the thread that trains, innermost first
    waiting: Waiting | None = None
    cpu_seconds: float | None = None  # used so far by the process and those it started
    kernel: str | None = None  # where in the kernel it sleeps
    helpers: tuple[Helper, ...] = ()
    locks: tuple[Lock, ...] = ()

    @property
    def name(self) -> str:
        """What people call it."""
        return f"process {self.pid}" if self.rank is None else f"rank {self.rank}"


def printable(text: str) -> str:
    """Return the text with what a terminal would obey, or nobody could read, made visible."""
    return "".join(c if c.isprintable() or c == "\n" else "?" for c in text)


def frames_of_faulthandler(text: str) -> tuple[Frame, ...]:
    """Return the frames of the training thread in what faulthandler wrote for one process.

    The line `main thread 0x…` says which thread is the main one; without it the oldest counts,
    which faulthandler writes last.
    """
    lines = printable(text).splitlines()
    main = next((int(m[1], 16) for m in map(_MAIN.match, lines) if m), None)
    threads: list[tuple[int, list[Frame]]] = []
    for line in lines:
        thread, frame = _THREAD.match(line), _FRAME.match(line)
        if thread:
            threads.append((int(thread[1], 16), []))
        elif frame and threads:
            number = int(frame[2]) if frame[2].isdigit() else 0
            threads[-1][1].append(Frame(frame[1], number, frame[3]))
    return _training(threads, main)


def frames_of_py_spy(text: str) -> tuple[Frame, ...]:
    """Return the frames of the training thread in the output of `py-spy dump`."""
    main: int | None = None
    threads: list[tuple[int, list[Frame]]] = []
    for line in printable(text).splitlines():
        thread, frame = _SPY_THREAD.match(line), _SPY_FRAME.match(line)
        if thread:
            threads.append((int(thread[1]), []))
            if thread[2] == "MainThread" and main is None:
                main = int(thread[1])
        elif frame and threads:
            # py-spy puts the class before a method's name, faulthandler does not.
            function = frame[1] if frame[1].startswith("<") else frame[1].rsplit(".", 1)[-1]
            threads[-1][1].append(Frame(frame[2], int(frame[3]), function))
    return _training(threads, main if main is not None else (threads[0][0] if threads else None))


def _training(threads: list[tuple[int, list[Frame]]], main: int | None) -> tuple[Frame, ...]:
    if not threads:
        return ()
    main = threads[-1][0] if main is None else main
    ours = next((frames for thread, frames in threads if thread == main), [])
    for thread, frames in threads:
        if thread != main and frames and frames[-1].function not in _OWN_STARTS:
            ours = [*frames, *ours]
    return tuple(ours[:MOST_FRAMES])


def with_waiting(stack: Stack, signatures: Signatures) -> Stack:
    """Return the stack with what its innermost telling frame waits for.

    What only confirms, as the wait of a library for one of its own threads, counts where no frame
    further out says more.
    """
    weak: Waiting | None = None
    for frame in stack.frames:
        for entry in sorted(
            (item.signature for item in signatures.of_stacks.search(str(frame))),
            key=lambda entry: (_STRENGTH.index(entry.role), entry.name),
        ):
            said = Waiting(entry.name, entry.failure, entry.role, entry.means, frame)
            if entry.role in (Role.ROOT, Role.CASCADE):
                return replace(stack, waiting=said)
            weak = weak or said
    return replace(stack, waiting=weak)
