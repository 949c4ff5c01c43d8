"""A crash of native code may pass; it is a rung's fault where it comes again."""

import dataclasses

from autotune.core.decide import next_step
from autotune.core.diagnosis import NATIVE_CRASH
from autotune.core.evidence import Reason
from autotune.core.failure import Failure, Role
from autotune.core.history import Attempt
from autotune.core.plan import Plan, changes
from autotune.core.record import Remedy
from tests import builders
from tests.core.test_decide import PLAN, launched, outlook, rung_of


def crashed(number: int, plan: Plan, taken: Remedy) -> Attempt:
    """Return an attempt in which native code crashed before the first step."""
    why = builders.diagnosis(
        Failure.USER_CODE_ERROR, evidence=(Reason(NATIVE_CRASH, Role.CONFIRMS, None, "SIGABRT"),)
    )
    ended = builders.attempt(number, plan, Failure.USER_CODE_ERROR, taken=taken)
    return dataclasses.replace(ended, diagnosis=why)


def test_a_crash_after_a_rung_is_tried_once_more_before_the_rung_is_blamed() -> None:
    beaten, look = builders.attempt(1, PLAN), outlook(around=builders.around(has_evaluation=False))
    smaller = PLAN.but(micro_batch=PLAN.micro_batch // 2, accumulation=PLAN.accumulation * 2)
    taken = builders.remedy(changes=changes(PLAN, smaller))
    first = crashed(2, smaller, taken)

    step = launched(next_step(builders.story(beaten, first), look))

    assert (rung_of(step), step.plan) == ("retry_unchanged", smaller)
    assert step.remedy is not None
    again = crashed(3, smaller, step.remedy)
    other = launched(next_step(builders.story(beaten, first, again), look))
    assert other.plan.micro_batch == PLAN.micro_batch
    passed = builders.attempt(3, smaller, taken=step.remedy)
    further = launched(next_step(builders.story(beaten, first, passed), look))
    assert further.plan.micro_batch <= smaller.micro_batch
