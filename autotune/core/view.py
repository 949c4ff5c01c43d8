"""What the events of one attempt add up to: where each rank is, and what it reported last."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from autotune.core.divergence import Course, after_step
from autotune.core.evidence import RankException
from autotune.core.exception_event import exception_of
from autotune.core.failure import Phase
from autotune.core.memory.forecast import Moment
from autotune.core.memory.probe import Probe
from autotune.core.pace import Pace, Stopwatch

Event = Mapping[str, Any]

MOST_SIZE = 2**62  # no count of bytes, rows or tokens is larger


@dataclass
class View:
    """Grows event by event; a value of the wrong type is passed over, never trusted."""

    ranks: dict[int, int] = field(default_factory=dict)  # rank to process id
    ended: set[int] = field(default_factory=set)  # ranks that said they were done
    phase: Phase | None = None
    step: int | None = None
    total: int | None = None
    loss: float | None = None
    first_loss: float | None = None
    learning_rate: float | None = None
    step_seconds: float | None = None
    checkpoint_step: int | None = None
    eval_loss: float | None = None
    settings: dict[str, Any] = field(default_factory=dict)  # in force, from rank 0
    exceptions: list[RankException] = field(default_factory=list)
    proven: dict[str, Any] | None = None
    stopped_step: int | None = None
    first_at: float | None = None  # wall-clock seconds of the first and the last event
    last_at: float | None = None
    marks: int = 0  # reports that something was achieved
    course: Course = field(default_factory=Course)
    longest: int | None = None  # tokens of the longest row, padded, where the ranks looked for it
    _probes: dict[Moment, Probe] = field(default_factory=dict)  # of the rank that held most
    _stopwatch: Stopwatch = field(default_factory=Stopwatch)
    _steps: dict[int, int] = field(default_factory=dict)  # by rank
    _evaluated: int | None = None  # the step of the newest evaluation

    def see(self, event: Event) -> None:
        """Take one event into account."""
        rank = _whole(event.get("rank"))
        if rank is None:
            return
        self.last_at = _number(event.get("t")) or self.last_at
        self.first_at = self.first_at or self.last_at
        reader = getattr(self, f"_see_{event.get('kind')}", None)
        if reader is not None:
            reader(rank, event)

    @property
    def probes(self) -> tuple[Probe, ...]:
        """Return what was measured of each moment, by the rank that held most in it."""
        return tuple(self._probes[moment] for moment in Moment if moment in self._probes)

    @property
    def pace(self) -> Pace | None:
        """Return how fast rank 0 goes; None before its first step."""
        return self._stopwatch.read()

    def _see_start(self, rank: int, event: Event) -> None:
        pid = _whole(event.get("pid"))
        if pid is not None and pid > 1:
            self.marks += rank not in self.ranks
            self.ranks[rank] = pid

    def _see_phase(self, rank: int, event: Event) -> None:
        phase = _phase(event.get("phase"))
        if phase is not None and rank == min(self.ranks, default=rank):
            self.marks += phase is not self.phase
            self.phase = phase

    def _see_settings(self, rank: int, event: Event) -> None:
        if rank == 0:
            known = ("t", "rank", "kind", "attempt")
            self.marks += not self.settings
            self.settings = {k: v for k, v in event.items() if k not in known}
            self.total = _whole(event.get("total_steps")) or self.total

    def _see_step(self, rank: int, event: Event) -> None:
        step = _whole(event.get("step"))
        if step is None:
            return
        if len(self._steps) < 4096 and step > self._steps.get(rank, -1):
            self._steps[rank] = step  # the same step said again is no progress
            self.marks += 1
        if rank != 0:
            return
        seconds = _number(event.get("seconds"))
        if step > (self.step or -1) and seconds is not None and seconds > 0:
            at = self.last_at - self.first_at if self.last_at and self.first_at else None
            self._stopwatch.step(seconds, _size(event.get("tokens")) or 0, at)
        self.step = step
        self.course = after_step(self.course, event.get("loss"), event.get("skipped_steps"))
        self.total = _whole(event.get("total")) or self.total
        self.loss = _number(event.get("loss"))
        if self.first_loss is None:
            self.first_loss = self.loss
        self.learning_rate = _number(event.get("lr"))
        self.step_seconds = seconds

    def _see_probe(self, rank: int, event: Event) -> None:
        moment = next((one for one in Moment if one.value == event.get("moment")), None)
        peak, held = _size(event.get("peak_bytes")), _size(event.get("held_bytes"))
        if moment is None or peak is None or held is None or rank < 0:
            return
        known = self._probes.get(moment)
        self.marks += known is None
        if known is None or peak > known.peak_bytes:
            self._probes[moment] = Probe(
                moment=moment,
                peak_bytes=peak,
                held_bytes=held,
                reserved_bytes=_size(event.get("reserved_bytes")),
                rank=rank,
                rows=_size(event.get("rows")),
                sequence=_size(event.get("sequence")),
                seconds=_number(event.get("seconds")),
            )

    def _see_rehearsal(self, rank: int, event: Event) -> None:
        if rank == 0:
            self.longest = _size(event.get("longest")) or self.longest

    def _see_eval(self, _: int, event: Event) -> None:
        step = _whole(event.get("step"))
        self.marks += step != self._evaluated
        self._evaluated = step
        self.eval_loss = _number(event.get("loss"))

    def _see_checkpoint(self, _: int, event: Event) -> None:
        reached = _whole(event.get("step")) or self.checkpoint_step
        self.marks += reached != self.checkpoint_step
        self.checkpoint_step = reached

    def _see_stopped(self, rank: int, event: Event) -> None:
        self._end(rank)
        self.stopped_step = _whole(event.get("step"))

    def _see_finished(self, rank: int, event: Event) -> None:
        self._end(rank)
        self.total = _whole(event.get("total")) or self.total

    def _see_proven(self, rank: int, event: Event) -> None:
        self._end(rank)
        if rank == 0:
            self.proven = dict(event)

    def _see_exception(self, rank: int, event: Event) -> None:
        if len(self.exceptions) >= 64:  # more ranks than one server has: somebody writes junk
            return
        self.exceptions.append(exception_of(rank, event))

    def _end(self, rank: int) -> None:
        self.marks += rank not in self.ended
        self.ended.add(rank)


def _whole(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _size(value: Any) -> int | None:
    whole = _whole(value)
    return whole if whole is not None and 0 <= whole < MOST_SIZE else None


def _number(value: Any) -> float | None:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    try:
        return float(value) if math.isfinite(value) else None
    except OverflowError:  # a whole number larger than any float
        return None


def _phase(value: Any) -> Phase | None:
    return next((phase for phase in Phase if phase.value == value), None)
