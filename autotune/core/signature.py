"""Signatures: the words by which a line of output is recognised, and what they may prove."""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property

from autotune.core.failure import Failure, Phase, Role
from autotune.core.pattern import compile_pattern, required_words, word_finder, words_within

CPU, CUDA = "cpu", "cuda"
CALMING = "frightening_but_healthy"
OUTPUT, FRAME, STACK = "output", "frame", "stack"  # where the words are looked for


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


_Try = tuple[Signature, re.Pattern[str]]


@dataclass(frozen=True)
class Found:
    """A signature that matched, and where in the line."""

    signature: Signature
    match: re.Match[str]


class Signatures:
    """All signatures that apply to one job; their order never matters."""

    def __init__(
        self, entries: Iterable[Signature], device: str | None = None, where: str = OUTPUT
    ) -> None:
        """Check every pattern and derive the words without which none needs to be tried."""
        self.entries = tuple(entries)
        self.device = device
        self._gates = _gates(applicable(self.entries, device, where))
        self._ungated = self._gates.pop("", ())
        self._finder = word_finder(self._gates)
        self._within = words_within(self._gates)

    def search(self, text: str) -> list[Found]:
        """Return every signature found in one cleaned line, once each, by name."""
        tries = dict.fromkeys(self._ungated)
        for longest in dict.fromkeys(m[1] for m in self._finder.finditer(text.lower())):
            for word in self._within.get(longest, ()):
                tries.update(dict.fromkeys(self._gates[word]))
        found: dict[str, Found] = {}
        for signature, pattern in tries:
            if signature.name not in found and (match := pattern.search(text)):
                found[signature.name] = Found(signature, match)
        return [found[name] for name in sorted(found)]

    @cached_property
    def of_frames(self) -> "Signatures":
        """The same entries, searched in the frames of tracebacks instead of lines of output."""
        return Signatures(self.entries, self.device, FRAME)

    @cached_property
    def of_stacks(self) -> "Signatures":
        """The same entries, searched in the frames of a living process instead of its output."""
        return Signatures(self.entries, self.device, STACK)

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


def _gates(entries: Iterable[Signature]) -> dict[str, tuple[_Try, ...]]:
    """Patterns under the word a line must contain before they are tried; "" opens always."""
    gates: dict[str, list[_Try]] = {}
    for entry in entries:
        for text, pattern in zip(entry.patterns, entry.compiled, strict=True):
            for word in required_words(text) or ("",):
                gates.setdefault(word, []).append((entry, pattern))
    return {word: tuple(tries) for word, tries in gates.items()}
