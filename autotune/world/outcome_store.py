"""Keeps outcomes on this machine, as JSON lines in the user's own state folder.

What it holds helps and nothing depends on it: whatever is wrong with it is a note, never an error.
"""

import contextlib
import fcntl
import json
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tenacity import RetryError, Retrying, retry_if_exception_type, stop_after_delay, wait_fixed

from autotune.core.codec import CodecError, from_plain, to_plain
from autotune.core.outcome import Outcome, keeps
from autotune.core.prior import pruned

NAME = "outcomes.jsonl"
LOCK = "outcomes.lock"
MOST_BYTES = 512 * 2**10
_LONGEST_LINE = 8 * 2**10
_PATIENCE_SECONDS = 2.0  # another run writes for milliseconds


@dataclass(frozen=True)
class Held:
    """What the store holds, oldest first; without a store, nothing and a note."""

    outcomes: tuple[Outcome, ...] = ()
    skipped: int = 0  # lines that are torn, foreign or senseless
    note: str = ""  # the sentence why nothing could be read; "" when it could


class _Refused(OSError):
    """The folder or file is not one that we trust."""


def default_folder() -> Path | None:
    """Return where this user's outcomes lie; None for a user without a home."""
    stated = os.environ.get("XDG_STATE_HOME", "")
    try:
        # A relative path there is to be ignored, says the XDG specification.
        base = Path(stated) if Path(stated).is_absolute() else Path.home() / ".local" / "state"
    except RuntimeError:
        return None
    return base / "autotune" if base.is_absolute() else None


class OutcomeStore:
    """The outcomes of one user on one machine."""

    def __init__(self, folder: Path | None = None) -> None:
        """Name the folder, by default the user's own; nothing is made before `add`."""
        self._folder = folder or default_folder()

    @property
    def path(self) -> Path | None:
        """The file; None for a user without a home."""
        return self._folder / NAME if self._folder else None

    def read(self) -> Held:
        """Return what is held; never raises."""
        try:
            with self._opened() as folder:
                return _read(folder)
        except FileNotFoundError:
            return Held()
        except OSError as error:
            return Held(note=self._says("cannot be read", error))

    def add(self, outcome: Outcome) -> str:
        """Keep one more; return "", or the sentence why it could not be kept. Never raises."""
        fault = keeps(outcome)
        if fault is not None:
            return f"an outcome was not kept: {fault}"
        try:
            with self._opened(make=True) as folder, _locked(folder):
                held = _read(folder)
                kept = pruned((*held.outcomes, outcome))
                line = _line(outcome)
                if len(kept) == len(held.outcomes) + 1 and not held.skipped and _fits(folder, line):
                    _append(folder, line)
                else:
                    _replace(folder, kept)
        except OSError as error:
            return self._says("cannot be written", error)
        return ""

    def forget(self) -> str:
        """Delete everything; return "", or the sentence why that failed. Never raises."""
        try:
            with self._opened() as folder, _locked(folder):
                os.unlink(NAME, dir_fd=folder)
        except FileNotFoundError:
            return ""
        except OSError as error:
            return self._says("cannot be deleted", error)
        return ""

    def _says(self, what: str, error: OSError) -> str:
        where = f" ({self._folder})" if self._folder else ""
        return f"the outcomes of earlier runs {what}{where}: {error.strerror or error}"

    @contextlib.contextmanager
    def _opened(self, make: bool = False) -> Iterator[int]:
        """The folder's descriptor, through which all else is opened: no path is walked twice."""
        if self._folder is None:
            raise _Refused("this user has no home folder; set XDG_STATE_HOME")
        if make:
            _make(self._folder)
        # O_NOFOLLOW: a link could lead to a folder where others plant files.
        flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
        descriptor = os.open(self._folder, flags)
        try:
            _trust(os.fstat(descriptor), "the folder")
            yield descriptor
        finally:
            os.close(descriptor)


def _make(folder: Path) -> None:
    there = next(parent for parent in folder.parents if parent.exists())
    if there.stat().st_uid not in (os.geteuid(), 0):
        # Under sudo HOME is often another's: what we made there would lock its owner out.
        raise _Refused(f"{there} belongs to another user")
    folder.parent.mkdir(parents=True, exist_ok=True)
    folder.mkdir(mode=0o700, exist_ok=True)


def _trust(found: os.stat_result, what: str) -> None:
    if found.st_uid != os.geteuid():
        raise _Refused(f"{what} belongs to another user")
    if found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise _Refused(f"others may write {what}; chmod go-w mends that")


def _open(folder: int, name: str, flags: int) -> int:
    # Not blocking: to open a pipe that somebody put there would wait for ever.
    flags |= os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
    descriptor = os.open(name, flags, 0o600, dir_fd=folder)
    try:
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode):
            raise _Refused(f"{name} is no plain file")
        _trust(found, name)
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


@contextlib.contextmanager
def _locked(folder: int) -> Iterator[None]:
    # A file of its own: the data file is replaced, and a lock on it would go with it.
    descriptor = _open(folder, LOCK, os.O_RDWR | os.O_CREAT)
    try:
        try:
            Retrying(
                retry=retry_if_exception_type(BlockingIOError),
                stop=stop_after_delay(_PATIENCE_SECONDS),
                wait=wait_fixed(0.02),
            )(fcntl.flock, descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except RetryError as error:
            raise _Refused("another autotune holds them") from error
        yield
    finally:
        os.close(descriptor)


def _read(folder: int) -> Held:
    try:
        descriptor = _open(folder, NAME, os.O_RDONLY)
    except FileNotFoundError:
        return Held()
    with os.fdopen(descriptor, "rb") as file:
        size = os.fstat(descriptor).st_size
        # Ours is never longer; of what somebody made of it the end is read, and no more memory.
        file.seek(max(0, size - MOST_BYTES))
        lines = file.read(MOST_BYTES).split(b"\n")
    found = [_outcome(line) for line in lines if line.strip()]
    outcomes = tuple(one for one in found if one is not None)
    torn = size > MOST_BYTES or bool(lines[-1])
    return Held(outcomes, max(len(found) - len(outcomes), int(torn)))


def _outcome(line: bytes) -> Outcome | None:
    if len(line) > _LONGEST_LINE:
        return None
    try:
        outcome = from_plain(Outcome, json.loads(line))
        return outcome if keeps(outcome) is None else None
    except (CodecError, ValueError, TypeError, OverflowError, RecursionError):
        return None


def _line(outcome: Outcome) -> bytes:
    return json.dumps(to_plain(outcome), separators=(",", ":")).encode() + b"\n"


def _fits(folder: int, line: bytes) -> bool:
    try:
        return os.stat(NAME, dir_fd=folder, follow_symlinks=False).st_size + len(line) <= MOST_BYTES
    except FileNotFoundError:
        return True


def _append(folder: int, line: bytes) -> None:
    descriptor = _open(folder, NAME, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    try:
        size = os.fstat(descriptor).st_size
        try:
            if os.write(descriptor, line) != len(line):
                raise OSError("only part of it could be written")
            os.fsync(descriptor)
        except OSError:
            os.ftruncate(descriptor, size)
            raise
    finally:
        os.close(descriptor)


def _replace(folder: int, outcomes: tuple[Outcome, ...]) -> None:
    lines = [_line(one) for one in outcomes]
    while sum(map(len, lines)) > MOST_BYTES:
        del lines[0]  # the oldest
    partial = f".{NAME}.partial"
    with contextlib.suppress(FileNotFoundError):
        os.unlink(partial, dir_fd=folder)
    descriptor = _open(folder, partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(b"".join(lines))
            file.flush()
            os.fsync(descriptor)
        os.rename(partial, NAME, src_dir_fd=folder, dst_dir_fd=folder)
    except OSError:
        with contextlib.suppress(OSError):
            os.unlink(partial, dir_fd=folder)
        raise
