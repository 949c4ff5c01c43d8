"""Keeps the log that a child is writing below a size, by taking its middle away."""

import ctypes
import os
import threading
from pathlib import Path

from autotune.core.evidence import Gap
from autotune.world.files import open_plain, size_of

_KEEP_SIZE, _PUNCH_HOLE, _COLLAPSE_RANGE = 0x01, 0x02, 0x08  # linux/falloc.h
_COPY_BYTES = 1 << 20
_MARK = "\n[autotune: {missing} bytes of output are left out here]\n"
_MARK_ROOM = 128


class DiskBound:
    """Head and tail of one file; between them a hole that costs no disk."""

    def __init__(self, path: Path, limit_bytes: int) -> None:
        """Allow the file `limit_bytes` of disk at each look; it is complete up to that size."""
        self.limit_bytes = limit_bytes
        self._path = path
        self._block = 4096
        self._punching = threading.Lock()
        self.head_bytes = max(self._block, limit_bytes // 2 // self._block * self._block)
        self.hole_end = self.head_bytes  # bytes of [head_bytes, hole_end) are gone
        self.gap: Gap | None = None

    def enforce(self, size: int) -> None:
        """Punch the middle out where the file has outgrown its limit; the writer notices nothing.

        A file system that refuses is a gap, not a fault: the training is worth more than the disk
        rule, and truncating under a writer would cost it output. Of two threads one is enough.
        """
        held = size - (self.hole_end - self.head_bytes)
        if self.gap is not None or held <= self.limit_bytes or not self._punching.acquire(False):
            return
        # An eighth more than must be, so that a slow writer does not cost a call each poll.
        tail = self.limit_bytes - self.limit_bytes // 8 - self.head_bytes
        before, end = self.hole_end, (size - tail) // self._block * self._block
        try:
            # Whoever reads meanwhile must not take what is gone for zeros that were written.
            self.hole_end = max(before, end)
            _punch(self._path, self.head_bytes, self.hole_end - self.head_bytes)
        except OSError as error:
            self.hole_end = before
            self.gap = Gap("output.log within log_bytes", f"no hole could be made: {error}")
        finally:
            self._punching.release()

    def is_gone(self, offset: int) -> bool:
        """Return whether what was written there was taken away, or is about to be."""
        return self.head_bytes <= offset < self.hole_end

    def kept(self, offset: int, piece: bytes) -> bytes:
        """Return what of a piece that was just read from `offset` is no hole, up to the first."""
        if offset < self.head_bytes < self.hole_end:
            return piece[: self.head_bytes - offset]
        return b"" if self.is_gone(offset) else piece

    def compact(self) -> None:
        """Leave of the file head, a line naming what is missing, and tail; the writer is gone.

        A crash in between loses nothing that is to be kept; a second call changes nothing.
        """
        try:
            size = size_of(self._path)
            if size <= self.limit_bytes:
                return
            if not self._collapse(size):
                self._rewrite(size)
        except OSError as error:
            self.gap = Gap("output.log within log_bytes", f"it could not be rewritten: {error}")

    def _collapse(self, size: int) -> bool:
        """Take the middle out where the file lies, which needs no second copy of what is kept.

        Returns whether the file system can do that.
        """
        begin = max(size - (self.limit_bytes - self.head_bytes), self.hole_end)
        begin = -(-begin // self._block) * self._block
        if begin >= size:
            return False
        handle = open_plain(self._path, os.O_RDWR)
        try:
            mark = b""
            for _ in range(3):  # it stands for what it replaces too, and is longer by a digit, then
                mark = _MARK.format(missing=begin - self.head_bytes + len(mark)).encode()
            place = self.head_bytes - len(mark)
            before = os.pread(handle, len(mark), place)
            os.pwrite(handle, mark, place)
            try:
                _fallocate(handle, _COLLAPSE_RANGE, self.head_bytes, begin - self.head_bytes)
            except OSError:
                os.pwrite(handle, before, place)
                return False
            os.fsync(handle)
        finally:
            os.close(handle)
        return True

    def _rewrite(self, size: int) -> None:
        tail = max(self._block, self.limit_bytes - self.head_bytes - _MARK_ROOM)
        head = max(0, self.limit_bytes - tail - _MARK_ROOM)
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
    # Open for writing without O_TRUNC or O_CREAT: the file belongs to the child.
    handle = open_plain(path, os.O_WRONLY)
    try:
        _fallocate(handle, _PUNCH_HOLE | _KEEP_SIZE, offset, length)
    finally:
        os.close(handle)


def _fallocate(handle: int, mode: int, offset: int, length: int) -> None:
    """Python offers no fallocate with a mode, so the C library is asked."""
    libc = ctypes.CDLL(None, use_errno=True)
    fallocate = getattr(libc, "fallocate64", None) or libc.fallocate
    fallocate.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64)
    if fallocate(handle, mode, offset, length) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
