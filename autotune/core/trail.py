"""The optimizer steps of one attempt, in bounded memory: which, on which samples, at what loss."""

import hashlib
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field

HELD = 8  # steps kept after the start and after each checkpoint, for when they are trained again
RECENT = 32  # newest steps kept: how the loss scattered before the attempt ended
MARKS = 32  # checkpoints whose digest is kept

_MODULUS = 2**64


@dataclass(frozen=True)
class Told:
    """One optimizer step as rank 0 told of it; `samples` is a fingerprint of 16 hex digits."""

    step: int
    loss: float | None = None
    samples: str | None = None
    rate: float | None = None  # learning rate


@dataclass(frozen=True)
class Trail:
    """What the steps of one attempt leave behind.

    A digest is the sum modulo 2**64 of a hash of each step's number and fingerprint: it depends on
    which samples made up which step, and digests of adjoining stretches add up to that of both.
    """

    first: int
    last: int
    digest: str  # of all steps, 16 hex digits
    digests: tuple[tuple[int, str], ...] = ()  # from the first step up to a checkpoint's
    missing: int = 0  # steps between the first and the last that nobody told of
    unknown: int = 0  # steps told without a fingerprint
    fewest_rows: int | None = None  # of a step, null rows included
    most_rows: int | None = None
    head: tuple[Told, ...] = ()  # the first steps
    since: tuple[Told, ...] = ()  # the first after the newest checkpoint
    recent: tuple[Told, ...] = ()  # the newest

    def known(self) -> dict[int, Told]:
        """Return the steps that are still known one by one."""
        return {one.step: one for one in (*self.recent, *self.head, *self.since)}

    def digest_up_to(self, step: int) -> int | None:
        """Return the digest from the first step up to `step`; None where it is not known."""
        if step < self.first:
            return 0
        total = int(self.digest, 16)
        if step >= self.last:
            return total if step == self.last else None
        for at, digest in self.digests:
            if at == step:
                return int(digest, 16)
        later = [one for one in self.recent if one.step > step]
        if not later or later[0].step != step + 1 or len(later) != self.last - step:
            return None
        return (total - sum(map(digest_of, later))) % _MODULUS


def digest_of(told: Told) -> int:
    """Return the digest of one step."""
    text = f"{told.step}:{told.samples}".encode()
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "big")


def show_digest(number: int) -> str:
    """Return a digest as 16 hex digits."""
    return f"{number % _MODULUS:016x}"


@dataclass
class Tracker:
    """Grows step by step into a trail, however many there are."""

    _first: int | None = None
    _last: int = 0
    _digest: int = 0
    _missing: int = 0
    _unknown: int = 0
    _rows: tuple[int, int] | None = None
    _digests: deque[tuple[int, str]] = field(default_factory=lambda: deque(maxlen=MARKS))
    _head: list[Told] = field(default_factory=list)
    _since: list[Told] = field(default_factory=list)
    _recent: deque[Told] = field(default_factory=lambda: deque(maxlen=RECENT))

    def step(self, told: Told, rows: int | None) -> None:
        """Take in one optimizer step; one that is not newer than the last says nothing new."""
        if self._first is None:
            self._first = told.step
        elif told.step <= self._last:
            return
        else:
            self._missing += told.step - self._last - 1
        self._last = told.step
        self._digest = (self._digest + digest_of(told)) % _MODULUS
        self._unknown += told.samples is None
        if rows is not None:
            fewest, most = self._rows or (rows, rows)
            self._rows = (min(fewest, rows), max(most, rows))
        for kept in (self._head, self._since):
            if len(kept) < HELD:
                kept.append(told)
        self._recent.append(told)

    def saved(self, step: int) -> None:
        """A checkpoint of `step` is whole."""
        if self._first is not None and step == self._last:
            self._digests.append((step, show_digest(self._digest)))
            self._since.clear()

    def read(self) -> Trail | None:
        """Return the trail so far; None before the first step."""
        if self._first is None:
            return None
        fewest, most = self._rows or (None, None)
        return Trail(
            first=self._first,
            last=self._last,
            digest=show_digest(self._digest),
            digests=tuple(self._digests),
            missing=self._missing,
            unknown=self._unknown,
            fewest_rows=fewest,
            most_rows=most,
            head=tuple(self._head),
            since=tuple(self._since),
            recent=tuple(self._recent),
        )


def losses_of(steps: Iterable[Told]) -> list[float]:
    """Return the losses that were finite."""
    return [one.loss for one in steps if one.loss is not None]
