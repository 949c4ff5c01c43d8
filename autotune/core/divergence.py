"""Notices a training that goes on and learns nothing any more: no finite loss, or no step taken."""

import math
from dataclasses import dataclass, replace
from typing import Any

# A loss that has come down to nothing was learned; one that falls from here to zero was lost.
LEARNED_BELOW = 0.5
SHORTEST = 3  # steps: fewer lost ones end no training


@dataclass(frozen=True)
class Course:
    """How many optimizer steps in a row, up to now, did what."""

    lost: int = 0  # the loss was reported, and was not a finite number
    zero: int = 0  # it was exactly zero, and had not come down to that
    skipped: int = 0  # the optimizer skipped the step, its gradients being no finite numbers
    last_loss: float | None = None  # the newest that was finite and not zero
    last_skips: int | None = None  # skipped so far, as the optimizer counts them

    def diverged(self, steps: int) -> str | None:
        """Return the sentence that says so when it lasts for `steps` steps, else None."""
        if self.lost >= steps:
            return f"the loss was no finite number for {self.lost} optimizer steps in a row"
        if self.skipped >= steps:
            return f"{self.skipped} optimizer steps in a row were skipped for lost gradients"
        if self.zero >= steps:
            before = "from the first step on" if self.last_loss is None else "all at once"
            return f"the loss was exactly zero for {self.zero} optimizer steps in a row, {before}"
        return None

    def lost_at_the_end(self, total: int) -> str | None:
        """Return the sentence for a training of `total` steps whose greater part, and end, is lost.

        A short one reaches its last step before it has been lost for long.
        """
        return self.diverged(max(SHORTEST, (total + 1) // 2))


def after_step(course: Course, loss: Any, skips: Any) -> Course:
    """Return the course after one more step, of which a loss and a count of skips were reported.

    A step that was skipped is counted as such and not as a lost one: while a loss scaler looks for
    its scale the loss may well overflow.
    """
    value = _loss(loss)
    count = skips if isinstance(skips, int) and not isinstance(skips, bool) else None
    skipped = count is not None and course.last_skips is not None and count > course.last_skips
    now = replace(course, last_skips=count)
    if skipped:
        return replace(now, skipped=course.skipped + 1)
    now = replace(now, skipped=0)
    if value is None:
        return now  # not reported is not the same as not finite
    if not math.isfinite(value):
        return replace(now, lost=course.lost + 1, zero=0)
    if value == 0 and (course.last_loss is None or course.last_loss >= LEARNED_BELOW):
        return replace(now, lost=0, zero=course.zero + 1)
    return replace(now, lost=0, zero=0, last_loss=value or course.last_loss)


def _loss(value: Any) -> float | None:
    if isinstance(value, str) and value.lower().lstrip("+-") in ("nan", "inf", "infinity"):
        return float(value)
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return float(value)
    return None
