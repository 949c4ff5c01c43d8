"""Derives from a pattern the words of which every match contains at least one.

They are derived, never written by hand, so that a signature is registered in one place only.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from itertools import product
from typing import Any

from autotune.core.sre import parse, sre

MOST_WORDS = 400  # of one pattern; its longer alternatives are cut at the front
MOST_OF_A_CLASS = 16
MOST_MORE = 8  # words that are looked for one by one
BITS_A_LETTER = 4  # what one more letter is worth against twice as many words
_REPEATS = (sre.MAX_REPEAT, sre.MIN_REPEAT)
_Words = frozenset[str]
_NOTHING: _Words = frozenset({""})


@dataclass(frozen=True)
class _Part:
    """What is known of every text that one part of a pattern matches."""

    exact: _Words | None = None  # all of those texts, where they are few
    starts: _Words = _NOTHING  # each text begins with one of these
    ends: _Words = _NOTHING
    best: _Words | None = None  # each text contains one of these
    all: tuple[_Words, ...] = ()  # and one of each of these


_ANYTHING = _Part()


@cache
def required_words(text: str) -> tuple[str, ...]:
    """Return words in lower case of which every match contains at least one; empty if unknown.

    Only ASCII letters are brought to lower case, as in `core.line.fold`.
    """
    return tuple(sorted(_whole(text).best or ()))


@cache
def more_words(text: str) -> tuple[str, ...]:
    """Return some more words, of which every match contains one as well; empty if there are none.

    They tell most of the lines apart that hold the first by chance.
    """
    part = _whole(text)
    first = part.best or _NOTHING
    new = [
        words
        for words in part.all
        if len(words) <= MOST_MORE and not all(any(w in one for w in words) for one in first)
    ]
    return tuple(sorted(_better(new) or ()))


@cache
def _whole(text: str) -> _Part:
    return _sequence(parse(text))


def _sequence(tree: Iterable[Any]) -> _Part:
    """Parts that all match one after the other: neighbours of which all is known are joined."""
    run, all_known = _NOTHING, True
    starts: _Words | None = None
    seen: list[_Words | None] = []
    for operation, argument in tree:
        part = _part(operation, argument)
        before, after = part.exact or part.starts, part.exact or part.ends
        if len(before) > 1 or part.exact is None:  # else the run only grows, and is seen later
            seen.append(run)
        run, whole = _joined(run, before)
        all_known = all_known and whole and part.exact is not None
        if part.exact is None or not whole:
            starts = starts or (run if whole else _NOTHING)
        if part.exact is None:
            seen += [run, part.best]
            run = after
    if all_known:
        return _Part(exact=run, best=_better([run]), all=_usable([*seen, run]))
    candidates = [*seen, run]
    return _Part(None, starts or _NOTHING, run, _better(candidates), _usable(candidates))


def _part(operation: Any, argument: Any) -> _Part:
    if operation is sre.LITERAL:
        return _Part(exact=frozenset({_fold(chr(argument))}))
    if operation is sre.IN:
        return _class(argument)
    if operation is sre.SUBPATTERN:
        return _sequence(argument[-1])
    if operation in _REPEATS:
        return _repeat(int(argument[0]), int(argument[1]), argument[2])
    if operation is sre.BRANCH:
        return _branch([_sequence(branch) for branch in argument[1]])
    if operation in (sre.AT, sre.ASSERT, sre.ASSERT_NOT):
        return _Part(exact=_NOTHING)  # of no width
    return _ANYTHING


def _class(items: Iterable[Any]) -> _Part:
    letters: set[str] = set()
    for operation, argument in items:
        if operation is sre.LITERAL:
            letters.add(_fold(chr(argument)))
        elif operation is sre.RANGE and argument[1] - argument[0] < MOST_OF_A_CLASS:
            letters.update(_fold(chr(code)) for code in range(argument[0], argument[1] + 1))
        elif operation is sre.CATEGORY and argument is sre.CATEGORY_DIGIT:
            letters.update("0123456789")
        else:
            return _ANYTHING
    return _Part(exact=frozenset(letters)) if len(letters) <= MOST_OF_A_CLASS else _ANYTHING


def _repeat(low: int, high: int, body: Any) -> _Part:
    part = _sequence(body)
    if part.exact is None:
        return _Part(starts=part.starts, ends=part.ends, best=part.best) if low else _ANYTHING
    sizes = [len(part.exact) ** count for count in range(low, min(high, 32) + 1)]
    if high <= 32 and sum(sizes) <= MOST_WORDS:
        texts = {"".join(t) for n in range(low, high + 1) for t in product(part.exact, repeat=n)}
        return _Part(exact=frozenset(texts))
    if not low:
        return _ANYTHING
    return _Part(starts=part.exact, ends=part.exact, best=_better([part.exact]))


def _branch(parts: list[_Part]) -> _Part:
    if all(part.exact is not None for part in parts):
        texts = frozenset().union(*(part.exact or () for part in parts))
        if len(texts) <= MOST_WORDS:
            return _Part(exact=texts, best=_better([texts]))
    bests = [_better([part.best, part.exact]) for part in parts]
    return _Part(
        starts=_few(frozenset().union(*(part.exact or part.starts for part in parts))),
        ends=_few(frozenset().union(*(part.exact or part.ends for part in parts))),
        best=None if None in bests else frozenset().union(*(best or () for best in bests)),
    )


def _joined(left: _Words, right: _Words) -> tuple[_Words, bool]:
    """Every left with every right, cut at the front where they would be too many."""
    if len(left) == 1 and len(right) == 1:  # nearly always: a letter after what came before it
        return frozenset(a + b for a in left for b in right), True
    whole = True
    while len(left) * len(right) > MOST_WORDS:
        left, whole = frozenset(word[1:] for word in left), False
    return frozenset(a + b for a, b in product(left, right)), whole


def _few(words: _Words) -> _Words:
    return words if len(words) <= MOST_WORDS else _NOTHING


def _better(candidates: Iterable[_Words | None]) -> _Words | None:
    """The set that the fewest lines will hold by chance: long words, and few of them."""
    # Of equals the last: what a pattern ends with is mostly the rarer.
    return max(reversed(_usable(candidates)), key=_rarity, default=None)


def _usable(candidates: Iterable[_Words | None]) -> tuple[_Words, ...]:
    return tuple(_needed(words) for words in candidates if words and all(words))


def _needed(words: _Words) -> _Words:
    """Without those that contain another one."""
    if len(words) > 1:
        short = sorted(words, key=len)
        shortest = {word for word in short if len(word) == len(short[0])}
        words = frozenset(
            w for w in words if w in shortest or not any(s in w for s in shortest)
        )  # fmt: skip
    return words


def _rarity(words: _Words) -> float:
    return BITS_A_LETTER * min(map(len, words)) - math.log2(len(words))


def _fold(letter: str) -> str:
    return letter.lower() if letter.isascii() else letter
