"""Chooses the next rung against a failure, and says why each rung before it was passed over."""

from collections.abc import Callable
from dataclasses import dataclass, replace

from autotune.core.allowing import Allowing, worth_allowing
from autotune.core.breaks import broken_settings
from autotune.core.budget import cause_spent, pause_before, rung_spent
from autotune.core.carry import Carry, CarryKind
from autotune.core.compatibility import conflicts
from autotune.core.failure import Failure
from autotune.core.foresight import Foresight
from autotune.core.history import Story
from autotune.core.job import Job
from autotune.core.leap import Leap, leap, may_leap
from autotune.core.plan import Plan, changes
from autotune.core.policy import Policy, Rule
from autotune.core.record import Foreseen, PassedOver, Remedy
from autotune.core.rung import Result, Rung, Scene, out_of_reach

# What ended an attempt and says nothing of its plan, which may be chosen again.
NO_FAULT_OF_THE_PLAN = frozenset({
    Failure.NONE, Failure.RENDEZVOUS_PORT, Failure.COLLECTIVE_ERROR, Failure.COLLECTIVE_TIMEOUT,
    Failure.PREEMPTED, Failure.DISK_FULL, Failure.NETWORK_HUB, Failure.DEVICE_OOM_COTENANT,
    Failure.GPU_HARDWARE, Failure.UNKNOWN,
})  # fmt: skip


@dataclass(frozen=True)
class Choice:
    """The next plan with its remedy and carry; without a plan, why there is none."""

    plan: Plan | None
    carry: Carry | None
    remedy: Remedy | None
    why_not: str = ""
    passed_over: tuple[PassedOver, ...] = ()
    cure: str = ""  # one thing a person can do
    foreseen: Foreseen | None = None


@dataclass(frozen=True)
class Means:
    """What the choice may use: the owner's word, the policy, the rungs there are, and the carry."""

    job: Job
    policy: Policy
    rungs: dict[str, Rung]
    carry_to: Callable[[Plan, Rung | None], Carry]  # from the checkpoint this rung leaves newest
    foresight: Foresight | None = None  # None: nothing can be predicted, the ladder's order decides


def choose(scene: Scene, story: Story, means: Means) -> Choice:
    """Return the first rung of the matching rule that applies, keeps and carries."""
    place, rule = means.policy.rule_for(scene)
    cure = scene.diagnosis.cure or rule.advice
    if rule.spend == "yes":  # what is not our failure is bounded by its own rule and by waiting
        enough = cause_spent(story, means.policy, scene.diagnosis.failure)
        if enough:
            return Choice(None, None, None, enough, cure=cure)
    if not rule.try_:
        return Choice(None, None, None, rule.why, cure=cure)
    if means.foresight is not None and _may_leap(scene, means, rule):
        return _leap(scene, story, means, rule, place, cure)
    passed: list[PassedOver] = []
    spent = ""
    for name in rule.try_:
        rung = means.rungs[name]
        reason = refused_by_owner(rung, means.job) or _inapplicable(rung, scene)
        if reason is None:
            reason = spent = rung_spent(story, place, rule, name) or ""
        if not reason:
            plan = rung.apply(scene)
            carry = means.carry_to(plan, rung)
            reason = _unfit(rung, plan, carry, scene, story)
            if reason is None:
                pause = pause_before(story, rule, name)
                remedy = _remedy(rung, rule, place, (scene.plan, plan), pause, tuple(passed))
                return Choice(plan, carry, remedy, cure=cure)
        passed.append(PassedOver(name, reason))
    why = f"no rung is left against `{scene.diagnosis.failure.value}`"
    if len(passed) == 1:
        why = spent or f"{why}. {rule.why}"
    return Choice(None, None, None, why, tuple(passed), cure)


def look_ahead(scene: Scene, story: Story, means: Means, foresight: Foresight) -> Leap:
    """Return the planner's choice among all that the matching rule's rungs make of the plan."""
    place, rule = means.policy.rule_for(scene)

    def refused(rung: Rung, plan: Plan) -> str | None:
        return _unwanted(rung, plan, means.carry_to(plan, None), scene, story)

    def forbidden(rung: Rung) -> str | None:
        return refused_by_owner(rung, means.job) or rung_spent(story, place, rule, rung.name)

    return leap(scene, rule.try_, means.rungs, story, foresight, refused, forbidden)


def look_wider(scene: Scene, story: Story, means: Means, foresight: Foresight) -> Allowing | None:
    """Return what the owner could allow so that a plan is likely to fit; None: nothing helps."""
    job = means.job
    asks = [
        name
        for name in means.policy.rule_for(scene)[1].try_
        if name not in job.forbid and refused_by_owner(means.rungs[name], job)
    ]
    if not asks:
        return None
    job = job.model_copy(update={"allow": [*job.allow, *asks]})
    seen = look_ahead(scene, story, replace(means, job=job), foresight)
    return worth_allowing(seen.prospects, asks)


def _may_leap(scene: Scene, means: Means, rule: Rule) -> bool:
    """Whether the planner answers; where a rule would start the same plan again, its order does."""
    retries = any(means.rungs[name].keeps_plan for name in rule.try_)
    return not retries and may_leap(scene, means.policy)


def choose_first(scene: Scene, story: Story, means: Means) -> Choice:
    """Return the plan to begin with, chosen by prediction; `scene.plan` is the job's own."""
    place, rule = means.policy.rule_for(scene)
    return _leap(scene, story, means, rule, place, rule.advice)


def _leap(scene: Scene, story: Story, means: Means, rule: Rule, place: int, cure: str) -> Choice:
    if means.foresight is None:
        raise AssertionError("without foresight nobody leaps")
    seen = look_ahead(scene, story, means, means.foresight)
    one, passed = seen.chosen, seen.passed_over()
    if one is None:
        wider = look_wider(scene, story, means, means.foresight)
        cures = [wider.sentence if wider else "", cure]
        return Choice(None, None, None, seen.pick.why, passed, "; or ".join(filter(None, cures)))
    carry = means.carry_to(one.plan, None)
    if not one.rungs:
        return Choice(one.plan, carry, None, seen.pick.why, foreseen=seen.foreseen())
    remedy = Remedy(
        rung=one.rungs[0],
        changes=changes(scene.plan, one.plan),
        rule=place,
        answers=rule.matches,
        why=seen.pick.why,
        spend=bool(story.attempts) and rule.spend == "yes",
        pause_seconds=pause_before(story, rule, one.rungs[0]),
        passed_over=passed,
        also=one.rungs[1:],
    )
    return Choice(one.plan, carry, remedy, cure=cure, foreseen=seen.foreseen())


def _remedy(
    rung: Rung,
    rule: Rule,
    place: int,
    plans: tuple[Plan, Plan],  # before and after
    pause: float,
    passed: tuple[PassedOver, ...],
) -> Remedy:
    return Remedy(
        rung=rung.name,
        changes=changes(*plans),
        rule=place,
        answers=rule.matches,
        why=rule.why,
        spend=rule.spend == "yes",
        pause_seconds=pause,
        passed_over=passed,
    )


def refused_by_owner(rung: Rung, job: Job) -> str | None:
    """Return why the job's owner does not want this rung taken, or None."""
    if rung.name in job.forbid:
        return "the job forbids it"
    if rung.gives_up and rung.name not in job.allow:
        return f"it gives up {rung.gives_up}; the job may allow it with `allow: [{rung.name}]`"
    if rung.result is Result.CHANGED and rung.name not in job.allow:
        return f"it changes what is learned; the job may allow it with `allow: [{rung.name}]`"
    return None


def _inapplicable(rung: Rung, scene: Scene) -> str | None:
    missing = out_of_reach(rung, scene)
    if missing:
        why = next((scene.around.lacks[name] for name in missing if name in scene.around.lacks), "")
        return why or f"the framework has no knob for {', '.join(missing)}"
    return rung.applies(scene)


def _unfit(rung: Rung, plan: Plan, carry: Carry, scene: Scene, story: Story) -> str | None:
    clash = conflicts(plan, scene.around.device, scene.around.versions_for(plan))
    if clash:
        return clash[0].why
    return _unwanted(rung, plan, carry, scene, story)


def _unwanted(rung: Rung, plan: Plan, carry: Carry, scene: Scene, story: Story) -> str | None:
    """Return why a plan whose settings agree with each other is not launched all the same."""
    if carry.kind in (CarryKind.IMPOSSIBLE, CarryKind.WEIGHTS_ONLY):
        # Going on from bare weights is another run: its owner starts it, with a job of its own.
        return carry.why
    if carry.needs_consent:
        return f"{carry.why}; the job may allow it with `allow: [{carry.needs_consent}]`"
    if rung.keeps_plan:
        return None
    for attempt in story.attempts:
        if attempt.failure is None:
            continue
        if attempt.plan == plan and attempt.failure not in NO_FAULT_OF_THE_PLAN:
            return f"attempt {attempt.number} ran this plan and ended with {attempt.failure.value}"
    return broken_before(plan, scene.plan, story)


def broken_before(plan: Plan, instead_of: Plan, story: Story) -> str | None:
    """Return which setting that `plan` turns on has broken in this run already, or None."""
    for attempt in story.attempts:
        for setting, value in broken_settings(attempt).items():
            if getattr(plan, setting) == value != getattr(instead_of, setting):
                shown = setting if value is True else f"{setting} {value}"
                return f"{shown} failed in attempt {attempt.number}"
    return None
