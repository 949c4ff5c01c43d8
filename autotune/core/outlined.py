"""An outline is what the planner sees of a job: its plans, what each buys, and the choice."""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from autotune.core.allowing import Allowing
from autotune.core.codec import to_plain
from autotune.core.plan import Plan, changes
from autotune.core.planner import Prospect
from autotune.core.rung import Result

LIKELY = 0.9  # people are told of plans at least so likely as of plans that fit
_RESULTS = (Result.SAME, Result.CLOSE, Result.CHANGED)


@dataclass(frozen=True)
class Outline:
    """A job as the planner sees it; bytes of one rank."""

    job: str  # its name
    device: str
    capacity_bytes: int
    start: Plan  # the job as given
    prospects: tuple[Prospect, ...]
    chosen: int | None  # place in `prospects`; None: no plan fits
    why: str  # the sentence why this one, or why none
    doubts: tuple[str, ...] = ()  # sentences beside those of the forecasts: what else is unsure
    proof: str = ""  # where none is chosen: why none can run, in numbers
    allowing: Allowing | None = None  # where none is likely to fit: what to allow for one that is

    @property
    def given(self) -> Prospect | None:
        """The job as given, where it is among the prospects."""
        return next((one for one in self.prospects if one.plan == self.start), None)

    @property
    def choice(self) -> Prospect | None:
        """The chosen prospect."""
        return None if self.chosen is None else self.prospects[self.chosen]


@dataclass(frozen=True)
class Step:
    """One rung, taken once or more in a row, on the way from the job as given to a plan."""

    rung: str
    times: int
    before: Plan
    after: Plan
    saved_bytes: int | None  # of the predicted peak; below 0: it costs; None: not predicted
    time_factor: float | None  # of the step time


def steps_of(outline: Outline, prospect: Prospect) -> tuple[Step, ...]:
    """Return the rungs of a prospect in their order.

    What lies between two rungs is another prospect; where it is none, because it may not be run,
    the two are one step.
    """
    return _steps_between(_by_rungs(outline), outline.start, prospect)


def _by_rungs(outline: Outline) -> Mapping[tuple[str, ...], Prospect]:
    return {one.rungs: one for one in outline.prospects}


def _steps_between(
    known: Mapping[tuple[str, ...], Prospect], plan: Plan, prospect: Prospect
) -> tuple[Step, ...]:
    steps: list[Step] = []
    taken: tuple[str, ...] = ()
    before = known.get(())
    names: list[str] = []
    times = 0
    for name, group in groupby(prospect.rungs):
        count = len(list(group))
        taken += (name,) * count
        names, times = [*names, name], times + count
        after = prospect if taken == prospect.rungs else known.get(taken)
        if after is not None:
            steps.append(_step(" + ".join(names), times, plan, before, after))
            before, plan, names, times = after, after.plan, [], 0
    return tuple(steps)


def _step(rung: str, times: int, plan: Plan, before: Prospect | None, after: Prospect) -> Step:
    if before is None:
        return Step(rung, times, plan, after.plan, None, None)
    factor = before.step_time_factor
    return Step(
        rung, times, plan, after.plan,
        saved_bytes=before.forecast.peak - after.forecast.peak,
        time_factor=after.step_time_factor / factor if factor > 0 else None,
    )  # fmt: skip


def runners_up(outline: Outline, at_most: int) -> list[tuple[int, Prospect]]:
    """Return places and prospects worth a look beside the chosen one, the best first.

    Those likely to fit from the cheapest up, then the others from the likeliest down; what would
    not be launched is none.
    """
    others = [
        (i, one)
        for i, one in enumerate(outline.prospects)
        if i != outline.chosen and not one.refused
    ]

    def order(item: tuple[int, Prospect]) -> tuple[float, ...]:
        place, one = item
        cost = (_RESULTS.index(one.result), one.step_time_factor, len(one.rungs), place)
        return (0.0, *cost) if one.p_fit >= LIKELY else (1.0, 1 - one.p_fit, *cost)

    return sorted(others, key=order)[:at_most]


def doubts_of(outline: Outline) -> tuple[str, ...]:
    """Return every doubt about the plan that is shown, each once."""
    shown = outline.choice or outline.given
    found = (*outline.doubts, *(shown.forecast.doubts if shown else ()))
    return tuple(dict.fromkeys(found))


def smallest(outline: Outline) -> Prospect | None:
    """Return the prospect that is predicted to need least."""
    return min(outline.prospects, key=lambda one: one.forecast.peak, default=None)


def as_plain(outline: Outline) -> dict[str, Any]:
    """Return the outline as `plan --json` prints it; the places are those of `prospects`."""
    known = _by_rungs(outline)
    return {
        "capacity_bytes": outline.capacity_bytes,
        "chosen": outline.chosen,
        "plans": [
            _prospect_as_plain(one, _steps_between(known, outline.start, one))
            for one in outline.prospects
        ],
    }


def _prospect_as_plain(one: Prospect, steps: tuple[Step, ...]) -> dict[str, Any]:
    return {
        "changes": [_step_as_plain(step) for step in steps],
        "settings": to_plain(one.plan),
        "predicted_peak_bytes": one.forecast.peak,
        "low_bytes": one.low,
        "high_bytes": one.high,
        "p_fit": round(one.p_fit, 4),
        "step_time_factor": round(one.step_time_factor, 4),
        "result": one.result.value,
        "why": one.why,
    }


def _step_as_plain(step: Step) -> dict[str, Any]:
    names = [change.setting for change in changes(step.before, step.after)]
    before, after = to_plain(step.before), to_plain(step.after)
    return {
        "rung": step.rung,
        "from": {name: before[name] for name in names},
        "to": {name: after[name] for name in names},
    }
