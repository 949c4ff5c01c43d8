"""Learns how long a training is usually silent, and says how much silence is explained now."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import Enum

from autotune.core.failure import Phase
from autotune.core.policy import Thresholds

# Time in which nobody looked (we were paused, or a reading hung) is nobody's silence.
MOST_BETWEEN_LOOKS = 10.0
WORK_EVERY = 10.0  # seconds of silence between two readings of what the processes do
# What is written now and then, by logs and counters, stays below it for hours.
WORK_BYTES = 8 * 2**20


class Doing(str, Enum):
    """What a training is busy with, as far as its silences differ."""

    START = "before its first step"
    STEP = "between two steps"
    EVAL = "in an evaluation"
    SAVE = "in a save"
    END = "at its end"


_ASIDE = {Phase.EVAL: Doing.EVAL, Phase.SAVE: Doing.SAVE, Phase.FINISH: Doing.END}


@dataclass(frozen=True)
class Work:
    """What the processes of an attempt do that can be seen from outside; never a proof alone."""

    compilers: tuple[tuple[int, float], ...] = ()  # process id and CPU seconds of each
    moved_bytes: int = 0  # read from disks and written anywhere
    held_bytes: int = 0  # resident memory, and memory of the GPU
    processes: frozenset[int] = frozenset()


@dataclass(frozen=True)
class Pulse:
    """What one look at a running attempt shows of its progress."""

    marks: int = 0  # reports so far that something was achieved
    phase: Phase | None = None
    reports: bool = False  # whether any rank reports at all
    stepped: bool = False  # whether an optimizer step was done
    output_bytes: int = 0
    work: Work | None = None  # None: not looked at this time

    @property
    def doing(self) -> Doing:
        """Return what it is busy with."""
        if not self.stepped:
            return Doing.START
        return _ASIDE.get(self.phase, Doing.STEP) if self.phase else Doing.STEP


@dataclass(frozen=True)
class Rhythm:
    """How long it has been silent, and how long it has been so before."""

    at: float | None = None
    pulse: Pulse = field(default_factory=Pulse)
    silent: float = 0.0  # seconds without a report and without visible work
    unreported: float = 0.0  # seconds since the last report
    longest: Mapping[Doing, float] = field(default_factory=dict)
    work: Work | None = None  # the reading that later ones are held against
    work_at: float = 0.0  # how long it had been silent then
    patience: int = 0  # how often its silence was looked into and found to be slowness

    def wants_work(self, limits: Thresholds) -> bool:
        """Return whether the silence is long enough to look at what the processes do."""
        every = min(WORK_EVERY, self.explained(limits) / 4)
        return self.silent - (self.work_at if self.work else 0.0) >= every

    def explained(self, limits: Thresholds) -> float:
        """Return how many seconds of silence are explained by what it is doing."""
        doing = self.pulse.doing
        floor = {Doing.START: limits.silence_start, Doing.STEP: limits.silence_step}.get(
            doing, limits.silence_aside
        )
        usual = self.longest.get(doing, 0.0)
        if doing is not Doing.START:
            usual = max(usual, self.longest.get(Doing.STEP, 0.0))
        return float(max(floor, limits.silence_factor * usual) * 2**self.patience)

    def is_broken(self, limits: Thresholds) -> bool:
        """Return whether it has been silent for longer than anything explains."""
        return self.silent > self.explained(limits)


def beat(rhythm: Rhythm, at: float, pulse: Pulse) -> Rhythm:
    """Return the rhythm after one more look."""
    passed = 0.0 if rhythm.at is None else min(max(0.0, at - rhythm.at), MOST_BETWEEN_LOOKS)
    now = replace(
        rhythm, at=at, pulse=replace(pulse, work=None),
        silent=rhythm.silent + passed, unreported=rhythm.unreported + passed,
    )  # fmt: skip
    printed = pulse.output_bytes != rhythm.pulse.output_bytes
    if pulse.marks > rhythm.pulse.marks or (printed and not pulse.reports):
        # What reports has no rhythm before its first step, only an allowance.
        learns = rhythm.pulse.stepped or not pulse.reports
        return _after_report(now, rhythm.pulse.doing, learns)
    # Where steps are reported, printing between them is no progress.
    if printed and pulse.doing is not Doing.STEP:
        now = replace(now, silent=0.0, work_at=0.0)
    return now if pulse.work is None else _after_work(now, pulse)


def _after_report(now: Rhythm, did: Doing, learns: bool) -> Rhythm:
    longest = dict(now.longest)
    if learns:
        longest[did] = max(longest.get(did, 0.0), now.unreported)
    return replace(
        now, silent=0.0, unreported=0.0, longest=longest, work=None, work_at=0.0, patience=0
    )


def _after_work(now: Rhythm, pulse: Pulse) -> Rhythm:
    # What went into the output is printing, which is judged as such.
    seen = replace(
        pulse.work or Work(),
        moved_bytes=(pulse.work or Work()).moved_bytes - pulse.output_bytes,
    )
    before = now.work
    if before is None:
        return replace(now, work=seen, work_at=now.silent)
    compiling = bool(set(seen.compilers) - set(before.compilers))
    spawning = not pulse.reports and bool(seen.processes - before.processes)
    moved = seen.moved_bytes - before.moved_bytes >= WORK_BYTES
    grown = seen.held_bytes - before.held_bytes >= WORK_BYTES
    if compiling or spawning or moved or grown:
        return replace(now, silent=0.0, work=seen, work_at=0.0)
    # A process that ended took its figures along: later ones are held against what is left.
    kept = replace(
        seen,
        moved_bytes=min(seen.moved_bytes, before.moved_bytes),
        held_bytes=max(seen.held_bytes, before.held_bytes),
    )
    return replace(now, work=kept, work_at=now.silent)
