"""Chooses the next rung against a failure, and says why each rung before it was passed over."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from autotune.core.budget import cause_spent, pause_before, rung_spent
from autotune.core.carry import Carry, CarryKind
from autotune.core.compatibility import conflicts
from autotune.core.failure import Failure
from autotune.core.foresight import Foresight
from autotune.core.history import Attempt, Story
from autotune.core.job import Job
from autotune.core.leap import Leap, leap, may_leap
from autotune.core.plan import Plan, changes
from autotune.core.policy import Policy, Rule
from autotune.core.record import Foreseen, PassedOver, Remedy
from autotune.core.rung import Result, Rung, Scene, out_of_reach

# A failure of the setting itself: while these fields have the value it failed with, it would
# fail again, whatever else changes.
_OFFLOAD = ("offload_optimizer", "offload_param")
BROKEN_BY: dict[Failure, tuple[str, ...]] = {
    Failure.OFFLOAD_DEVICE: _OFFLOAD,
    Failure.HOST_OOM: (*_OFFLOAD, "activation_offload"),  # offloading is what fills the host
    Failure.OP_BUILD: _OFFLOAD,  # its extensions are the ones that need a compiler
    Failure.QUANTIZATION_CONFLICT: ("quantization",),
    Failure.DTYPE_KERNEL_GAP: ("attention",),  # or the precision: then nothing is lost by it
}

# Where a rung was just taken and no step came after it, the rung is to blame and not the job.
BREAKS_AT_START = frozenset({
    Failure.MISSING_DEPENDENCY, Failure.CONFIG_ERROR, Failure.USER_CODE_ERROR,
    Failure.DTYPE_KERNEL_GAP,
})  # fmt: skip

# A break of these kinds may have a cheaper cure than to give the rung up again.
CURABLE = frozenset({*BROKEN_BY, Failure.DTYPE_KERNEL_GAP})

# How much, and not how: no value of these breaks a training at its start.
_SIZES = frozenset({
    "micro_batch", "accumulation", "eval_micro_batch", "reduce_bucket", "allgather_bucket",
    "sequence", "lora_rank",
})  # fmt: skip

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
                pause = pause_before(story, place, rule, name)
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
        return Choice(None, None, None, seen.pick.why, passed, cure)
    carry = means.carry_to(one.plan, None)
    if not one.rungs:
        return Choice(one.plan, carry, None, seen.pick.why, foreseen=seen.foreseen())
    remedy = Remedy(
        rung=one.rungs[0],
        changes=changes(scene.plan, one.plan),
        rule=place,
        why=seen.pick.why,
        spend=bool(story.attempts) and rule.spend == "yes",
        pause_seconds=pause_before(story, place, rule, one.rungs[0]),
        passed_over=passed,
        also=one.rungs[1:],
    )
    return Choice(one.plan, carry, remedy, cure=cure, foreseen=seen.foreseen())


def broken_settings(attempt: Attempt) -> dict[str, Any]:
    """Return the settings, with their values, that the failure is one of.

    Those of BROKEN_BY that were on; and where a rung of ours was taken and the training then did
    not even come to a step, what that rung set. A checkpoint that does not fit is the rung's fault
    only where it was converted for it.
    """
    if attempt.failure is None:
        return {}
    values = {name: getattr(attempt.plan, name) for name in BROKEN_BY.get(attempt.failure, ())}
    broken = {name: value for name, value in values.items() if value not in (False, "none")}
    remedy, evidence = attempt.launch.remedy, attempt.evidence
    unfit = attempt.failure is Failure.CHECKPOINT_MISMATCH and attempt.launch.carry.conversions
    at_start = remedy and evidence and not evidence.started_training
    if remedy and at_start and (unfit or attempt.failure in BREAKS_AT_START):
        taken = [change.setting for change in remedy.changes]
        names = [name for name in taken if name not in _SIZES] or taken
        broken.update({name: getattr(attempt.plan, name) for name in names})
    return broken


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
    clash = conflicts(plan, scene.around.device, scene.around.versions)
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
