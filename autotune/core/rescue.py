"""Decides, look by look, how the last step of a training that was refused memory is saved."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum

from autotune.core.evidence import Rescued


class Deed(str, Enum):
    """What to do about ranks that hold their exit."""

    LEAVE = "leave"
    ASK = "ask"  # tell every rank to write its part
    PUBLISH = "publish"  # make the verified whole a checkpoint, and tell `published`
    RELEASE = "release"  # let the ranks go on dying


@dataclass(frozen=True)
class Parts:
    """What the ranks have written so far, and whether it stands."""

    bytes: int = 0  # grows while anybody writes or checks
    why: str = ""  # the sentence why it will be no whole
    told: bool = False  # every rank has written and vouched for its own
    whole: bool = False  # every rank's part is there and is what the rank says it is


@dataclass(frozen=True)
class Rescue:
    """The saving of one attempt's last step, so far; times in monotonic seconds."""

    step: int | None = None  # that the ranks were asked for
    began: float = 0.0
    heard: float = 0.0  # when something more was written
    bytes: int = 0
    over: Rescued | None = None

    @property
    def under_way(self) -> bool:
        """Whether ranks were asked and not released yet."""
        return self.step is not None and self.over is None


def attend(
    rescue: Rescue,
    at: float,
    holding: Mapping[int, int],
    saved_step: int | None,
    parts: Parts,
    patience: float,
    died: bool = False,
) -> tuple[Rescue, Deed]:
    """Return how the saving stands and what to do now.

    `holding` is the last completed step of each rank that holds its exit; `patience` is how many
    seconds may pass without another byte; `died`: a rank is gone, so its part may never come.
    """
    if rescue.over is not None or not holding:
        return rescue, Deed.LEAVE
    if rescue.step is None:
        rescue = dataclasses.replace(rescue, step=max(holding.values()), began=at, heard=at)
        if len(set(holding.values())) > 1:
            return _over(rescue, at, "the ranks hold after different steps")
        if saved_step is not None and saved_step >= max(holding.values()):
            return _over(rescue, at, "", ok=True)  # the periodic one is of this very step
        return rescue, Deed.ASK
    if parts.why:
        return _over(rescue, at, parts.why)
    if parts.whole:
        return rescue, Deed.PUBLISH
    if died and not parts.told:
        return _over(rescue, at, "a rank died before its part was written")
    if parts.bytes != rescue.bytes:
        return dataclasses.replace(rescue, heard=at, bytes=parts.bytes), Deed.LEAVE
    if at - rescue.heard > patience:
        return _over(rescue, at, f"nothing more was written for {patience:.0f} s")
    return rescue, Deed.LEAVE


def published(rescue: Rescue, at: float, why: str) -> Rescue:
    """Return the rescue with its end: published, or `why` it could not be."""
    return _over(rescue, at, why, ok=not why)[0]


def _over(rescue: Rescue, at: float, why: str, ok: bool = False) -> tuple[Rescue, Deed]:
    told = Rescued(rescue.step, ok, why, round(at - rescue.began, 1))
    return dataclasses.replace(rescue, over=told), Deed.RELEASE
