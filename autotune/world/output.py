"""Follows the log a child writes for itself, in bounded memory and on bounded disk."""

import os
from collections import deque
from collections.abc import Callable
from pathlib import Path

from autotune.core.evidence import Gap
from autotune.core.line import clean
from autotune.core.secret import hide
from autotune.world.disk_bound import DiskBound
from autotune.world.files import open_plain, size_of
from autotune.world.flood_guard import FloodGuard
from autotune.world.line_splitter import BlockSplitter

CHUNK_BYTES = 256 * 1024
POLL_BYTES = 8 * 1024 * 1024  # one poll reads no more, so that the loop stays awake
LAG_BYTES = 256 * 1024 * 1024  # further behind than this, the middle is skipped
RING_LINES = 200
SHOWN_CHARACTERS = 2000  # of one remembered line


class OutputTail:
    """Reads what is new in one output.log; the file may not exist yet, or be anything at all."""

    def __init__(
        self,
        path: Path,
        on_block: Callable[[bytes], object],
        log_bytes: int = 2 * 2**30,
        offset: int = 0,
        secrets: tuple[bytes, ...] = (),
    ) -> None:
        """Call `on_block` with raw lines from `offset` on, each ended by a newline.

        None of `secrets` is in what is handed over or remembered.
        """
        self._secrets = secrets
        self._path = path
        self._on_block = on_block
        self._bound = DiskBound(path, log_bytes)
        self._guard = FloodGuard(path, self._bound)
        self._splitter = BlockSplitter(self._take)
        self._ring: deque[bytes] = deque(maxlen=RING_LINES)
        self._gaps: dict[str, Gap] = {}
        self._skipped = 0
        self.offset = offset
        self.lines = 0

    def poll(self, most_bytes: int = POLL_BYTES) -> int:
        """Read at most `most_bytes` that are new, and return how many were read."""
        try:
            size = size_of(self._path)
            self._guard.see(size)
            if size < self.offset:
                self._note("output", f"output.log shrank from {self.offset} to {size} bytes")
                self.offset = size
            self._skip(size)
            return self._read(min(size - self.offset, most_bytes))
        except FileNotFoundError:
            return 0  # the child has not been started yet
        except OSError as error:
            self._note("output", f"output.log cannot be read: {error}")
            return 0

    def drain(self) -> None:
        """Read to the end and hand over the last line, complete or not; the child has ended."""
        self._guard.end()
        while self.poll():
            pass
        self._splitter.flush()

    def compact(self) -> None:
        """Bring the file within its limit; only after the child and `drain`."""
        self._bound.compact()

    def last_lines(self, count: int = RING_LINES) -> list[str]:
        """Return the last lines as a person would have seen them."""
        recent = list(self._ring)[-count:] if count > 0 else []
        return [clean(raw).text[:SHOWN_CHARACTERS] for raw in recent]

    def gaps(self) -> tuple[Gap, ...]:
        """Return what could not be read or kept, and why."""
        gaps = list(self._gaps.values())
        if self._skipped:
            gaps.append(Gap("output", f"{self._skipped} bytes were written faster than read"))
        if self._bound.gap is not None:
            gaps.append(self._bound.gap)
        return tuple(gaps)

    def _read(self, wanted: int) -> int:
        done = 0
        with os.fdopen(open_plain(self._path), "rb", buffering=0) as stream:
            stream.seek(self.offset)
            while done < wanted:
                chunk = stream.read(min(CHUNK_BYTES, wanted - done))
                chunk = self._bound.kept(self.offset, chunk)
                if not chunk:
                    break
                done += len(chunk)
                self.offset += len(chunk)
                self._splitter.feed(chunk)
        return done

    def _skip(self, size: int) -> None:
        """Jump over a hole, and over what we shall never catch up with."""
        goal = self._bound.hole_end if self._bound.is_gone(self.offset) else self.offset
        if size - goal > LAG_BYTES:
            goal = size - POLL_BYTES
        if goal > self.offset:
            self._skipped += goal - self.offset
            self._splitter.flush()
            self.offset = goal

    def _take(self, block: bytes) -> None:
        block = hide(block, self._secrets)
        self.lines += block.count(b"\n")
        self._ring.extend(block[:-1].rsplit(b"\n", RING_LINES)[-RING_LINES:])
        self._on_block(block)

    def _note(self, reading: str, why: str) -> None:
        if len(self._gaps) < 20:
            self._gaps[why] = Gap(reading, why)
