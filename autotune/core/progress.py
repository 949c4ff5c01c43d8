"""Reads the steps that a training counts, from many lines at once."""

import re
from collections.abc import Iterator
from dataclasses import dataclass

from autotune.core.signature import Counter, Signature, Signatures

MOST_BARS = 64
STARTED_OVER = 1  # a bar shows 0, or 1, when it starts over
GONE_FAR = 3


@dataclass(frozen=True)
class Movement:
    """What the bars in some lines did, as offsets into them."""

    moved: tuple[int, Signature] | None = None  # the last time that one moved
    started_over: int | None = None  # the first time that one began anew


class Progress:
    """The state of every bar; one bar is told from another by its total."""

    def __init__(self, signatures: Signatures) -> None:
        """Begin before any step."""
        self._counters = signatures.counters
        self._steps: dict[bytes, int] = {}

    def forget(self) -> None:
        """Another run begins, whose bars are its own."""
        self._steps.clear()

    def read(self, block: bytes, start: int, end: int) -> Movement:
        """Follow the bars in block[start:end], by the last state that each line shows.

        A bar counts when it moved from line to line: it is printed once more, unmoved, when it is
        closed, and a line with all of its states is but the loading of something small.
        """
        moved: tuple[int, Signature] | None = None
        over: int | None = None
        for counter in self._counters:
            last, first_over = self._follow(counter, block, start, end)
            if last is not None and (moved is None or last > moved[0]):
                moved = (last, counter.signature)
            if first_over is not None and (over is None or first_over < over):
                over = first_over
        return Movement(moved, over)

    def _follow(
        self, counter: Counter, block: bytes, start: int, end: int
    ) -> tuple[int | None, int | None]:
        moved = over = None
        for match in _last_of_each_line(counter.pattern, block, start, end):
            total = match["total"] or b"" if "total" in match.re.groupindex else b""
            step = int(match["step"] or 0)
            before = self._steps.get(total)
            if before is None:
                if len(self._steps) < MOST_BARS:
                    self._steps[total] = step
            elif step > before:
                self._steps[total] = step
                moved = match
            elif step <= STARTED_OVER and before >= GONE_FAR:
                self._steps[total] = step
                over = match if over is None else over
        return (moved.start() if moved else None), (over.start() if over else None)


def _last_of_each_line(
    pattern: re.Pattern[bytes], block: bytes, start: int, end: int
) -> Iterator[re.Match[bytes]]:
    last, line_end = None, -1
    for match in pattern.finditer(block, start, end):
        if match.start() > line_end:
            if last is not None:
                yield last
            line_end = block.find(b"\n", match.start(), end)
            line_end = end if line_end < 0 else line_end
        last = match
    if last is not None:
        yield last
