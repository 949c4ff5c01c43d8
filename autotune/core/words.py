"""Finds which of many words stand in a text, in one pass over it.

The library is Rust's aho-corasick behind a function from bytes to numbers: no file, no clock, no
process. Thousands of words cost no more than one, where `re` reads a megabyte a second.
"""

from collections.abc import Iterable, Iterator, Mapping

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
        return self._lines(folded, self._hits(folded))

    def lines_from_end(self, folded: bytes) -> Iterator[int]:
        """Yield the same from the last line to the first."""
        return self._lines(folded, reversed(self._hits(folded)))

    def _lines(self, folded: bytes, hits: Iterable[Hit]) -> Iterator[int]:
        start, end, done = 0, -1, False
        refused: set[int] = set()  # of one line; it may hold one word a thousand times
        for index, place, _ in hits:
            if not start <= place < end:
                start, end = line_around(folded, place)
                done, refused = False, set()
            more = self._more[index]
            if done or id(more) in refused:
                continue
            if not more or any(folded.find(word, start, end) >= 0 for word in more):
                done = True
                yield start
            else:
                refused.add(id(more))

    def _hits(self, folded: bytes) -> list[Hit]:
        return self._automaton.find_matches_as_indexes(folded, overlapping=True)


def line_around(text: bytes, place: int) -> tuple[int, int]:
    """Return where the line around a place begins and ends."""
    end = text.find(b"\n", place)
    return text.rfind(b"\n", 0, place) + 1, len(text) if end < 0 else end
