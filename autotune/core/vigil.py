"""Decides, moment by moment, whether a running attempt is left alone, told to save, or ended."""

import dataclasses
from dataclasses import dataclass
from enum import Enum

from autotune.core.policy import Thresholds


class Act(str, Enum):
    """What to do with the attempt now."""

    LEAVE = "leave"
    ASK_SAVE = "ask_save"  # at the next step boundary, then end by itself
    END = "end"  # SIGTERM, grace, SIGKILL
    KILL = "kill"


@dataclass(frozen=True)
class Glance:
    """One look at a running attempt; times in monotonic seconds."""

    at: float
    stop_asked: bool = False
    hurry: bool = False
    rank_died: bool = False
    seconds_left: float | None = None  # of the run's wall limit


@dataclass(frozen=True)
class Vigil:
    """What was noticed so far, and when."""

    asked_at: float | None = None
    rank_died_at: float | None = None
    ended_by_us: str | None = None  # stop | wall | rank_died (a death of its own)


def watch_over(vigil: Vigil, glance: Glance, limits: Thresholds) -> tuple[Vigil, Act]:
    """Return what is known now and what to do about it."""
    if glance.hurry:
        return dataclasses.replace(vigil, ended_by_us="stop"), Act.KILL
    if vigil.asked_at is not None:
        if glance.at - vigil.asked_at >= limits.stop_grace:
            return vigil, Act.END
    elif glance.stop_asked:
        return dataclasses.replace(vigil, ended_by_us="stop", asked_at=glance.at), Act.ASK_SAVE
    elif glance.seconds_left is not None and glance.seconds_left <= 0:
        return dataclasses.replace(vigil, ended_by_us="wall", asked_at=glance.at), Act.ASK_SAVE
    if glance.rank_died:
        if vigil.rank_died_at is None:
            return dataclasses.replace(vigil, rank_died_at=glance.at), Act.LEAVE
        if glance.at - vigil.rank_died_at >= limits.rank_grace:
            return dataclasses.replace(vigil, ended_by_us="rank_died"), Act.END
    return vigil, Act.LEAVE
