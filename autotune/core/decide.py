"""Decides the next step of a run from its story and what is known of its surroundings."""

import dataclasses
from dataclasses import dataclass
from typing import Any

from autotune.core.broken_card import blamed_cards
from autotune.core.budget import attempts_spent, time_spent, wait_spent
from autotune.core.carry import Carry, SavedShape, WantedShape, decide_carry
from autotune.core.failure import Failure
from autotune.core.history import Attempt, Story
from autotune.core.job import Job
from autotune.core.ladder import CURABLE, Choice, Means, broken_settings, choose
from autotune.core.need import needed_bytes
from autotune.core.plan import Plan
from autotune.core.policy import Policy
from autotune.core.record import Finish, GiveUp, Launch, Prove, Remedy, Step, Stop, Wait
from autotune.core.rung import Deed, Rung, Scene, Surroundings

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
    earlier: tuple[Saved, ...] = ()  # the whole checkpoints before it, newest first


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


def carry_to(plan: Plan, story: Story, outlook: Outlook, rung: Rung | None = None) -> Carry:
    """Return how the newest checkpoint that `rung` leaves becomes the start of `plan`."""
    saved = _saved_after(rung, outlook)
    shape = SavedShape(**shape_of(_writer(saved, story, outlook))) if saved is not None else None
    return decide_carry(shape, WantedShape(**shape_of(plan)), frozenset(outlook.job.allow))


def _climb(story: Story, outlook: Outlook) -> Step:
    means = Means(
        outlook.job,
        outlook.policy,
        outlook.rungs,
        lambda plan, rung: carry_to(plan, story, outlook, rung),
    )
    beaten, choice = _answer(story, outlook, means)
    scene = _scene(beaten, outlook)
    _, rule = outlook.policy.rule_for(scene)
    a_persons = not rule.try_ or choice.cure
    if story.taken_up_again and choice.plan is None and a_persons:
        # What no rung can mend is mended by a person, who has now started the run again.
        return _launch(story, outlook, beaten.plan, "the owner started it again")
    if choice.plan is None or choice.remedy is None:
        return GiveUp(choice.why_not, choice.passed_over, choice.cure)
    limits = outlook.job.limits
    # What is not our failure costs no attempt, so it may be retried when none is left.
    enough = attempts_spent(story, limits) if choice.remedy.spend else None
    if enough:
        return GiveUp(enough)
    wait = _wait_before(choice.remedy, beaten, story, outlook)
    if wait is not None:
        enough = wait_spent(story, limits)
        if enough is None:
            return wait
        if not story.waited_since_end:
            return GiveUp(enough, cure=choice.cure)
    return _launch(story, outlook, choice.plan, choice.remedy.why, choice)


def _answer(story: Story, outlook: Outlook, means: Means) -> tuple[Attempt, Choice]:
    """Return the attempt that is answered and the answer.

    A conversion that failed is a rung gone and not a new failure: the attempt it was taken
    against is answered. A setting that broke as soon as a rung of ours turned it on may have a
    cure of its own; without one it is gone too, and the ladder goes on from before it.
    """
    ran = [a for a in story.attempts if a.prepared is None or a.prepared.ok]
    while True:
        beaten, place = ran[-1], _before_the_break(ran)
        if place is None or beaten.failure in CURABLE:
            choice = choose(_scene(beaten, outlook), story, means)
            if choice.plan is not None or place is None:
                return beaten, choice
        ran = ran[: place + 1]


def _before_the_break(ran: list[Attempt]) -> int | None:
    """Return the place of the newest attempt without the setting that broke in the last."""
    broken = broken_settings(ran[-1])
    for place in range(len(ran) - 2, -1, -1):
        plan = ran[place].plan
        if ran[place].diagnosis and any(getattr(plan, k) != v for k, v in broken.items()):
            return place
    return None


def _scene(beaten: Attempt, outlook: Outlook) -> Scene:
    if beaten.diagnosis is None:
        raise AssertionError("an attempt that is over has a diagnosis")
    held = (outlook.saved, *outlook.earlier) if outlook.saved else ()
    broke = blamed_cards(beaten.evidence) if beaten.evidence else frozenset()
    broken = tuple(sorted(broke | set(outlook.around.broken_gpus)))
    return Scene(
        beaten.plan,
        beaten.diagnosis,
        dataclasses.replace(outlook.around, broken_gpus=broken),
        tuple(saved.step for saved in held),
        0 if beaten.launch.carry.conversions else beaten.launch.checkpoint_step,
    )


def _wait_before(remedy: Remedy, beaten: Attempt, story: Story, outlook: Outlook) -> Wait | None:
    """Return the wait that comes before the attempt, or None when there is none or it is over."""
    left = outlook.job.limits.wait - story.waited_seconds
    pause = min(remedy.pause_seconds, left) if left > 0 else remedy.pause_seconds
    # Room that was seen not to be there is waited for again; nothing else is waited for twice.
    if not pause or (story.waited_since_end and story.room is not False):
        return None
    if outlook.rungs[remedy.rung].deed is not Deed.WAIT_FOR_ROOM:
        return None if story.waited_since_end else Wait(pause, remedy.why)
    needed = needed_bytes(beaten, outlook.job.devices.memory_limit, outlook.policy.limits)
    # Where room was seen and was not enough the figure is wrong, and time must pass as well.
    again = any(
        a.launch.remedy and a.launch.remedy.rung == remedy.rung for a in story.since_progress()
    )
    return Wait(pause, remedy.why, needed, pause if again else 0.0)


def _saved_after(rung: Rung | None, outlook: Outlook) -> Saved | None:
    """Return the checkpoint that is the newest once the rung's deed is done."""
    deed = rung.deed if rung else None
    if deed is Deed.START_OVER:
        return None
    if deed is Deed.SET_ASIDE:
        return outlook.earlier[0] if outlook.earlier else None
    return outlook.saved


def _launch(
    story: Story, outlook: Outlook, plan: Plan, why: str, choice: Choice | None = None
) -> Launch:
    rung = outlook.rungs[choice.remedy.rung] if choice and choice.remedy else None
    deed = rung.deed if rung else None
    saved = _saved_after(rung, outlook)
    carry = choice.carry if choice and choice.carry else carry_to(plan, story, outlook)
    gone = (outlook.saved, *outlook.earlier) if deed is Deed.START_OVER else (outlook.saved,)
    aside = deed in (Deed.SET_ASIDE, Deed.START_OVER)
    return Launch(
        attempt=story.last.number + 1 if story.last else 1,
        plan=plan,
        carry=carry,
        checkpoint=saved.name if saved else None,
        checkpoint_step=saved.step if saved else 0,
        remedy=choice.remedy if choice else None,
        why=why,
        set_aside=tuple(one.name for one in gone if one) if aside else (),
        rebuild_ops=deed is Deed.REBUILD_OPS,
        steps_again=(outlook.saved.step if outlook.saved else 0) - (saved.step if saved else 0),
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
