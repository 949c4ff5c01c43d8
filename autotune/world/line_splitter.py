"""Splits a stream of bytes into lines, keeping the head and the tail of one that never ends."""

from collections.abc import Callable

# Longer than what a line is searched in (core/line.py), so that the cut is never seen twice.
KEEP_BYTES = 6 * 1024
MISSING = " … ".encode()


class LineSplitter:
    """Feeds complete lines to a callback; what is pending never grows beyond two KEEP_BYTES."""

    def __init__(self, on_line: Callable[[bytes], object], keep_bytes: int = KEEP_BYTES) -> None:
        """Call `on_line` with each line, without its newline."""
        self._on_line = on_line
        self._keep = keep_bytes
        self._head = b""
        self._tail = b""
        self._cut = 0

    def feed(self, chunk: bytes) -> None:
        """Read the next bytes of the stream."""
        first, newline, rest = chunk.partition(b"\n")
        self._add(first)
        if not newline:
            return
        self.flush(even_empty=True)
        *lines, last = rest.split(b"\n")
        for line in lines:
            self._emit(line)
        self._add(last)

    def flush(self, even_empty: bool = False) -> None:
        """Hand over the pending line; called by the owner when the stream has ended."""
        if not (self._head or even_empty):
            return
        line = self._head + (MISSING if self._cut else b"") + self._tail
        self._head, self._tail, self._cut = b"", b"", 0
        self._on_line(line)

    @property
    def pending_bytes(self) -> int:
        """The length of the pending line, whether it is all kept or not."""
        return len(self._head) + self._cut + len(self._tail)

    def _emit(self, line: bytes) -> None:
        if len(line) > 2 * self._keep:
            line = line[: self._keep] + MISSING + line[-self._keep :]
        self._on_line(line)

    def _add(self, piece: bytes) -> None:
        room = self._keep - len(self._head)
        if room > 0:
            self._head += piece[:room]
            piece = piece[room:]
        if piece:
            tail = self._tail + piece
            self._cut += max(0, len(tail) - self._keep)
            self._tail = tail[-self._keep :]
