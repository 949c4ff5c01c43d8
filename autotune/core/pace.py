"""How fast an attempt goes: seconds per optimizer step and per token, and what its start cost."""

from collections import deque
from dataclasses import dataclass, field
from statistics import median

LEFT_OUT = 2  # first steps of an attempt, which warm up caches and compile
EARLY = 8  # measured steps that a trial is judged by
RECENT = 64


@dataclass(frozen=True)
class Pace:
    """What the steps of one attempt showed; seconds are wall-clock."""

    steps: int  # optimizer steps measured
    seconds: float | None = None  # median of the recent ones
    token_seconds: float | None = None  # per labelled token of the recent ones
    early_token_seconds: float | None = None  # of the first `EARLY`; None until there are as many
    start_seconds: float | None = None  # from the attempt's first report to its first step


@dataclass
class Stopwatch:
    """Grows step by step, in bounded memory."""

    _seen: int = 0
    _recent: deque[tuple[float, int]] = field(default_factory=lambda: deque(maxlen=RECENT))
    _early: list[tuple[float, int]] = field(default_factory=list)
    _start_seconds: float | None = None

    def step(self, seconds: float, tokens: int, since_start: float | None) -> None:
        """Take in one optimizer step; `since_start` is its end, counted from the first report."""
        self._seen += 1
        if self._seen == 1 and since_start is not None:
            self._start_seconds = max(0.0, since_start - seconds)
        if self._seen <= LEFT_OUT:
            return
        self._recent.append((seconds, tokens))
        if len(self._early) < EARLY:
            self._early.append((seconds, tokens))

    def read(self) -> Pace | None:
        """Return what was measured; None before the first step."""
        if not self._seen:
            return None
        return Pace(
            steps=max(0, self._seen - LEFT_OUT),
            seconds=median(seconds for seconds, _ in self._recent) if self._recent else None,
            token_seconds=_per_token(self._recent),
            early_token_seconds=_per_token(self._early) if len(self._early) == EARLY else None,
            start_seconds=self._start_seconds,
        )


def _per_token(steps: "deque[tuple[float, int]] | list[tuple[float, int]]") -> float | None:
    tokens = sum(count for _, count in steps)
    return sum(seconds for seconds, _ in steps) / tokens if tokens else None
