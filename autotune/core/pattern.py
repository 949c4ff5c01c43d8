"""Checks that a signature's pattern cannot stall the watcher, and derives what it must contain."""

import re
from collections.abc import Iterable
from typing import Any

try:  # the parser of `re` moved in Python 3.11
    from re import _constants as sre  # type: ignore[attr-defined]
    from re import _parser as sre_parser  # type: ignore[attr-defined]
except ImportError:  # pragma: no cover
    import sre_constants as sre
    import sre_parse as sre_parser

# One pattern on one window of 8 KiB then takes some ten million steps at the very worst.
MOST_WAYS = 2500
_REPEATS = (sre.MAX_REPEAT, sre.MIN_REPEAT)


class PatternError(ValueError):
    """A pattern that is not a regular expression, or one that could stall the watcher."""


def compile_pattern(text: str) -> re.Pattern[str]:
    """Return the compiled pattern; raises PatternError with what is wrong and what would do."""
    try:
        tree = sre_parser.parse(text)
        compiled = re.compile(text)
    except re.error as error:
        raise PatternError(f"not a regular expression: {error}") from error
    ways = _ways(tree)
    if ways > MOST_WAYS:
        raise PatternError(
            f"may take {ways} steps at each character (at most {MOST_WAYS}): "
            "bound its repeats more tightly or split it"
        )
    return compiled


def _ways(tree: Any) -> int:
    """An upper bound of the ways to match from one place: repeats multiply, branches add."""
    ways = 1
    for operation, argument in tree:
        if operation in _REPEATS:
            ways *= _ways_of_repeat(*argument)
        elif operation is sre.SUBPATTERN:
            ways *= _ways(argument[-1])
        elif operation is sre.BRANCH:
            ways *= max(1, sum(w for w in map(_ways, argument[1]) if w > 1))
        elif operation in (sre.ASSERT, sre.ASSERT_NOT):
            ways *= _ways(argument[1])
        elif operation in (sre.GROUPREF, sre.GROUPREF_EXISTS):
            raise PatternError("refers back to a group, which can take for ever")
    return ways


def _ways_of_repeat(low: int, high: int, body: Any) -> int:
    if high is sre.MAXREPEAT or int(high) > MOST_WAYS:
        raise PatternError("has a repeat without an end (`*` or `+`): write {0,80} or the like")
    inner = _ways(body)
    if inner > 1 and int(high) > 1:
        raise PatternError("repeats something that itself repeats: write it out")
    return max(inner, int(high) - int(low) + 1)


def required_words(text: str) -> tuple[str, ...]:
    """Return words in lower case of which every match contains at least one; empty if unknown.

    They are derived, never written by hand, so that a signature is registered in one place only.
    """
    return _required(sre_parser.parse(text)) or ()


def _required(tree: Any) -> tuple[str, ...] | None:
    """The best set of alternatives among the parts of a sequence, all of which must match."""
    candidates: list[tuple[str, ...]] = []
    run = ""
    for operation, argument in tree:
        if operation is sre.LITERAL and ord(chr(argument).lower()[0]) < 128:
            run += chr(argument).lower()
            continue
        candidates.append((run,))
        run = ""
        inner = _required_of_part(operation, argument)
        if inner:
            candidates.append(inner)
    candidates.append((run,))
    usable = [words for words in candidates if all(words)]
    return max(usable, key=lambda words: min(map(len, words)), default=None)


def _required_of_part(operation: Any, argument: Any) -> tuple[str, ...] | None:
    if operation is sre.SUBPATTERN:
        return _required(argument[-1])
    if operation in _REPEATS and int(argument[0]) > 0:
        return _required(argument[2])
    if operation is sre.BRANCH:
        branches = [_required(branch) for branch in argument[1]]
        if all(branches):
            return tuple(word for branch in branches if branch for word in branch)
    return None


def word_finder(words: Iterable[str]) -> re.Pattern[str]:
    """Return a pattern whose matches, at every place of a line, hold the longest word there.

    One pass over the line instead of one search a word; a word that begins another one is found
    through it, see `words_within`.
    """
    trie: dict[str, Any] = {}
    for word in words:
        node = trie
        for letter in word:
            node = node.setdefault(letter, {})
        node[""] = {}
    return re.compile(f"(?=({_branches(trie)}))")


def words_within(words: Iterable[str]) -> dict[str, tuple[str, ...]]:
    """Return for each word all the words it begins with, itself among them."""
    known = sorted(set(words))
    return {word: tuple(w for w in known if w and word.startswith(w)) for word in known}


def _branches(node: dict[str, Any]) -> str:
    if list(node) == [""]:
        return ""
    longer = []
    for letter in sorted(key for key in node if key):
        tail, below = letter, node[letter]
        while len(below) == 1 and "" not in below:
            (only,) = below
            tail, below = tail + only, below[only]
        longer.append(re.escape(tail) + _branches(below))
    # The empty branch comes last, so that the longest word wins.
    return f"(?:{'|'.join(longer)}{'|' if '' in node else ''})"
