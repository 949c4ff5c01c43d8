"""Folds the journal into the story so far: the one state, and what was decided but not yet done."""

import dataclasses
from collections.abc import Iterable
from dataclasses import dataclass

from autotune.core.evidence import Diagnosis, Evidence
from autotune.core.failure import Failure
from autotune.core.fault import CannotRecord, Fault
from autotune.core.plan import Plan
from autotune.core.record import (
    AttemptEnded,
    AttemptStarted,
    Decided,
    Ended,
    Event,
    GiveUp,
    Launch,
    Prepared,
    Prove,
    Proved,
    RunStarted,
    Step,
    Stop,
    StopAsked,
    Unseated,
    Wait,
    Waited,
    WentOn,
)


@dataclass(frozen=True)
class Attempt:
    """One launch, as far as the journal knows it."""

    launch: Launch
    prepared: Prepared | None = None
    started: AttemptStarted | None = None
    evidence: Evidence | None = None
    diagnosis: Diagnosis | None = None

    @property
    def number(self) -> int:
        """Its number, counted from 1."""
        return self.launch.attempt

    @property
    def plan(self) -> Plan:
        """The settings it ran with."""
        return self.launch.plan

    @property
    def failure(self) -> Failure | None:
        """What ended it; None while it runs."""
        return self.diagnosis.failure if self.diagnosis else None


@dataclass(frozen=True)
class Story:
    """A run so far."""

    started: RunStarted | None = None
    attempts: tuple[Attempt, ...] = ()
    pending: Step | None = None  # decided, not yet done
    postponed: Launch | None = None  # decided, and to be done once its devices can be had
    unseated: str = ""  # why it could not be done, until something was waited for
    waited_seconds: float = 0.0
    waited_before: float = 0.0  # of these, before the last attempt ended
    waited_since_end: bool = False  # whether a wait is over since the last attempt ended
    room: bool | None = None  # what the last wait found of the memory it waited for
    proof: Proved | None = None
    stop_asked: StopAsked | None = None
    ended: Ended | None = None
    taken_up_again: bool = False  # the owner started it again after it was given up

    @property
    def last(self) -> Attempt | None:
        """The newest attempt."""
        return self.attempts[-1] if self.attempts else None

    @property
    def devices(self) -> tuple[int, ...]:
        """The GPUs of the newest attempt."""
        return self.last.launch.devices if self.last else ()

    @property
    def attempt_seconds(self) -> float:
        """Time spent in attempts, waits not counted."""
        return sum(a.evidence.seconds or 0.0 for a in self.attempts if a.evidence)

    @property
    def spent(self) -> int:
        """Attempts that count against the job's limit: the first, and those that took a rung."""
        return sum(1 for a in self.attempts if a.number == 1 or spends(a))

    def since_progress(self) -> tuple[Attempt, ...]:
        """Return the ended attempts after the last one that got further than any before it.

        That one made progress itself, whatever ended it, and does not stand in this list.

        An attempt whose progress is unknown neither resets this list nor stands in it.
        """
        given = self.started.inherited if self.started else None
        best = given.step if given else 0
        since: list[Attempt] = []
        for attempt in self.attempts:
            reached = attempt.evidence.checkpoint_step if attempt.evidence else None
            if reached is None:
                continue
            if reached > best:
                best, since = reached, []
            else:
                since.append(attempt)
        return tuple(since)


def spends(attempt: Attempt) -> bool:
    """Whether the attempt was a rung taken on our account."""
    return attempt.launch.remedy is not None and attempt.launch.remedy.spend


def fold(events: Iterable[Event]) -> Story:
    """Return the story that the journal's events tell; raises CannotRecord where they tell none."""
    story = Story()
    for event in events:
        story = tell(story, event)
    return story


def tell(story: Story, event: Event) -> Story:
    """Return the story with one more event."""
    if isinstance(event, RunStarted):
        return dataclasses.replace(story, started=event)
    if isinstance(event, WentOn):
        return _went_on(story)
    if isinstance(event, Decided):
        return _decided(story, event.step)
    if isinstance(event, Unseated):
        return _unseated(story, event.why)
    if isinstance(event, (Prepared, AttemptStarted, AttemptEnded)):
        return _attempted(story, event)
    if isinstance(event, Waited):
        waited = story.waited_seconds + event.seconds
        return dataclasses.replace(
            story,
            pending=None,
            waited_seconds=waited,
            waited_since_end=True,
            room=event.room,
            unseated="",
        )
    if isinstance(event, Proved):
        return dataclasses.replace(story, pending=None, proof=event)
    if isinstance(event, StopAsked):
        # A wait or a proof is given up for a stop; an attempt is told, and ends by itself.
        pending = None if isinstance(story.pending, (Wait, Prove)) else story.pending
        return dataclasses.replace(story, stop_asked=event, pending=pending)
    return dataclasses.replace(story, ended=event, pending=None)


def _went_on(story: Story) -> Story:
    # To end was the word of the start before this one; what else was decided is still to be done.
    pending = None if isinstance(story.pending, (Stop, GiveUp)) else story.pending
    gave_up = story.ended is not None and story.ended.state == "gave_up"
    gave_up = gave_up or isinstance(story.pending, GiveUp)
    return dataclasses.replace(
        story,
        ended=None,
        stop_asked=None,
        pending=pending,
        taken_up_again=gave_up,
        unseated="",
    )


def _decided(story: Story, step: Step) -> Story:
    attempts = story.attempts
    if isinstance(step, Launch):
        attempts = (*attempts, Attempt(step))
        return dataclasses.replace(story, pending=step, attempts=attempts, postponed=None)
    return dataclasses.replace(story, pending=step, attempts=attempts)


def _unseated(story: Story, why: str) -> Story:
    # What was decided stands, with the deeds that may be done already; only its devices are open.
    launch = story.pending if isinstance(story.pending, Launch) else None
    attempts = story.attempts[:-1] if launch else story.attempts
    return dataclasses.replace(
        story, pending=None, postponed=launch, attempts=attempts, unseated=why
    )


def _attempted(story: Story, event: Prepared | AttemptStarted | AttemptEnded) -> Story:
    attempts = list(story.attempts)
    index = next((i for i, a in enumerate(attempts) if a.number == event.attempt), None)
    if index is None:
        what = f"the journal tells of attempt {event.attempt}, which it never decided on"
        hint = "it was edited or damaged; move the run folder aside to start anew"
        raise CannotRecord(Fault(what, hint=hint))
    if isinstance(event, Prepared):
        attempts[index] = dataclasses.replace(attempts[index], prepared=event)
    elif isinstance(event, AttemptStarted):
        attempts[index] = dataclasses.replace(attempts[index], started=event)
    else:
        attempts[index] = dataclasses.replace(
            attempts[index], evidence=event.evidence, diagnosis=event.diagnosis
        )
        return dataclasses.replace(
            story,
            attempts=tuple(attempts),
            pending=None,
            waited_before=story.waited_seconds,
            waited_since_end=False,
            taken_up_again=False,
        )
    return dataclasses.replace(story, attempts=tuple(attempts))
