"""Follows the kernel's log from one moment on, without ever waiting for it."""

import errno
import os
import stat
import time
from dataclasses import dataclass
from pathlib import Path

from autotune.core.evidence import Gap

KMSG = Path("/dev/kmsg")
MOST_RECORDS = 20_000  # of one look; a table of all tasks of a large server is one line for each
_RECORD_BYTES = 1 << 14
_KERNEL_FACILITY = 0
_KMSG_DEVICE = os.makedev(1, 11)


@dataclass(frozen=True)
class KernelLine:
    """One record of the kernel's log."""

    seconds: float  # from when the log was opened until this was read
    text: str


class KernelLog:
    """The kernel's log from the moment this is made; where it cannot be read, a gap says why."""

    def __init__(self, path: Path = KMSG) -> None:
        """Open the log at its end."""
        self._why: str | None = None
        self._missed = 0
        self._last: int | None = None  # sequence number of the newest record read
        self._began = time.monotonic()
        self._descriptor: int | None = None
        try:
            self._descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
            seen = os.fstat(self._descriptor)
            if stat.S_ISCHR(seen.st_mode) and seen.st_rdev != _KMSG_DEVICE:
                # Containers put a terminal or /dev/null in its place, silent like a healthy kernel.
                self._give_up(f"{path} is another device here, as in containers")
                return
            os.lseek(self._descriptor, 0, os.SEEK_END)
        except OSError as error:
            self._give_up(f"{path} cannot be read ({error.strerror})")

    def read(self) -> list[KernelLine]:
        """Return what the kernel wrote since the last look, as far as one look goes."""
        # The kernel's own stamps come from a clock that nothing corrects: after weeks without a
        # boot they are minutes off ours. When we read a record is never far from when it was made.
        seconds = round(time.monotonic() - self._began, 1)
        lines = []
        for _ in range(MOST_RECORDS):
            record = self._next()
            if record is None:
                break
            text = self._parsed(record)
            if text is not None:
                lines.append(KernelLine(seconds, text))
        return lines

    def gap(self) -> Gap | None:
        """Return what was not read, and why."""
        if self._why is not None:
            return Gap("kernel log", self._why)
        if self._missed:
            text = f"{self._missed} records were overwritten before they were read"
            return Gap("kernel log", text)
        return None

    def close(self) -> None:
        """Let go of the log."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def _next(self) -> bytes | None:
        """One record; None where there is none yet, or none any more."""
        if self._descriptor is None:
            return None
        for _ in range(2):
            try:
                return os.read(self._descriptor, _RECORD_BYTES) or None
            except BlockingIOError:
                return None
            except OSError as error:
                if error.errno != errno.EPIPE:
                    self._give_up(f"reading it failed ({error.strerror})")
                    return None
                # The oldest records were overwritten; the next read goes on behind them, and its
                # sequence number says how many they were.
                self._missed += self._last is None
        return None

    def _parsed(self, record: bytes) -> str | None:
        head, _, rest = record.partition(b";")
        try:
            priority, sequence = (int(part) for part in head.split(b",")[:2])
        except ValueError:
            return None
        if self._last is not None and sequence > self._last + 1:
            self._missed += sequence - self._last - 1
        self._last = sequence
        if priority >> 3 != _KERNEL_FACILITY:
            return None  # a program's words, written into the kernel's log
        return rest.partition(b"\n")[0].decode("utf-8", "replace")

    def _give_up(self, why: str) -> None:
        self._why = why
        self.close()
