"""Decides the next step of a run from its story and what is known of its surroundings."""

import dataclasses

from autotune.core.allowing import Allowing
from autotune.core.breaks import (
    CURABLE,
    badly_converted,
    before_the_break,
    broke_at_the_beginning,
    crashed,
)
from autotune.core.broken_card import blamed_cards
from autotune.core.budget import attempts_spent, time_spent, wait_spent
from autotune.core.carry import Carry
from autotune.core.climb import FASTER, faster, returns
from autotune.core.continuity import expected_of
from autotune.core.doubt import beside_neighbour
from autotune.core.evidence import Diagnosis
from autotune.core.failure import Failure
from autotune.core.history import Attempt, Story
from autotune.core.ladder import (
    Choice,
    Means,
    choose,
    choose_first,
    look_ahead,
    look_wider,
)
from autotune.core.leap import Leap, foreseen, may_leap
from autotune.core.need import needed_bytes
from autotune.core.outlook import Outlook, Saved, carry_to, saved_after, writer_of
from autotune.core.plan import Plan
from autotune.core.record import Finish, GiveUp, Launch, Prove, Remedy, Step, Stop, Wait
from autotune.core.resumed import Expected
from autotune.core.risk import risk_of
from autotune.core.rung import Deed, Scene
from autotune.core.seating import can_move, seated


def next_step(story: Story, outlook: Outlook) -> Step:
    """Return what to do now; the caller has written down everything that happened."""
    if story.pending is not None:
        return story.pending
    if story.stop_asked is not None:
        return Stop(f"asked to by {story.stop_asked.by}")
    return seated(story.postponed or _wanted(story, outlook), story, outlook)


def _wanted(story: Story, outlook: Outlook) -> Step:
    last = story.last
    if last is None:
        return _begin(story, outlook)
    if last.evidence is not None and last.evidence.finished:
        return _close(story, outlook, last)
    enough = time_spent(story, outlook.job.limits)
    if enough:
        return GiveUp(enough)
    held = returns(story)
    if held is not None:
        return _launch(story, outlook, held.plan, "the trial was no gain: back to what held")
    if last.failure is Failure.NONE and last.evidence and last.evidence.ended_by_us:
        if last.evidence.ended_by_us == FASTER:
            return _try_faster(story, outlook, last)
        return _launch(story, outlook, last.plan, "it was interrupted, not beaten")
    return _climb(story, outlook)


def _try_faster(story: Story, outlook: Outlook, last: Attempt) -> Step:
    better = faster(story, outlook)
    if better is None or outlook.foresight is None:
        return _launch(story, outlook, last.plan, "what it was stopped for is no gain any more")
    why = "it held with room to spare, and this is predicted to be faster"
    step = _launch(story, outlook, better.prospect.plan, why)
    told = foreseen(better.prospect, outlook.foresight.capacity)
    return dataclasses.replace(step, trial_of=last.number, foreseen=told)


def doubtful(story: Story, outlook: Outlook) -> tuple[Plan, ...]:
    """Return the plans near the limit that the next decision turns on; none where it does not."""
    if story.pending or story.postponed or story.stop_asked or outlook.foresight is None:
        return ()
    last = story.last
    if last is None and not _begins_by_prediction(outlook):
        return ()
    if last is not None and (last.diagnosis is None or returns(story) is not None):
        return ()
    scene = _first_scene(outlook) if last is None else _scene(last, story, outlook)
    if not may_leap(scene, outlook.policy):
        return ()
    return look_ahead(scene, story, _means(story, outlook), outlook.foresight).near_limit()


def first_leap(outlook: Outlook) -> Leap:
    """Return what the planner sees of the job's own plan and of all that the rungs make of it."""
    if outlook.foresight is None:
        raise AssertionError("without foresight nobody leaps")
    story = Story()
    return look_ahead(_first_scene(outlook), story, _means(story, outlook), outlook.foresight)


def first_allowing(outlook: Outlook) -> Allowing | None:
    """Return what the owner could allow so that a plan of the job is likely to fit."""
    if outlook.foresight is None:
        raise AssertionError("without foresight nobody leaps")
    story = Story()
    return look_wider(_first_scene(outlook), story, _means(story, outlook), outlook.foresight)


def _begins_by_prediction(outlook: Outlook) -> bool:
    predicted = outlook.job.start == "predicted" and outlook.policy.choose == "predicted"
    return predicted and outlook.foresight is not None


def _begin(story: Story, outlook: Outlook) -> Step:
    if not _begins_by_prediction(outlook):
        return _launch(story, outlook, outlook.start, "the job's own settings")
    choice = choose_first(_first_scene(outlook), story, _means(story, outlook))
    if choice.plan is None:
        return GiveUp(choice.why_not, choice.passed_over, choice.cure)
    why = choice.remedy.why if choice.remedy else choice.why_not
    return _launch(story, outlook, choice.plan, why, choice)


def _first_scene(outlook: Outlook) -> Scene:
    """The job's own plan as if it had run out of memory: the rungs against that are offered."""
    shortage = Diagnosis(Failure.DEVICE_OOM, 0.0, "nothing has failed yet")
    return Scene(outlook.start, shortage, outlook.around)


def _means(story: Story, outlook: Outlook) -> Means:
    return Means(
        outlook.job,
        outlook.policy,
        outlook.rungs,
        lambda plan, rung: carry_to(plan, story, outlook, rung),
        outlook.foresight,
    )


def _climb(story: Story, outlook: Outlook) -> Step:
    if all(badly_converted(one) for one in story.attempts):
        return _not_brought_over(story, outlook)
    means = _means(story, outlook)
    beaten, choice = _answer(story, outlook, means)
    scene = _scene(beaten, story, outlook)
    _, rule = outlook.policy.rule_for(scene)
    a_persons = not rule.try_ or choice.cure
    if story.taken_up_again and choice.plan is None and a_persons:
        # What no rung can mend is mended by a person, who has now started the run again.
        return _launch(story, outlook, beaten.plan, "the owner started it again")
    if choice.plan is None and broke_at_the_beginning(story):
        enough = attempts_spent(story, outlook.job.limits)
        return GiveUp(enough) if enough else _begin(story, outlook)
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


def _not_brought_over(story: Story, outlook: Outlook) -> Step:
    """Answer where another run's checkpoint could not be made the start of the first attempt."""
    last, given = story.last, outlook.inherited
    if last is None or last.diagnosis is None:
        raise AssertionError("nothing was converted yet")
    if story.taken_up_again:
        return _launch(story, outlook, last.plan, "the owner started it again")
    plan = given.plan if given else outlook.start
    cure = f"train as that run did, at ZeRO stage {plan.zero_stage} on {plan.world_size} rank(s)"
    why = f"the checkpoint it was to go on from could not be carried over: {last.diagnosis.why}"
    return GiveUp(why, cure=cure)


def _answer(story: Story, outlook: Outlook, means: Means) -> tuple[Attempt, Choice]:
    """Return the attempt that is answered and the answer.

    A conversion that failed is a rung gone and not a new failure: the attempt it was taken
    against is answered. A setting that broke as soon as a rung of ours turned it on may have a
    cure of its own, and a crash may pass; else it is gone too, and the ladder goes on from before.
    """
    ran = [a for a in story.attempts if not badly_converted(a)]
    while True:
        beaten, place = ran[-1], before_the_break(ran)
        if place is None or beaten.failure in CURABLE or crashed(beaten):
            choice = choose(_scene(beaten, story, outlook), story, means)
            if choice.plan is not None or place is None:
                return beaten, choice
        ran = ran[: place + 1]


def _scene(beaten: Attempt, story: Story, outlook: Outlook) -> Scene:
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
        beside_neighbour(beaten, story, outlook),
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
    if can_move(story, outlook, beaten.plan):
        return None
    needed = needed_bytes(beaten, outlook.job.devices.memory_limit, outlook.policy.limits)
    # Where room was seen and was not enough the figure is wrong, and time must pass as well.
    again = any(
        a.launch.remedy and a.launch.remedy.rung == remedy.rung for a in story.since_progress()
    )
    return Wait(pause, remedy.why, needed, pause if again else 0.0)


def _launch(
    story: Story, outlook: Outlook, plan: Plan, why: str, choice: Choice | None = None
) -> Launch:
    rung = outlook.rungs[choice.remedy.rung] if choice and choice.remedy else None
    deed = rung.deed if rung else None
    saved = saved_after(rung, outlook)
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
        foreseen=choice.foreseen if choice else None,
        trial_of=_trial_gone_on_with(story, plan),
        expected=_expected(story, outlook, saved, plan, carry),
        risk=risk_of(story, plan, _chance(story, plan, choice), outlook.policy.limits),
    )


def _expected(
    story: Story, outlook: Outlook, saved: Saved | None, plan: Plan, carry: Carry
) -> Expected | None:
    if saved is None:
        return None
    writer, limits = writer_of(saved, story, outlook), outlook.policy.limits
    return expected_of(story, saved.step, writer, plan, carry.kind, limits)


def _chance(story: Story, plan: Plan, choice: Choice | None) -> float | None:
    """Return the chance to fit that was last predicted of a plan."""
    told = [one.launch.foreseen for one in story.attempts if one.plan == plan]
    told += [choice.foreseen if choice else None]
    return next((one.p_fit for one in reversed(told) if one is not None), None)


def _trial_gone_on_with(story: Story, plan: Plan) -> int | None:
    """Return what the newest attempt was a trial of, where it goes on and was not judged yet."""
    last = story.last
    if last is None or last.plan != plan:
        return None
    pace = last.evidence.pace if last.evidence else None
    judged = pace is not None and pace.early_token_seconds is not None
    return None if judged else last.launch.trial_of


def _close(story: Story, outlook: Outlook, last: Attempt) -> Step:
    saved = outlook.saved
    if outlook.job.proof and story.proof is None and saved is not None:
        return Prove(last.plan, last.number, saved.name, saved.step)
    return Finish(last.plan, last.number, "the training ran to its end")
