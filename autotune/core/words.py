"""Finds which of many words stand in a text, in one pass over it.

The library is Rust's aho-corasick behind a function from bytes to numbers: no file, no clock, no
process. Thousands of words cost no more than one, where `re` reads a megabyte a second.
"""

from collections.abc import Iterable

from ahocorasick_rs import BytesAhoCorasick, Implementation


class Words:
    """Some words in lower case, looked for in text that `core.line.fold` has prepared."""

    def __init__(self, words: Iterable[str]) -> None:
        """Build the automaton, which takes some milliseconds for thousands of words."""
        self._words = sorted({word for word in words if word})
        self._automaton = BytesAhoCorasick(
            [word.encode("utf-8", "replace") for word in self._words],
            implementation=Implementation.ContiguousNFA,
        )

    def within(self, folded: bytes) -> set[str]:
        """Return every word that stands somewhere in the text, within another one or not."""
        found = self._automaton.find_matches_as_indexes(folded, overlapping=True)
        return {self._words[index] for index, _, _ in found}

    def places(self, folded: bytes) -> list[int]:
        """Return rising offsets of words, at least one for each line that holds any."""
        return [start for _, start, _ in self._automaton.find_matches_as_indexes(folded)]
