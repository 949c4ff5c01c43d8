"""Decides the next step of a run from its story and what is known of its surroundings."""

from dataclasses import dataclass
from typing import Any

from autotune.core.budget import attempts_spent, time_spent, wait_spent
from autotune.core.carry import Carry, SavedShape, WantedShape, decide_carry
from autotune.core.failure import Failure
from autotune.core.history import Attempt, Story
from autotune.core.job import Job
from autotune.core.ladder import Choice, Means, broken_settings, choose
from autotune.core.plan import Plan
from autotune.core.policy import Policy
from autotune.core.record import Finish, GiveUp, Launch, Prove, Step, Stop, Wait
from autotune.core.rung import Rung, Scene, Surroundings

# The class that steps in the built-in trainer, on the device and on the host alike.
OPTIMIZER = "adamw_torch_fused"


@dataclass(frozen=True)
class Saved:
    """The newest complete checkpoint of the run."""

    name: str
    step: int
    attempt: int | None  # that wrote it, when it says so


@dataclass(frozen=True)
class Outlook:
    """What a decision rests on beside the story."""

    job: Job
    policy: Policy
    rungs: dict[str, Rung]
    around: Surroundings
    start: Plan
    saved: Saved | None = None


def next_step(story: Story, outlook: Outlook) -> Step:
    """Return what to do now; the caller has written down everything that happened."""
    if story.pending is not None:
        return story.pending
    if story.stop_asked is not None:
        return Stop(f"asked to by {story.stop_asked.by}")
    last = story.last
    if last is None:
        return _launch(story, outlook, outlook.start, "the job's own settings")
    if last.evidence is not None and last.evidence.finished:
        return _close(story, outlook, last)
    enough = time_spent(story, outlook.job.limits)
    if enough:
        return GiveUp(enough)
    if last.failure is Failure.NONE and last.evidence and last.evidence.ended_by_us:
        return _launch(story, outlook, last.plan, "it was interrupted, not beaten")
    return _climb(story, outlook)


def carry_to(plan: Plan, story: Story, outlook: Outlook) -> Carry:
    """Return how the newest checkpoint becomes the start of `plan`."""
    saved = outlook.saved
    shape = SavedShape(**shape_of(_writer(saved, story, outlook))) if saved is not None else None
    return decide_carry(shape, WantedShape(**shape_of(plan)), frozenset(outlook.job.allow))


def _climb(story: Story, outlook: Outlook) -> Step:
    beaten = _beaten(story)
    if beaten.diagnosis is None:
        raise AssertionError("an attempt that is over has a diagnosis")
    scene = Scene(beaten.plan, beaten.diagnosis, outlook.around)
    means = Means(
        outlook.job, outlook.policy, outlook.rungs, lambda plan: carry_to(plan, story, outlook)
    )
    _, rule = outlook.policy.rule_for(scene)
    if story.taken_up_again and not rule.try_:
        # What no rung can mend is mended by a person, who has now started the run again.
        return _launch(story, outlook, beaten.plan, "the owner started it again")
    choice: Choice = choose(scene, story, means)
    if choice.plan is None or choice.remedy is None:
        return GiveUp(choice.why_not, choice.passed_over)
    limits = outlook.job.limits
    # What is not our failure costs no attempt, so it may be retried when none is left.
    enough = attempts_spent(story, limits) if choice.remedy.spend else None
    pause = choice.remedy.pause_seconds if not story.waited_since_end else 0.0
    enough = enough or (wait_spent(story, limits) if pause else None)
    if enough:
        return GiveUp(enough)
    if pause:
        return Wait(pause, choice.remedy.why)
    return _launch(story, outlook, choice.plan, choice.remedy.why, choice)


def _beaten(story: Story) -> Attempt:
    """Return the attempt to answer.

    A conversion that failed, or a setting that broke as soon as a rung of ours turned it on, is a
    rung gone and not a new failure: what is to be answered is the attempt it was taken against.
    """
    ran = [a for a in story.attempts if a.prepared is None or a.prepared.ok]
    last = ran[-1]
    broken = broken_settings(last)
    for attempt in reversed(ran[:-1]):
        if attempt.diagnosis and any(getattr(attempt.plan, k) != v for k, v in broken.items()):
            return attempt
    return last


def _launch(
    story: Story, outlook: Outlook, plan: Plan, why: str, choice: Choice | None = None
) -> Launch:
    saved = outlook.saved
    carry = choice.carry if choice and choice.carry else carry_to(plan, story, outlook)
    return Launch(
        attempt=story.last.number + 1 if story.last else 1,
        plan=plan,
        carry=carry,
        checkpoint=saved.name if saved else None,
        checkpoint_step=saved.step if saved else 0,
        remedy=choice.remedy if choice else None,
        why=why,
    )


def _close(story: Story, outlook: Outlook, last: Attempt) -> Step:
    saved = outlook.saved
    if outlook.job.proof and story.proof is None and saved is not None:
        return Prove(last.plan, last.number, saved.name, saved.step)
    return Finish(last.plan, last.number, "the training ran to its end")


def _writer(saved: Saved, story: Story, outlook: Outlook) -> Plan:
    """Return the plan a checkpoint was written under."""
    for attempt in story.attempts:
        if attempt.number == saved.attempt:
            return attempt.plan
    return story.last.plan if story.last else outlook.start


def shape_of(plan: Plan) -> dict[str, Any]:
    """Return what of a plan is written into its checkpoints, as core.carry names it."""
    return {
        "zero_stage": plan.zero_stage,
        "world_size": plan.world_size,
        "offload_optimizer": "cpu" if plan.offload_optimizer else "none",
        "offload_param": "cpu" if plan.offload_param else "none",
        "quantization": plan.quantization,
        "method": plan.method,
        "optimizer": OPTIMIZER,
        "round_robin_gradients": plan.round_robin_gradients,
        "sub_group_size": plan.sub_group_size,
        "dtype": plan.dtype,
    }
