"""What an owner could allow where no plan that is allowed is likely to fit."""

from collections.abc import Sequence
from dataclasses import dataclass

from autotune.core.planner import LIKELY, Prospect, show_expected
from autotune.core.units import show_share


@dataclass(frozen=True)
class Allowing:
    """Names for the job's `allow`, and the plan that they open."""

    names: tuple[str, ...]  # in the ladder's order
    opens: Prospect

    @property
    def sentence(self) -> str:
        """What to do, and what comes of it."""
        what = f"{show_expected(self.opens)}, fits with {show_share(self.opens.p_fit)}"
        names = ", ".join(self.names)
        return f"put `allow: [{names}]` into the job: {what}, and it changes what is learned"


def worth_allowing(found: Sequence[Prospect], asks: Sequence[str]) -> Allowing | None:
    """Return the least that would have to be allowed for a plan that is likely to fit.

    `found` are the prospects if all of `asks`, rungs in the ladder's order, were allowed. As few
    of them as do; of as many, those that come first in the ladder; then the faster plan.
    """
    likely = [one for one in found if one.p_fit >= LIKELY and not one.refused]

    def cost(one: Prospect) -> tuple[int, list[int], float, int]:
        places = [asks.index(name) for name in _asked(one, asks)]
        return len(places), places, one.step_time_factor, len(one.rungs)

    best = min(likely, key=cost, default=None)
    names = () if best is None else _asked(best, asks)
    return None if best is None or not names else Allowing(names, best)


def _asked(one: Prospect, asks: Sequence[str]) -> tuple[str, ...]:
    return tuple(name for name in asks if name in one.rungs)
