"""Splits a stream of bytes into lines, keeping the head and the tail of one that never ends."""

from collections.abc import Callable

# Longer than what a line is searched in (core/line.py), so that the cut is never seen twice.
KEEP_BYTES = 6 * 1024
MISSING = " … ".encode()


class BlockSplitter:
    """Hands over whole lines, many at once; what is pending never exceeds two KEEP_BYTES."""

    def __init__(self, on_block: Callable[[bytes], object], keep_bytes: int = KEEP_BYTES) -> None:
        """Call `on_block` with one or more lines, each of them ended by a newline."""
        self._on_block = on_block
        self._keep = keep_bytes
        self._head = b""
        self._tail = b""
        self._cut = 0

    def feed(self, chunk: bytes) -> None:
        """Read the next bytes of the stream."""
        first = chunk.find(b"\n")
        if first < 0:
            self._add(chunk)
            return
        self._add(chunk[:first])
        self.flush(even_empty=True)
        last = chunk.rfind(b"\n") + 1
        if last > first + 1:
            self._on_block(self._bounded(chunk[first + 1 : last]))
        self._add(chunk[last:])

    def flush(self, even_empty: bool = False) -> None:
        """Hand over the pending line; called by the owner when the stream has ended."""
        if not (self._head or even_empty):
            return
        line = self._head + (MISSING if self._cut else b"") + self._tail
        self._head, self._tail, self._cut = b"", b"", 0
        self._on_block(line + b"\n")

    @property
    def pending_bytes(self) -> int:
        """The length of the pending line, whether it is all kept or not."""
        return len(self._head) + self._cut + len(self._tail)

    def _bounded(self, lines: bytes) -> bytes:
        """Cut the middle out of lines that are too long; most often there is none."""
        most, pieces, copied, at = 2 * self._keep, [], 0, 0
        while len(lines) - at > most:
            end = lines.rfind(b"\n", at, at + most + 1)
            if end < 0:  # the line that begins at `at` is too long
                end = lines.find(b"\n", at)
                pieces += [lines[copied : at + self._keep], MISSING]
                copied = end - self._keep
            at = end + 1
        return b"".join([*pieces, lines[copied:]]) if pieces else lines

    def _add(self, piece: bytes) -> None:
        room = self._keep - len(self._head)
        if room > 0:
            self._head += piece[:room]
            piece = piece[room:]
        if piece:
            tail = self._tail + piece[-self._keep :]
            self._cut += len(self._tail) + len(piece) - min(len(tail), self._keep)
            self._tail = tail[-self._keep :]


class LineSplitter(BlockSplitter):
    """Hands over one line at a time, without its newline."""

    def __init__(self, on_line: Callable[[bytes], object], keep_bytes: int = KEEP_BYTES) -> None:
        """Call `on_line` with each line."""
        super().__init__(self._split, keep_bytes)
        self._on_line = on_line

    def _split(self, block: bytes) -> None:
        for line in block[:-1].split(b"\n"):
            self._on_line(line)
