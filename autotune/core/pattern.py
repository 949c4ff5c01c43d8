"""Checks that a signature's pattern cannot stall the watcher."""

import re
from functools import cache
from typing import Any

from autotune.core.required import required_words
from autotune.core.sre import parse, sre

# One pattern on one window of 8 KiB then takes some ten million steps at the very worst.
MOST_WAYS = 2500
_REPEATS = (sre.MAX_REPEAT, sre.MIN_REPEAT)


class PatternError(ValueError):
    """A pattern that is not a regular expression, or one that could stall the watcher."""


@cache  # each is asked for when it is read and when it is used, and `re` forgets so many
def compile_pattern(text: str) -> re.Pattern[str]:
    """Return the compiled pattern; raises PatternError with what is wrong and what would do."""
    try:
        tree = parse(text)
        # A word ends where Chinese begins, and a digit is one of ten.
        compiled = re.compile(text, re.ASCII)
    except re.error as error:
        raise PatternError(f"not a regular expression: {error}") from error
    ways = _ways(tree)
    if ways > MOST_WAYS:
        raise PatternError(
            f"may take {ways} steps at each character (at most {MOST_WAYS}): "
            "bound its repeats more tightly or split it"
        )
    if not required_words(text):
        raise PatternError(
            "has no word that every match contains, so that it would be tried on every line: "
            "add some fixed text"
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
