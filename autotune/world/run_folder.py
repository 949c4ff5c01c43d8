"""The run folder: the name of every path in it, its lock, and its control file."""

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import struct
from pathlib import Path
from typing import Any

from tenacity import Retrying, retry_if_exception_type, stop_after_delay, wait_fixed

from autotune.core.fault import AlreadyRunning, CannotRecord, Fault, InputError
from autotune.world.files import is_real_folder, make_folder, open_plain, read_json, write_json

SUPERVISOR = "supervisor: "  # begins the `by` of a command that is for the ranks alone

# Whoever asks about an older autotune's lock holds it for a moment, on a busy machine for seconds.
ASKED_SECONDS = 10.0
_RANGE = struct.Struct("hhqqi4x")  # struct flock of fcntl(2): type, whence, start, length, process
_ALL_OF_IT = _RANGE.pack(fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)


class RunFolder:
    """One job's folder; `path` is absolute."""

    def __init__(self, path: Path) -> None:
        """Name the folder; nothing is made before `create`.

        A link to it is the owner's business; below it none is followed.
        """
        path = Path(os.path.realpath(path))
        self.path = path
        self.journal = path / "journal.jsonl"
        self.job = path / "job.yaml"
        self.lock = path / "lock"
        self.control = path / "control.json"
        self.checkpoints = path / "checkpoints"
        self.staged = path / "staged"
        self.known_good = path / "known-good"
        self.ops = path / "ops"

    def attempt(self, number: int) -> Path:
        """Return the folder of one attempt."""
        return self.path / "attempts" / f"{number:03d}"

    def overlay(self, pins: tuple[str, ...]) -> Path:
        """Return the folder of other package versions that are laid over the training's Python."""
        named = hashlib.sha256("\n".join(pins).encode()).hexdigest()[:12]
        return self.path / "overlay" / named

    def create(self) -> None:
        """Make the folder and the parts that are always there, for their owner alone."""
        try:
            for folder in (self.path, self.path / "attempts", self.checkpoints, self.staged):
                make_folder(folder)
            self.path.chmod(0o700)
            self.refuse_links()
        except OSError as error:
            text = f"the run folder cannot be made ({error.strerror})"
            hint = "choose another with --run-dir"
            raise CannotRecord(Fault(text, str(self.path), hint)) from error

    def refuse_links(self) -> None:
        """Raise OSError where a link lies in the place of a folder of ours.

        A training can put one there while it runs; followed, it would lead out of the run folder
        what we write, rename and remove.
        """
        for folder in (self.path / "attempts", self.checkpoints, self.staged, self.known_good,
                       self.ops, self.path / "nodes", self.checkpoints / "set-aside"):  # fmt: skip
            if os.path.lexists(folder) and not is_real_folder(folder):
                text = "a link or a file lies where a folder of the run was"
                raise OSError(errno.ENOTDIR, text, str(folder))

    def is_foreign(self) -> bool:
        """Return whether the folder holds things beside a job file, and no journal of ours."""
        try:
            if self.journal.exists() or not self.path.is_dir():
                return False
            return any(name.name not in ("lock", self.job.name) for name in self.path.iterdir())
        except OSError as error:
            text = f"the run folder cannot be looked at ({error.strerror})"
            raise CannotRecord(Fault(text, str(self.path), "check its permissions")) from error

    def ask_stop(self, by: str) -> None:
        """Tell the ranks, and a supervisor that watches, to save and end.

        The wish outlives whatever else the ranks are told, until it is seen to.
        """
        self._command("stop", by, stop_by=by)

    def tell_ranks_to_stop(self, why: str) -> None:
        """Tell the ranks alone to save and end; the run may go on after that."""
        self._command("stop", SUPERVISOR + why)

    def tell_ranks_to_rescue(self, attempt: int, step: int, order: int) -> None:
        """Tell each rank of an attempt to write its part of the step it has just completed."""
        self._command("save", SUPERVISOR + "rescue", attempt=attempt, step=step, id=order)

    def release_ranks(self, attempt: int) -> None:
        """Tell ranks that hold their exit to end."""
        self._command("release", SUPERVISOR + "rescue", attempt=attempt)

    def show_alive(self) -> None:
        """Let ranks that hold see that somebody is still there."""
        with contextlib.suppress(OSError):
            os.utime(self.control, follow_symlinks=False)

    def tell_ranks_of_end(self) -> None:
        """Tell the ranks that SIGTERM means it: no step boundary is waited for any more."""
        self._command("end", SUPERVISOR + "what is left is ended")

    def clear_stop(self) -> None:
        """Take back a stop that was seen to."""
        held = read_json(self.control)
        if not isinstance(held, dict) or held.get("command") != "run":
            self._command("run", "autotune", stop_by=None)

    def stop_asked_by(self) -> str | None:
        """Return who asked for a stop through the control file, or None."""
        held = self._held()
        by = str(held.get("by", "autotune stop"))
        if held.get("command") == "stop" and not by.startswith(SUPERVISOR):
            return by
        wish = held.get("stop_by")
        return wish if isinstance(wish, str) else None

    def tells(self) -> str:
        """Return what the ranks are told; empty where nothing is."""
        return str(self._held().get("command", ""))

    def tells_stop(self) -> bool:
        """Return whether ranks are told to save and end, by whomever."""
        return self.tells() == "stop" or self.stop_asked_by() is not None

    def _held(self) -> dict[str, Any]:
        held = read_json(self.control)
        return held if isinstance(held, dict) else {}

    def _command(self, command: str, by: str, **more: Any) -> None:
        held = self._held()
        sequence = held.get("seq", 0)
        sequence = sequence if isinstance(sequence, int) else 0
        wish = {"stop_by": self.stop_asked_by(), **more}
        said = {key: value for key, value in wish.items() if value is not None}
        write_json(self.control, {"seq": sequence + 1, "command": command, "by": by, **said})


class RunLock:
    """The right to supervise one run folder; it dies with the process that holds it.

    It is two locks on one file: one that can be asked about without being taken, so that no number
    of readers keeps a start away, and the flock that an older autotune knows.
    """

    def __init__(self, folder: RunFolder) -> None:
        """Take the lock; raises AlreadyRunning when another supervisor holds it."""
        try:
            self._descriptor = open_plain(folder.lock, os.O_RDWR | os.O_CREAT)
        except OSError as error:
            text = f"the run folder cannot be locked ({error.strerror})"
            raise CannotRecord(Fault(text, str(folder.lock), "make it writable")) from error
        try:
            _claim(self._descriptor)
            Retrying(
                retry=retry_if_exception_type(OSError),
                stop=stop_after_delay(ASKED_SECONDS),
                wait=wait_fixed(0.05),
                reraise=True,
            )(fcntl.flock, self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(self._descriptor)
            text = f"another autotune (process {holder(folder)}) supervises this run"
            hint = f"`autotune status {folder.path}` shows it; `autotune stop` ends it"
            raise AlreadyRunning(Fault(text, str(folder.path), hint)) from error
        os.ftruncate(self._descriptor, 0)
        os.write(self._descriptor, json.dumps({"pid": os.getpid()}).encode())

    def release(self) -> None:
        """Give the right back."""
        os.close(self._descriptor)


def _claim(descriptor: int) -> None:
    """Take the lock that can be asked about; raises BlockingIOError where another has it.

    A file system or kernel without such locks leaves it at the flock.
    """
    try:
        fcntl.fcntl(descriptor, fcntl.F_OFD_SETLK, _ALL_OF_IT)
    except OSError as error:
        if error.errno in (errno.EAGAIN, errno.EACCES):
            raise BlockingIOError(*error.args) from error


def _is_claimed(descriptor: int) -> bool:
    try:
        told = fcntl.fcntl(descriptor, fcntl.F_OFD_GETLK, _ALL_OF_IT)
    except OSError:
        return False
    return bool(_RANGE.unpack(told)[0] != fcntl.F_UNLCK)


def holder(folder: RunFolder) -> int | None:
    """Return the process that supervises this run, or None when nobody does."""
    try:
        descriptor = open_plain(folder.lock)
    except OSError:
        return None
    try:
        if _is_claimed(descriptor):
            raise BlockingIOError
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)  # an older one has only this
    except OSError:
        held: Any = read_json(folder.lock)
        return held.get("pid") if isinstance(held, dict) else -1
    else:
        return None
    finally:
        os.close(descriptor)


def open_run_folder(path: Path) -> RunFolder:
    """Return the run folder at `path`; raises InputError when none is there."""
    folder = RunFolder(path.absolute())
    if not folder.journal.is_file():
        text = "this is not a run folder (it holds no journal.jsonl)"
        hint = "give the folder that `autotune run` named; by default runs/NAME beside the job file"
        raise InputError(Fault(text, str(path), hint))
    return folder
