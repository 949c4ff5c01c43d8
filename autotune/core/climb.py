"""Climbs back: tries a faster plan while a run holds with room to spare, keeps what is faster."""

import dataclasses
from dataclasses import dataclass

from autotune.core.candidates import Candidate, candidates
from autotune.core.carry import CarryKind
from autotune.core.evidence import Diagnosis, Evidence
from autotune.core.failure import Failure
from autotune.core.foresight import Foresight
from autotune.core.history import Attempt, Story
from autotune.core.ladder import NO_FAULT_OF_THE_PLAN, broken_before, refused_by_owner
from autotune.core.lessons import learned
from autotune.core.outlook import Outlook, Saved, carry_to
from autotune.core.plan import Plan
from autotune.core.planner import Prospect, prospects
from autotune.core.rung import Rung, Scene
from autotune.core.sentence import say_plan
from autotune.core.units import show_share

FASTER = "climb"  # `ended_by_us` of an attempt that was stopped so that a faster plan is tried
NOT_FASTER = "not_faster"  # of a trial that did not keep its promise
STEPS_FIRST = 10  # measured before a pace is believed
EVEN = 0.5  # the least probability to fit: a trial that fails costs its restarts and no step
WORTH = 0.05  # the least share of a step's time that a plan must promise to save
KEPT = 0.02  # the least share that it must be measured to save
LARGER = (2, 4)  # times the job's own micro-batch

# What the weights are and what they learn from stays as it is in the middle of a run.
_KEPT_AS_IS = (
    "method", "quantization", "dtype", "optimizer", "sequence", "lora_rank", "excluded",
    "world_size", "four_bit_compute",
)  # fmt: skip


@dataclass(frozen=True)
class Trial:
    """A plan worth trying, and the predicted share of the present step time that it takes."""

    prospect: Prospect
    share: float

    def __str__(self) -> str:
        fits = f"fits with {show_share(self.prospect.p_fit)}"
        return (
            f"{say_plan(self.prospect.plan)}; predicted {self.share:.2f} of the step time, {fits}"
        )


def faster(story: Story, outlook: Outlook) -> Trial | None:
    """Return the plan most worth a trial from the newest attempt's checkpoint, or None.

    That attempt has its evidence, of what it showed so far or until it was stopped for the trial.
    """
    last, foresight = story.last, outlook.foresight
    if last is None or last.evidence is None or foresight is None:
        return None
    room = _seconds_to_spend(story, outlook)
    pace = last.evidence.pace
    if pace is None or pace.start_seconds is None or room < 2 * pace.start_seconds:
        return None
    found = _prospects(last, story, outlook, foresight)
    now = next((one for one in found if one.plan == last.plan), None)
    if now is None:
        return None
    best = [
        one
        for one in found
        if one.p_fit >= EVEN
        and not one.refused
        and one.step_time_factor <= now.step_time_factor * (1 - WORTH)
    ]
    if not best:
        return None
    # What is gained on average; a trial that does not fit gains nothing.
    one = max(best, key=lambda one: one.p_fit * (now.step_time_factor - one.step_time_factor))
    share = one.step_time_factor / now.step_time_factor
    gained = one.p_fit * (1 - share) * _seconds_left(last.evidence)
    return Trial(one, share) if gained > 2 * pace.start_seconds else None


def no_faster(story: Story, seen: Evidence) -> str | None:
    """Return the sentence why a trial is ended, or None while it is unknown, or faster."""
    trial = story.last
    if trial is None or trial.launch.trial_of is None or seen.pace is None:
        return None
    before = before_trial(story, trial)
    held = before.evidence.pace if before.evidence else None
    measured = seen.pace.early_token_seconds
    if held is None or held.token_seconds is None or measured is None:
        return None
    if measured <= held.token_seconds * (1 - KEPT):
        return None
    times = measured / held.token_seconds
    return f"the trial takes {times:.2f} times as long for a token as the plan before it"


def steer(story: Story, outlook: Outlook, seen: Evidence, saved: bool) -> tuple[str, str] | None:
    """Return why the running attempt is to save and end, as `ended_by_us` and in words, or None.

    `seen` is what it has shown so far, `saved` whether a checkpoint came since the last
    question: only then is a faster plan looked for, which takes a second.
    """
    last = story.last
    if last is None or not outlook.job.climb_back:
        return None
    slow = no_faster(story, seen)
    if slow is not None:
        return NOT_FASTER, slow
    trial = last.launch.trial_of is not None
    pace, reached = seen.pace, seen.checkpoint_step
    if pace is None or pace.steps < STEPS_FIRST or (trial and pace.early_token_seconds is None):
        return None
    if not saved or reached is None or reached <= last.launch.checkpoint_step:
        return None
    so_far = dataclasses.replace(last, evidence=seen)
    # What a trial would start from is this attempt's own, and not what lay there when it began.
    outlook = dataclasses.replace(outlook, saved=Saved("", reached, last.number))
    better = faster(dataclasses.replace(story, attempts=(*story.attempts[:-1], so_far)), outlook)
    if better is None:
        return None
    return FASTER, f"a plan predicted to be faster is tried: {better}"


def returns(story: Story) -> Attempt | None:
    """Return the attempt whose plan is gone back to after a trial that failed, or None."""
    last = story.last
    if last is None or last.launch.trial_of is None or last.evidence is None:
        return None
    if no_faster(story, last.evidence) is not None:  # whatever ended it
        return before_trial(story, last)
    if last.failure in NO_FAULT_OF_THE_PLAN or last.failure is None:
        return None
    return before_trial(story, last)


def before_trial(story: Story, trial: Attempt) -> Attempt:
    """Return the attempt that a trial was started from."""
    return next(one for one in story.attempts if one.number == trial.launch.trial_of)


def _prospects(
    last: Attempt, story: Story, outlook: Outlook, foresight: Foresight
) -> list[Prospect]:
    """Return what is expected of every plan that learns the same, the job's own first."""
    failed = {
        one.plan
        for one in story.attempts
        if one.number != last.number
        and (one.launch.trial_of is not None or one.failure not in NO_FAULT_OF_THE_PLAN)
    }

    def forbidden(rung: Rung) -> str | None:
        return refused_by_owner(rung, outlook.job)

    made: dict[Plan, Candidate] = {}
    for start in _loosened(outlook.start):
        shortage = Diagnosis(Failure.DEVICE_OOM, 0.0, "nothing has failed")
        scene = Scene(start, shortage, outlook.around)
        _, rule = outlook.policy.rule_for(scene)
        for one in candidates(scene, rule.try_, outlook.rungs, lambda *_: None, forbidden):
            made.setdefault(one.plan, one)
    kept = [
        one
        for one in made.values()
        if one.plan == last.plan
        or (
            one.plan not in failed
            and all(getattr(one.plan, name) == getattr(last.plan, name) for name in _KEPT_AS_IS)
            and not broken_before(one.plan, last.plan, story)
            and carry_to(one.plan, story, outlook).kind in (CarryKind.SAME, CarryKind.STAGED)
        )
    ]
    return prospects(
        kept,
        foresight.forecast,
        learned(story, foresight),
        foresight.capacity,
        foresight.time_of(story),
        foresight.host_room,
    )


def _loosened(start: Plan) -> list[Plan]:
    """Return the job's own plan and larger ones: what it asked for may be less than there is."""
    per_rank = start.micro_batch * start.accumulation
    plans = [start]
    for times in LARGER:
        micro = start.micro_batch * times
        if per_rank % micro == 0:
            plans.append(start.but(micro_batch=micro, accumulation=per_rank // micro))
    if start.activation_checkpointing:
        bare = {"activation_checkpointing": False, "activation_offload": False}
        plans += [one.but(**bare) for one in plans]
    return plans


def _seconds_left(seen: Evidence) -> float:
    if seen.pace is None or seen.pace.seconds is None or seen.total_steps is None:
        return 0.0
    return (seen.total_steps - (seen.step or 0)) * seen.pace.seconds


def _seconds_to_spend(story: Story, outlook: Outlook) -> float:
    """Return what is left of the share of the run that its owner gives to trials."""
    last = story.last
    if last is None or last.evidence is None:
        return 0.0
    expected = story.attempt_seconds + _seconds_left(last.evidence)
    spent = sum(
        _start_of(one.evidence)
        for before, one in zip(story.attempts, story.attempts[1:], strict=False)
        if one.evidence and (one.launch.trial_of is not None or _made_way(before))
    )
    return outlook.job.climb_back * expected - spent


def _made_way(attempt: Attempt) -> bool:
    """Whether the start after this attempt is one that climbing costs."""
    ended_by_us = attempt.evidence.ended_by_us if attempt.evidence else None
    return attempt.launch.trial_of is not None or ended_by_us == FASTER


def _start_of(seen: Evidence) -> float:
    """Return what a start took: all of an attempt that never came to a step."""
    start = seen.pace.start_seconds if seen.pace else None
    return (seen.seconds or 0.0) if start is None else start
