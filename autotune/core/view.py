"""What the events of one attempt add up to: where each rank is, and what it reported last."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from autotune.core.divergence import Course, after_step
from autotune.core.evidence import Gap, RankException, Snapshot
from autotune.core.exception_event import exception_of, snapshot_of
from autotune.core.failure import Phase
from autotune.core.memory.forecast import Moment
from autotune.core.memory.probe import Probe
from autotune.core.pace import Pace, Stopwatch
from autotune.core.resumed import Continued
from autotune.core.tame import fingerprint, number, phase_of, size, whole
from autotune.core.trail import Told, Tracker, Trail

Event = Mapping[str, Any]

MOST_RANKS = 4096
MOST_GAPS = 64
MOST_SAVES = 1024  # begun, and not yet told by every rank


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
    holding: dict[int, int] = field(default_factory=dict)  # rank to the step it holds whole
    cannot_hold: str | None = None  # why a rank that was refused memory could save nothing
    proven: dict[str, Any] | None = None
    stopped_step: int | None = None
    said_finished: bool = False
    told_to_end: str | None = None  # the signal from outside that a rank made a save of
    first_at: float | None = None  # wall-clock seconds of the first and the last event
    last_at: float | None = None
    marks: int = 0  # reports that something was achieved
    course: Course = field(default_factory=Course)
    longest: int | None = None  # tokens of the longest row, padded, where the ranks looked for it
    inside: set[int] = field(default_factory=set)  # ranks that the probe reports from
    _refused: dict[int, RankException] = field(default_factory=dict)  # raised, perhaps caught
    _probe_gaps: list[Gap] = field(default_factory=list)
    _saved: dict[int, set[int]] = field(default_factory=dict)  # ranks that wrote, by step
    snapshots: dict[int, Snapshot] = field(default_factory=dict)  # of each rank its newest
    continued: Continued | None = None
    _tracker: Tracker = field(default_factory=Tracker)
    _probes: dict[Moment, Probe] = field(default_factory=dict)  # of the rank that held most
    _stopwatch: Stopwatch = field(default_factory=Stopwatch)
    _steps: dict[int, int] = field(default_factory=dict)  # by rank
    _evaluated: int | None = None  # the step of the newest evaluation

    def see(self, event: Event) -> None:
        """Take one event into account."""
        rank = whole(event.get("rank"))
        if rank is None:
            return
        self.last_at = number(event.get("t")) or self.last_at
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

    def last_words(self) -> tuple[RankException, ...]:
        """Return what ended each rank: as it said at the end, else the last that was raised in it.

        What was raised in a rank that went on, or ended well, was caught.
        """
        said = {one.rank for one in self.exceptions}
        raised = (one for rank, one in sorted(self._refused.items()) if rank not in said)
        return (*self.exceptions, *raised)

    def gaps(self) -> tuple[Gap, ...]:
        """Return what the probes could not see, as they say themselves."""
        return tuple(self._probe_gaps)

    def silent_ranks(self) -> tuple[int, ...]:
        """Return the ranks that began and have not said how they ended."""
        spoke = self.ended | {one.rank for one in self.last_words()}
        return tuple(rank for rank in sorted(self.ranks) if rank not in spoke)

    def ranks_below(self, count: int | None) -> dict[int, int]:
        """Return the process of each of the first `count` ranks, those of the first node."""
        return {r: pid for r, pid in self.ranks.items() if count is None or r < count}

    def _see_armed(self, rank: int, event: Event) -> None:
        if len(self.inside) < MOST_RANKS:
            self.inside.add(rank)
            self._see_start(rank, event)

    def _see_probe_gap(self, rank: int, event: Event) -> None:
        if len(self._probe_gaps) < MOST_GAPS:
            why = f"{str(event.get('where'))[:200]}: {str(event.get('error'))[:500]}"
            self._probe_gaps.append(Gap(f"probe of rank {rank}", why))

    def _see_refused(self, rank: int, event: Event) -> None:
        if len(self._refused) < MOST_RANKS:
            self._refused[rank] = exception_of(rank, event)

    def _see_holds(self, rank: int, event: Event) -> None:
        step, why = whole(event.get("step")), event.get("why")
        if isinstance(why, str):
            self.cannot_hold = why[:500]
        elif step is not None and len(self.holding) < MOST_RANKS:
            self.marks += rank not in self.holding
            self.holding[rank] = step

    def _see_rescue(self, _: int, __: Event) -> None:
        self.marks += 1  # a rank has written its part; what it wrote is judged by its files

    def _see_snapshot(self, rank: int, event: Event) -> None:
        if (found := snapshot_of(rank, event)) and len(self.snapshots) < MOST_RANKS:
            self.snapshots[rank] = found

    def _see_left(self, rank: int, _: Event) -> None:
        self._end(rank)

    def _see_probe_cost(self, _: int, __: Event) -> None:
        """Nothing is decided by it; it stays in the file for who measures."""

    @property
    def trail(self) -> Trail | None:
        """Return what the steps of rank 0 leave behind; None before the first."""
        return self._tracker.read()

    @property
    def global_batch(self) -> int | None:
        """Return the global batch in force; None before it was told."""
        return size(self.settings.get("global_batch"))

    def _see_start(self, rank: int, event: Event) -> None:
        pid = whole(event.get("pid"))
        if pid is not None and pid > 1:
            self.marks += rank not in self.ranks
            self.ranks[rank] = pid

    def _see_phase(self, rank: int, event: Event) -> None:
        phase = phase_of(event.get("phase"))
        if phase is not None and rank == min(self.ranks, default=rank):
            self.marks += phase is not self.phase
            self.phase = phase

    def _see_settings(self, rank: int, event: Event) -> None:
        if rank == 0:
            known = ("t", "rank", "kind", "attempt")
            self.marks += not self.settings
            self.settings = {k: v for k, v in event.items() if k not in known}
            self.total = whole(event.get("total_steps")) or self.total

    def _see_step(self, rank: int, event: Event) -> None:
        step = whole(event.get("step"))
        if step is None:
            return
        self._refused.pop(rank, None)
        if len(self._steps) < MOST_RANKS and step > self._steps.get(rank, -1):
            self._steps[rank] = step  # the same step said again is no progress
            self.marks += 1
        if rank != 0:
            return
        seconds = number(event.get("seconds"))
        if step > (self.step or -1) and seconds is not None and seconds > 0:
            at = self.last_at - self.first_at if self.last_at and self.first_at else None
            self._stopwatch.step(seconds, size(event.get("tokens")) or 0, at)
        self.step = step
        self.course = after_step(self.course, event.get("loss"), event.get("skipped_steps"))
        self.total = whole(event.get("total")) or self.total
        self.loss = number(event.get("loss"))
        if self.first_loss is None:
            self.first_loss = self.loss
        self.learning_rate = number(event.get("lr"))
        self.step_seconds = seconds
        told = Told(
            step, self.loss, fingerprint(event.get("batch_fingerprint")), self.learning_rate
        )
        self._tracker.step(told, size(event.get("batch_rows")))

    def _see_probe(self, rank: int, event: Event) -> None:
        moment = next((one for one in Moment if one.value == event.get("moment")), None)
        peak, held = size(event.get("peak_bytes")), size(event.get("held_bytes"))
        if moment is None or peak is None or held is None or rank < 0:
            return
        known = self._probes.get(moment)
        self.marks += known is None
        if known is None or peak > known.peak_bytes:
            self._probes[moment] = Probe(
                moment=moment,
                peak_bytes=peak,
                held_bytes=held,
                reserved_bytes=size(event.get("reserved_bytes")),
                rank=rank,
                rows=size(event.get("rows")),
                sequence=size(event.get("sequence")),
                seconds=number(event.get("seconds")),
            )

    def _see_rehearsal(self, rank: int, event: Event) -> None:
        if rank == 0:
            self.longest = size(event.get("longest")) or self.longest

    def _see_eval(self, _: int, event: Event) -> None:
        step = whole(event.get("step"))
        self.marks += step != self._evaluated
        self._evaluated = step
        self.eval_loss = number(event.get("loss"))

    def _see_checkpoint(self, rank: int, event: Event) -> None:
        reached = whole(event.get("step")) or self.checkpoint_step
        ranks = size(event.get("world_size"))  # each says so for itself, where this is told
        if reached is not None and ranks is not None and len(self._saved) < MOST_SAVES:
            wrote = self._saved.setdefault(reached, set())
            wrote.add(rank)
            if len(wrote) < ranks:
                return
            self._saved = {step: by for step, by in self._saved.items() if step > reached}
        self.marks += reached != self.checkpoint_step
        self.checkpoint_step = reached
        self._tracker.saved(reached or 0)

    def _see_continuity(self, rank: int, event: Event) -> None:
        step, check = whole(event.get("step")), event.get("check")
        if rank != 0 or step is None or not isinstance(check, str):
            return
        self.marks += 1
        before = self.continued
        self.continued = Continued(
            step=before.step if before else step,
            check=check[:20],
            loss=number(event.get("loss")),
            saved_loss=number(event.get("saved_loss")),
            tolerance=number(event.get("tolerance")),
            spread=number(event.get("spread")),
            rate=before.rate if before else number(event.get("lr")),
            rate_expected=before.rate_expected if before else number(event.get("lr_expected")),
        )

    def _see_told_to_end(self, rank: int, event: Event) -> None:
        self.told_to_end = self.told_to_end or f"rank {rank} by {str(event.get('signal'))[:20]}"

    def _see_stopped(self, rank: int, event: Event) -> None:
        self._end(rank)
        self.stopped_step = whole(event.get("step"))

    def _see_finished(self, rank: int, event: Event) -> None:
        self._end(rank)
        self.said_finished = True
        self.total = whole(event.get("total")) or self.total

    def _see_proven(self, rank: int, event: Event) -> None:
        self._end(rank)
        if rank == 0:
            self.proven = dict(event)

    def _see_exception(self, rank: int, event: Event) -> None:
        if len(self.exceptions) < 64:  # more ranks than one server has: somebody writes junk
            self.exceptions.append(exception_of(rank, event))

    def _end(self, rank: int) -> None:
        self.marks += rank not in self.ended
        self.ended.add(rank)
        self._refused.pop(rank, None)
