"""Keeps the log that a child is writing below a size, by taking its middle away."""

import ctypes
import os
from pathlib import Path

from autotune.core.evidence import Gap
from autotune.world.files import open_plain, size_of

_KEEP_SIZE, _PUNCH_HOLE = 0x01, 0x02  # linux/falloc.h
_COPY_BYTES = 1 << 20
_MARK = "\n[autotune: {missing} bytes of output are left out here]\n"
_MARK_ROOM = 128


class DiskBound:
    """Head and tail of one file; between them a hole that costs no disk."""

    def __init__(self, path: Path, limit_bytes: int) -> None:
        """Allow the file about `limit_bytes` of disk; it is complete up to that size."""
        self._path = path
        self._limit = limit_bytes
        self._block = 4096
        self.head_bytes = max(self._block, limit_bytes // 2 // self._block * self._block)
        self.hole_end = self.head_bytes  # bytes of [head_bytes, hole_end) are gone
        self.gap: Gap | None = None

    def enforce(self, size: int) -> None:
        """Punch the middle out where the file has outgrown its limit; the writer notices nothing.

        A file system that refuses is a gap, not a fault: the training is worth more than the disk
        rule, and truncating under a writer would cost it output.
        """
        tail = self._limit - self.head_bytes
        end = (size - tail) // self._block * self._block
        # Punch in steps of an eighth, so that a slow writer does not cost a call each poll.
        if self.gap is not None or size <= self._limit or end < self.hole_end + self._limit // 8:
            return
        try:
            _punch(self._path, self.head_bytes, end - self.head_bytes)
        except OSError as error:
            self.gap = Gap("output.log within log_bytes", f"no hole could be made: {error}")
            return
        self.hole_end = end

    def compact(self) -> None:
        """Rewrite the file as head, a line naming what is missing, and tail; the writer is gone.

        A crash in between leaves the file as it was; a second call changes nothing.
        """
        try:
            size = size_of(self._path)
            if size <= self._limit:
                return
            self._rewrite(size)
        except OSError as error:
            self.gap = Gap("output.log within log_bytes", f"it could not be rewritten: {error}")

    def _rewrite(self, size: int) -> None:
        tail = max(self._block, self._limit - self.head_bytes - _MARK_ROOM)
        head = max(0, self._limit - tail - _MARK_ROOM)
        start = max(size - tail, self.hole_end)
        spare = self._path.with_name(self._path.name + ".compact")
        try:
            spare.unlink(missing_ok=True)
            with os.fdopen(open_plain(self._path), "rb") as source, spare.open("xb") as target:
                _copy(source.fileno(), target.fileno(), 0, min(head, size))
                os.write(target.fileno(), _MARK.format(missing=start - head).encode())
                _copy(source.fileno(), target.fileno(), start, size)
                os.fchmod(target.fileno(), os.fstat(source.fileno()).st_mode & 0o777)
                os.fsync(target.fileno())
            spare.replace(self._path)
        finally:
            spare.unlink(missing_ok=True)


def _copy(source: int, target: int, start: int, end: int) -> None:
    while start < end:
        piece = os.pread(source, min(_COPY_BYTES, end - start), start)
        if not piece:
            return
        view = memoryview(piece)
        while view:
            view = view[os.write(target, view) :]
        start += len(piece)


def _punch(path: Path, offset: int, length: int) -> None:
    """Python offers no fallocate with a mode, so the C library is asked."""
    libc = ctypes.CDLL(None, use_errno=True)
    fallocate = getattr(libc, "fallocate64", None) or libc.fallocate
    fallocate.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64)
    # Open for writing without O_TRUNC or O_CREAT: the file belongs to the child.
    handle = open_plain(path, os.O_WRONLY)
    try:
        if fallocate(handle, _PUNCH_HOLE | _KEEP_SIZE, offset, length) != 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number))
    finally:
        os.close(handle)
