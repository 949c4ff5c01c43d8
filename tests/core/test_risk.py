"""What is not known to hold is saved often; what has held, as rarely as it has failed."""

from typing import Any

import pytest

from autotune.core.failure import Failure
from autotune.core.history import Attempt, Story
from autotune.core.plan import Plan
from autotune.core.risk import risk_of
from tests import builders

LIMITS = builders.shipped().limits
DAY = 24 * 3600.0
PLAN = builders.plan()


def attempt(
    number: int, failure: Failure, seconds: float = 0.0, plan: Plan = PLAN, **seen: Any
) -> Attempt:
    given = {"started_training": True, "checkpoint_step": 0, "seconds": seconds, **seen}
    return Attempt(
        builders.launch(number, plan),
        evidence=builders.evidence(attempt=number, **given),
        diagnosis=builders.diagnosis(failure),
    )


@pytest.mark.parametrize(
    ("p_fit", "unproven"),
    [(None, 1800 / 0.6931), (0.5, 1800 / 0.6931), (0.9, 1800 / 0.10536), (0.01, 1800 / 4.605)],
)
def test_the_better_a_plan_is_expected_to_fit_the_rarer_it_saves(
    p_fit: float | None, unproven: float
) -> None:
    risk = risk_of(Story(), PLAN, p_fit, LIMITS)

    assert risk.unproven == pytest.approx(unproven, rel=1e-3)
    assert risk.proven == DAY


def test_no_prediction_makes_a_plan_surer_than_one_that_held() -> None:
    risk = risk_of(Story(), PLAN, 1.0, LIMITS)

    assert risk.unproven == risk.proven == DAY
    assert risk_of(Story(), PLAN, 0.0, LIMITS).unproven == 0.0


def test_a_plan_that_trained_and_saved_is_proven_for_the_rest_of_the_run() -> None:
    held = attempt(1, Failure.PREEMPTED, 3600.0, checkpoint_step=10)

    risk = risk_of(Story(attempts=(held,)), PLAN, 0.5, LIMITS)

    assert risk.unproven == risk.proven == (DAY + 3600) / 2


def test_a_run_that_is_struck_every_hour_learns_it() -> None:
    struck = tuple(attempt(n, Failure.PREEMPTED, 3600.0, checkpoint_step=n) for n in range(1, 25))

    risk = risk_of(Story(attempts=struck), PLAN, None, LIMITS)

    assert risk.proven == pytest.approx(1.92 * 3600)


def test_what_befell_another_plan_or_nobody_counts_nothing() -> None:
    other = attempt(1, Failure.DEVICE_OOM, 60.0, plan=PLAN.but(micro_batch=4), checkpoint_step=9)
    stopped = attempt(2, Failure.NONE, 0.0)
    before_training = attempt(3, Failure.DEVICE_OOM, 0.0, started_training=False)

    risk = risk_of(Story(attempts=(other, stopped, before_training)), PLAN, 0.5, LIMITS)

    assert risk.proven == DAY
    assert risk.unproven < 3600
