"""Keeps the memory of an attempt as a short curve, and says what the curve shows."""

from collections.abc import Sequence
from enum import Enum
from itertools import pairwise
from statistics import median

from autotune.core.evidence import CurvePoint

MOST_POINTS = 64

# Below these a curve shows nothing yet.
FEWEST_POINTS = 12
FEWEST_STEPS = 20
WARM_UP = 0.2  # of the curve: caches and buffers fill in the first steps of every training
BLOCKS = 4
LEAK_SHARE = 0.1  # of the final level: growth below this ends no training
STEADY_SHARE = 0.1  # of the whole growth: every part of the curve adds at least this
JUMP_SHARE = 0.7  # of the whole growth: a part that adds more is a jump
SPIKE_SHARE = 0.2  # above the usual level: what the last moments show before a spike's death


class Course(str, Enum):
    """How memory went until the end."""

    LEAKING = "leaking"  # slow and steady growth over many steps, until the end
    SPIKE = "spike"  # level, and much more in the last moments
    FLAT = "flat"  # neither: level, a jump, or growth that had ended
    UNKNOWN = "unknown"  # too short to say


class Curve:
    """Grows sample by sample and never beyond 64 points: then every two become one."""

    def __init__(self) -> None:
        """Begin empty."""
        self._points: list[CurvePoint] = []
        self._stride = 1  # samples a point
        self._in_last = 0

    def add(
        self, seconds: float, step: int | None, rank_bytes: int | None, host_bytes: int | None
    ) -> None:
        """Take one sample."""
        point = CurvePoint(round(seconds, 1), step, rank_bytes, host_bytes)
        if self._points and self._in_last < self._stride:
            self._points[-1] = _higher(self._points[-1], point)
            self._in_last += 1
            return
        if len(self._points) == MOST_POINTS:
            pairs = zip(self._points[::2], self._points[1::2], strict=True)
            self._points = [_higher(first, second) for first, second in pairs]
            self._stride *= 2
        self._points.append(point)
        self._in_last = 1

    def points(self) -> tuple[CurvePoint, ...]:
        """Return the curve so far, oldest point first."""
        return tuple(self._points)


def course_of_rank(curve: Sequence[CurvePoint]) -> Course:
    """Return how the memory of the largest rank went."""
    return course([(p.step, p.rank_bytes) for p in curve])


def course_of_host(curve: Sequence[CurvePoint]) -> Course:
    """Return how the memory of the whole process tree went."""
    return course([(p.step, p.host_bytes) for p in curve])


def course(samples: Sequence[tuple[int | None, int | None]]) -> Course:
    """Return how memory went over (step, bytes); what lies before the first step says nothing."""
    stepped = [(step, size) for step, size in samples if step is not None and size is not None]
    stepped = stepped[int(len(stepped) * WARM_UP) :]
    if len(stepped) < FEWEST_POINTS or stepped[-1][0] - stepped[0][0] < FEWEST_STEPS:
        return Course.UNKNOWN
    sizes = [size for _, size in stepped]
    levels = [median(block) for block in _blocks(sizes)]
    growth = levels[-1] - levels[0]
    parts = [after - before for before, after in pairwise(levels)]
    steady = min(parts) >= STEADY_SHARE * growth and max(parts) <= JUMP_SHARE * growth
    if growth > 0 and growth >= LEAK_SHARE * levels[-1] and steady:
        return Course.LEAKING
    if max(sizes[-2:]) >= (1 + SPIKE_SHARE) * median(sizes):
        return Course.SPIKE
    return Course.FLAT


def _blocks(sizes: Sequence[int]) -> list[Sequence[int]]:
    edges = [round(i * len(sizes) / BLOCKS) for i in range(BLOCKS + 1)]
    return [sizes[a:b] for a, b in pairwise(edges)]


def _higher(first: CurvePoint, second: CurvePoint) -> CurvePoint:
    return CurvePoint(
        second.seconds,
        second.step if second.step is not None else first.step,
        _most(first.rank_bytes, second.rank_bytes),
        _most(first.host_bytes, second.host_bytes),
    )


def _most(one: int | None, other: int | None) -> int | None:
    known = [size for size in (one, other) if size is not None]
    return max(known, default=None)
