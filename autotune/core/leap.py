"""Chooses by prediction: straight to the cheapest plan likely to fit, several rungs at once."""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from autotune.core.candidates import Candidate, candidates
from autotune.core.failure import Failure, Trait
from autotune.core.foresight import Foresight
from autotune.core.history import Story
from autotune.core.lessons import learned
from autotune.core.memory.belief import Belief
from autotune.core.plan import Plan
from autotune.core.planner import LIKELY, Pick, Prospect, near_limit, pick, prospects, show_expected
from autotune.core.policy import Policy
from autotune.core.record import Foreseen, PassedOver
from autotune.core.rung import Rung, Scene
from autotune.core.sentence import say_rungs
from autotune.core.units import show_share

MOST_PASSED_OVER = 6  # cheaper plans that are told of, with why they were not taken

# A shortage of the device, which predictions are about.
SHORTAGES = frozenset({Failure.DEVICE_OOM, Failure.DEVICE_OOM_FRAGMENTATION})


@dataclass(frozen=True)
class Leap:
    """What the planner saw and chose."""

    prospects: tuple[Prospect, ...]
    pick: Pick
    capacity: int
    learned: str

    @property
    def chosen(self) -> Prospect | None:
        """The plan to launch; None where none can fit."""
        return None if self.pick.index is None else self.prospects[self.pick.index]

    def near_limit(self) -> tuple[Plan, ...]:
        """Return the plans that a trace would decide about, cheapest first."""
        return tuple(
            self.prospects[place].plan for place in near_limit(self.prospects, self.capacity)
        )

    def foreseen(self) -> Foreseen | None:
        """Return what is written down of the choice."""
        one = self.chosen
        if one is None:
            return None
        return foreseen(one, self.capacity, len(self.prospects), self.learned)

    def passed_over(self) -> tuple[PassedOver, ...]:
        """Return the cheaper plans that were not taken, and why."""
        one = self.chosen
        if one is None:
            return ()
        cheaper = [
            other
            for other in self.prospects
            if other.step_time_factor < one.step_time_factor
            and other.rungs
            and other.p_fit < LIKELY
        ]
        cheaper.sort(key=lambda other: (-other.p_fit, len(other.rungs)))
        return tuple(
            PassedOver(say_rungs(other.rungs), other.why or _unlikely(other))
            for other in cheaper[:MOST_PASSED_OVER]
        )


def foreseen(one: Prospect, capacity: int, considered: int = 1, learned: str = "") -> Foreseen:
    """Return what is written down of a plan that is launched."""
    return Foreseen(
        peak_bytes=one.forecast.peak,
        low_bytes=one.low,
        high_bytes=one.high,
        capacity_bytes=capacity,
        p_fit=round(one.p_fit, 4),
        step_time_factor=round(one.step_time_factor, 3),
        method=one.forecast.method,
        considered=considered,
        learned=learned,
    )


def may_leap(scene: Scene, policy: Policy) -> bool:
    """Return whether the failure is one that predictions answer, under this policy."""
    if policy.choose != "predicted" or Trait.LEAKING in scene.diagnosis.traits:
        return False  # a leak outgrows every prediction
    return scene.diagnosis.failure in SHORTAGES


def leap(
    scene: Scene,
    names: Sequence[str],
    rungs: Mapping[str, Rung],
    story: Story,
    foresight: Foresight,
    refused: Callable[[Rung, Plan], str | None],
    forbidden: Callable[[Rung], str | None],
) -> Leap:
    """Return the choice among all plans that `names` make of the scene's.

    Where none of them can fit, what earlier runs left is forgotten, which may be wrong; and where
    none does then, all that can be made of the job's own plan is looked at: an attempt may have
    gone down a branch on which the smallest plan does not lie.
    """
    unlearned = dataclasses.replace(foresight, prior=Belief())
    own = story.started.plan if story.started else scene.plan
    tried = {attempt.plan for attempt in story.attempts}
    seen = None
    for start in dict.fromkeys((scene.plan, own)):
        here = dataclasses.replace(scene, plan=start)
        made = candidates(here, names, rungs, refused, forbidden)
        found = [one for one in made if one.rungs or one.plan not in tried]
        for known in (foresight, unlearned):
            if seen is None or found:
                seen = _look(found, story, known)
            if seen.chosen is not None:
                return seen
    assert seen is not None
    return seen


def _look(found: Sequence[Candidate], story: Story, foresight: Foresight) -> Leap:
    belief = learned(story, foresight)
    seen = prospects(
        found,
        foresight.forecast,
        belief,
        foresight.capacity,
        foresight.time_of(story),
        foresight.host_room,
    )
    chosen = pick(seen, foresight.capacity)
    return Leap(tuple(seen), chosen, foresight.capacity, _said(belief))


def _said(belief: Belief) -> str:
    """Return what this run's measurements, or earlier ones, say of the predictions, in words."""
    if not belief.sightings:
        return ""
    factor = math.exp(belief.sightings[-1].value)
    return f"measured {factor:.2f} times what was predicted of the tensors"


def _unlikely(one: Prospect) -> str:
    return f"{show_expected(one)}, fits with {show_share(one.p_fit)}"
