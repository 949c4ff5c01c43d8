"""Finds which of many words stand in a text, in one pass over it.

The library is Rust's aho-corasick behind a function from bytes to numbers: no file, no clock, no
process. Thousands of words cost no more than one, where `re` reads a megabyte a second.
"""

from collections.abc import Iterator, Mapping

from ahocorasick_rs import BytesAhoCorasick, Implementation

Hit = tuple[int, int, int]  # which word, where it begins, where it ends


class Words:
    """Some words in lower case, looked for in text that `core.line.fold` has prepared.

    A word may need more words, of which one must stand in the same line.
    """

    def __init__(self, words: Mapping[str, tuple[bytes, ...]]) -> None:
        """Build the automaton, which takes some milliseconds for thousands of words."""
        self._words = sorted(words)
        self._more = [words[word] for word in self._words]
        self._automaton = BytesAhoCorasick(
            [word.encode("utf-8", "replace") for word in self._words],
            implementation=Implementation.ContiguousNFA,
        )

    def within(self, folded: bytes) -> set[str]:
        """Return every word that stands somewhere in the text, within another one or not."""
        return {self._words[index] for index, _, _ in self._hits(folded)}

    def lines(self, folded: bytes) -> Iterator[int]:
        """Yield where each line begins that holds a word and what it needs, in their order."""
        end = -1
        for index, place, _ in self._hits(folded):
            if place > end:
                start, after = line_around(folded, place)
                if self._holds_more(folded, index, start, after):
                    end = after
                    yield start

    def lines_from_end(self, folded: bytes) -> Iterator[int]:
        """Yield the same from the last line to the first."""
        start = len(folded)
        for index, place, _ in reversed(self._hits(folded)):
            if place < start:
                begin, after = line_around(folded, place)
                if self._holds_more(folded, index, begin, after):
                    start = begin
                    yield begin

    def _hits(self, folded: bytes) -> list[Hit]:
        return self._automaton.find_matches_as_indexes(folded, overlapping=True)

    def _holds_more(self, folded: bytes, index: int, start: int, end: int) -> bool:
        more = self._more[index]
        return not more or any(folded.find(word, start, end) >= 0 for word in more)


def line_around(text: bytes, place: int) -> tuple[int, int]:
    """Return where the line around a place begins and ends."""
    end = text.find(b"\n", place)
    return text.rfind(b"\n", 0, place) + 1, len(text) if end < 0 else end
