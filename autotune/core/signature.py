"""Signatures: the words by which a line of output is recognised, and what they may prove."""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property

from autotune.core.failure import Failure, Phase, Role
from autotune.core.line import fold
from autotune.core.pattern import compile_pattern
from autotune.core.required import more_words, required_words
from autotune.core.words import Words

CPU, CUDA = "cpu", "cuda"
# Context entries that only a living training prints.
PROGRESS = frozenset({"step_counted", "loss_reported"})
CALMING = "frightening_but_healthy"
OUTPUT, FRAME, STACK = "output", "frame", "stack"  # where the words are looked for
# Python's own words around a traceback, not a framework's.
HEAD = "Traceback (most recent call last)"
IGNORED = "Exception ignored in"
DIRECT_CAUSE = "The above exception was the direct cause"
CHAINED = ("During handling of the above exception", DIRECT_CAUSE)
# A traceback whose head is out of sight shows by its frames.
FRAMES = ('File "', "-packages/")
_ALWAYS_READ = tuple(words.lower() for words in (HEAD, IGNORED, *CHAINED, *FRAMES))


@dataclass(frozen=True)
class Signature:
    """One entry of signatures.yaml."""

    name: str
    failure: Failure
    role: Role
    patterns: tuple[str, ...]
    means: str
    careful: str
    phase: Phase | None = None
    device: str | None = None  # matches only for a job on this device; unknown counts as cuda
    where: str = OUTPUT  # or in the frames of tracebacks, or in the stacks of a silent training
    cure: str = ""  # one thing a person can do, as a version to install

    @property
    def calms(self) -> bool:
        """Whether a line with these words is healthy, whatever else it says."""
        return self.name == CALMING

    @cached_property
    def compiled(self) -> tuple[re.Pattern[str], ...]:
        """The patterns, checked; raises PatternError."""
        return tuple(compile_pattern(pattern) for pattern in self.patterns)


@dataclass(frozen=True)
class _Try:
    """A pattern to be tried on a line that holds its words."""

    signature: Signature
    pattern: re.Pattern[str]
    more: tuple[bytes, ...]  # words of which the line must hold one as well

    def may_match(self, folded: bytes) -> bool:
        return not self.more or any(word in folded for word in self.more)


@dataclass(frozen=True)
class Found:
    """A signature that matched, and where in the line."""

    signature: Signature
    match: re.Match[str]


@dataclass(frozen=True)
class Counter:
    """A pattern that counts steps, to be searched in the bytes of many lines at once."""

    signature: Signature
    pattern: re.Pattern[bytes]


class Signatures:
    """All signatures that apply to one job; their order never matters."""

    def __init__(
        self, entries: Iterable[Signature], device: str | None = None, where: str = OUTPUT
    ) -> None:
        """Check every pattern and derive the words without which none needs to be tried."""
        self.entries = tuple(entries)
        self.device = device
        used = tuple(applicable(self.entries, device, where))
        telling = [entry for entry in used if entry.name not in PROGRESS]
        going_on = [entry for entry in used if entry.name in PROGRESS]
        self._gates = _gates(used)
        self._words = Words(_needs(self._gates))
        self._telling = Words(_needs(_gates(telling)) | dict.fromkeys(_ALWAYS_READ, ()))
        self._reports = Words(_needs(_gates(going_on, lambda pattern: not counts(pattern))))
        self.counters = tuple(
            Counter(entry, re.compile(text.encode()))
            for entry in going_on
            for text, pattern in zip(entry.patterns, entry.compiled, strict=True)
            if counts(pattern)
        )

    def search(self, text: str) -> list[Found]:
        """Return every signature found in one cleaned line, once each, by name."""
        folded = fold(text.encode("utf-8", "replace"))
        found: dict[str, Found] = {}
        for word in sorted(self._words.within(folded)):
            for one in self._gates[word]:
                name = one.signature.name
                if name not in found and one.may_match(folded):
                    match = one.pattern.search(text)
                    if match:
                        found[name] = Found(one.signature, match)
        return [found[name] for name in sorted(found)]

    @cached_property
    def of_frames(self) -> "Signatures":
        """The same entries, searched in the frames of tracebacks instead of lines of output."""
        return Signatures(self.entries, self.device, FRAME)

    @cached_property
    def of_stacks(self) -> "Signatures":
        """The same entries, searched in the frames of a living process instead of its output."""
        return Signatures(self.entries, self.device, STACK)

    def telling_lines(self, folded: bytes) -> Iterator[int]:
        """Yield where each line begins that may hold more than progress."""
        return self._telling.lines(folded)

    def reporting_lines(self, folded: bytes) -> Iterator[int]:
        """Yield where each line begins that may report a step, from the last to the first."""
        return self._reports.lines_from_end(folded)

    def named(self, name: str) -> Signature | None:
        """Return the signature of that name, if this job has it."""
        return next((entry for entry in self.entries if entry.name == name), None)


def applicable(
    entries: Iterable[Signature], device: str | None, where: str = OUTPUT
) -> Iterator[Signature]:
    """Yield the signatures that hold for a job on `device`, and for the place named.

    Where nothing is known of the job its words are read as those of a job on a GPU.
    """
    wanted = device or CUDA
    return (e for e in entries if e.device in (None, wanted) and e.where == where)


def counts(pattern: re.Pattern[str]) -> bool:
    """Say whether the pattern reads the number of a step."""
    return "step" in pattern.groupindex


def _gates(
    entries: Iterable[Signature], wanted: Callable[[re.Pattern[str]], bool] = lambda _: True
) -> dict[str, tuple[_Try, ...]]:
    """Patterns under the words of which a line must contain one before they are tried."""
    gates: dict[str, list[_Try]] = {}
    for entry in entries:
        for text, pattern in zip(entry.patterns, entry.compiled, strict=True):
            if wanted(pattern):
                one = _Try(entry, pattern, tuple(w.encode() for w in more_words(text)))
                for word in required_words(text):
                    gates.setdefault(word, []).append(one)
    return {word: tuple(tries) for word, tries in gates.items()}


def _needs(gates: Mapping[str, tuple[_Try, ...]]) -> dict[str, tuple[bytes, ...]]:
    """Under each word those of which a line must hold one more for any of its patterns."""
    return {
        word: tuple(sorted({more for one in tries for more in one.more}))
        if all(one.more for one in tries)
        else ()
        for word, tries in gates.items()
    }
