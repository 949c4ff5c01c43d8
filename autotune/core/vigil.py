"""Decides, moment by moment, whether a running attempt is left alone, told to save, or ended."""

import dataclasses
from dataclasses import dataclass, field
from enum import Enum

from autotune.core.policy import Thresholds
from autotune.core.rhythm import Pulse, Rhythm, beat
from autotune.core.stack import Stack
from autotune.core.stall import Stall, still_moving

PREEMPTED = "preempted"  # `ended_by_us` of an attempt that was told to end from outside


class Act(str, Enum):
    """What to do with the attempt now."""

    LEAVE = "leave"
    LOOK = "look"  # take the stacks of every rank, and tell `looked`
    ASK_SAVE = "ask_save"  # at the next step boundary, then end by itself
    END = "end"  # SIGTERM, grace, SIGKILL
    KILL = "kill"


@dataclass(frozen=True)
class Glance:
    """One look at a running attempt; times in monotonic seconds."""

    at: float
    stop_asked: bool = False
    hurry: bool = False
    rescuing: bool = False  # ranks hold their exit until their last step is saved
    rank_died: bool = False
    noticed: bool = False  # the ranks or their launcher were told from outside to end
    seconds_left: float | None = None  # of the run's wall limit
    pulse: Pulse = field(default_factory=Pulse)
    diverged: str | None = None  # why it learns nothing any more
    steered: str | None = None  # `ended_by_us` of an end that is for a better plan's sake


@dataclass(frozen=True)
class Doubt:
    """The first of two looks into a silence."""

    at: float
    stacks: tuple[Stack, ...]


@dataclass(frozen=True)
class Vigil:
    """What was noticed so far, and when."""

    asked_at: float | None = None
    rank_died_at: float | None = None
    # stop | wall | preempted | rank_died (a death of its own) | hang | diverged | climb |
    # not_faster
    ended_by_us: str | None = None
    rhythm: Rhythm = field(default_factory=Rhythm)
    doubt: Doubt | None = None
    stall: Stall | None = None
    stacks: tuple[Stack, ...] = ()  # the newest taken
    diverged: str | None = None


def watch_over(vigil: Vigil, glance: Glance, limits: Thresholds) -> tuple[Vigil, Act]:
    """Return what is known now and what to do about it."""
    vigil = dataclasses.replace(vigil, rhythm=beat(vigil.rhythm, glance.at, glance.pulse))
    if glance.hurry:
        return dataclasses.replace(vigil, ended_by_us="stop"), Act.KILL
    if glance.rescuing:
        return vigil, Act.LEAVE  # it is bounded by itself, and what was asked for is seen to after
    if vigil.asked_at is not None:
        if glance.at - vigil.asked_at >= limits.stop_grace:
            return vigil, Act.END
    elif glance.stop_asked:
        return dataclasses.replace(vigil, ended_by_us="stop", asked_at=glance.at), Act.ASK_SAVE
    elif glance.seconds_left is not None and glance.seconds_left <= 0:
        return dataclasses.replace(vigil, ended_by_us="wall", asked_at=glance.at), Act.ASK_SAVE
    elif glance.noticed:
        return dataclasses.replace(vigil, ended_by_us=PREEMPTED, asked_at=glance.at), Act.ASK_SAVE
    if glance.rank_died:
        return _after_a_death(vigil, glance, limits)
    if vigil.asked_at is None and glance.steered is not None:
        asked = dataclasses.replace(vigil, ended_by_us=glance.steered, asked_at=glance.at)
        return asked, Act.ASK_SAVE
    if vigil.asked_at is not None:
        return vigil, Act.LEAVE  # the grace for saving is the only limit now
    if glance.diverged is not None:
        return dataclasses.replace(vigil, ended_by_us="diverged", diverged=glance.diverged), Act.END
    return _listen(vigil, glance, limits)


def _after_a_death(vigil: Vigil, glance: Glance, limits: Thresholds) -> tuple[Vigil, Act]:
    if vigil.rank_died_at is None:
        return dataclasses.replace(vigil, rank_died_at=glance.at), Act.LEAVE
    if glance.at - vigil.rank_died_at >= limits.rank_grace:
        return dataclasses.replace(vigil, ended_by_us="rank_died"), Act.END
    return vigil, Act.LEAVE


def looked(
    vigil: Vigil, stacks: tuple[Stack, ...], lines: int, limits: Thresholds
) -> tuple[Vigil, Act, str | None]:
    """Return what the stacks just taken add, what to do, and a note for people.

    `lines` is how much output was read by now.
    """
    rhythm = vigil.rhythm
    at = rhythm.at or 0.0
    vigil = dataclasses.replace(vigil, stacks=stacks)
    if vigil.doubt is None:
        return dataclasses.replace(vigil, doubt=Doubt(at, stacks)), Act.LEAVE, None
    moving = still_moving(vigil.doubt.stacks, stacks, at - vigil.doubt.at)
    stall = Stall(
        doing=rhythm.pulse.doing.value,
        silent_seconds=round(rhythm.silent, 1),
        explained_seconds=round(rhythm.explained(limits), 1),
        lines=lines,
        looks=rhythm.patience,
        moving=moving,
    )
    if moving is not None and rhythm.patience < limits.stall_looks:
        patient = dataclasses.replace(rhythm, patience=rhythm.patience + 1)
        said = f"silent for {stall.silent_seconds:.0f} s {stall.doing}, yet {moving}: left alone"
        return dataclasses.replace(vigil, rhythm=patient, doubt=None), Act.LEAVE, said
    return dataclasses.replace(vigil, ended_by_us="hang", stall=stall), Act.END, None


def _listen(vigil: Vigil, glance: Glance, limits: Thresholds) -> tuple[Vigil, Act]:
    if not vigil.rhythm.is_broken(limits):
        return (vigil if vigil.doubt is None else dataclasses.replace(vigil, doubt=None)), Act.LEAVE
    if vigil.doubt is None or glance.at - vigil.doubt.at >= limits.stack_pause:
        return vigil, Act.LOOK
    return vigil, Act.LEAVE
