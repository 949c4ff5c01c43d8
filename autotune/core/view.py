"""What the events of one attempt add up to: where each rank is, and what it reported last."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from autotune.core.divergence import Course, after_step
from autotune.core.evidence import RankException
from autotune.core.exception_event import exception_of
from autotune.core.failure import Phase

Event = Mapping[str, Any]


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
        self.step = step
        self.course = after_step(self.course, event.get("loss"), event.get("skipped_steps"))
        self.total = _whole(event.get("total")) or self.total
        self.loss = _number(event.get("loss"))
        if self.first_loss is None:
            self.first_loss = self.loss
        self.learning_rate = _number(event.get("lr"))
        self.step_seconds = _number(event.get("seconds"))

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


def _number(value: Any) -> float | None:
    if isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value):
        return float(value)
    return None


def _phase(value: Any) -> Phase | None:
    return next((phase for phase in Phase if phase.value == value), None)
