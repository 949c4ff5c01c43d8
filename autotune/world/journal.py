"""The journal on disk: JSON lines, each synced before anything is done about it."""

import contextlib
import json
import os
from collections.abc import Callable
from pathlib import Path

from tenacity import RetryError, Retrying, retry_if_exception_type, stop_after_delay, wait_fixed

from autotune.core.codec import CodecError
from autotune.core.fault import CannotRecord, Fault
from autotune.core.record import Event, decode, encode
from autotune.world.files import open_plain, read_plain, sync

LARGEST_BYTES = 512 * 2**20  # a run of years stays below it


class FileJournal:
    """Appends events to one file; the file is the run's only state."""

    def __init__(self, path: Path, now: Callable[[], float], patience_seconds: float = 5.0) -> None:
        """Open `path` for events dated by `now`; a torn last line is cut off first."""
        self._path = path
        self._now = now
        self._patience = patience_seconds
        _cut_torn_line(path)

    def append(self, event: Event) -> None:
        """Put one event on disk; a few seconds of trouble are waited out, then CannotRecord."""
        line = json.dumps(encode(event, self._now()), separators=(",", ":")) + "\n"
        retrying = Retrying(
            retry=retry_if_exception_type(OSError),
            stop=stop_after_delay(self._patience),
            wait=wait_fixed(0.5),
        )
        try:
            retrying(self._write, line.encode())
        except RetryError as error:
            cause = error.last_attempt.exception()
            raise CannotRecord(
                Fault(
                    f"the journal could not be written ({cause})",
                    str(self._path),
                    "free disk space or mend the folder, then start the same command again",
                )
            ) from error

    def _write(self, line: bytes) -> None:
        descriptor = os.open(
            self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW, 0o600
        )
        try:
            size = os.fstat(descriptor).st_size
            try:
                if os.write(descriptor, line) != len(line):
                    raise OSError("only part of a journal line could be written")
                os.fsync(descriptor)
                if size == 0:  # the names on the way to it are new as well
                    sync(self._path.parent)
                    with contextlib.suppress(OSError):  # a folder of others, perhaps
                        sync(self._path.parent.parent)
            except OSError:
                os.ftruncate(descriptor, size)
                raise
        finally:
            os.close(descriptor)


def read_journal(path: Path) -> list[Event]:
    """Return the events of a journal; a torn last line is not there yet.

    Raises CannotRecord when a line before the last is not ours to read.
    """
    try:
        raw = read_plain(path, LARGEST_BYTES)
    except FileNotFoundError:
        return []
    except OSError as error:
        text = f"the journal cannot be read ({error.strerror})"
        raise CannotRecord(Fault(text, str(path), "check the run folder")) from error
    events: list[Event] = []
    for number, line in enumerate(raw.split(b"\n")[:-1], 1):
        try:
            events.append(decode(json.loads(line)))
        except (ValueError, AttributeError, CodecError, RecursionError) as error:
            raise CannotRecord(
                Fault(
                    f"the journal cannot be read ({error})",
                    f"{path}:{number}",
                    "it was edited or damaged; move the run folder aside to start anew",
                )
            ) from error
    return events


def _cut_torn_line(path: Path) -> None:
    try:
        descriptor = open_plain(path, os.O_RDWR)
        with os.fdopen(descriptor, "r+b") as file:
            raw = file.read()
            whole = raw.rfind(b"\n") + 1
            if whole != len(raw):
                file.truncate(whole)
    except FileNotFoundError:
        return
    except OSError as error:
        text = f"the journal could not be opened ({error})"
        raise CannotRecord(Fault(text, str(path), "make the run folder writable")) from error
