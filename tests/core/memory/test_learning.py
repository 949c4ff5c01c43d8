"""What of an attempt teaches, and what does not."""

import pytest

from autotune.core.failure import Failure
from autotune.core.memory.belief import Belief, centre, p_fit
from autotune.core.memory.forecast import Moment
from autotune.core.memory.learning import Lesson, bound_of, learn
from tests.core.memory.foretold import GIB, a_plan, forecast, probe


@pytest.mark.parametrize(
    "failure",
    [Failure.DEVICE_OOM_COTENANT, Failure.HOST_OOM, Failure.HANG, Failure.PREEMPTED],
)
def test_what_was_not_our_own_shortage_bounds_nothing(failure: Failure) -> None:
    assert bound_of(failure, 10 * GIB) is None


def test_our_own_shortage_in_training_bounds_and_in_evaluation_does_not() -> None:
    assert bound_of(Failure.DEVICE_OOM, 10 * GIB) == 10 * GIB
    assert bound_of(Failure.DEVICE_OOM, 10 * GIB, in_evaluation=True) is None
    assert bound_of(Failure.DEVICE_OOM, None) is None


def test_completed_moments_and_the_bound_of_one_failure_are_both_taken_in() -> None:
    plan, smaller = a_plan(), a_plan(micro_batch=4, accumulation=2)
    bound = Lesson(plan, forecast(9), oom_bytes=10 * GIB)
    as_foretold = Lesson(
        plan, forecast(9), probes=(probe(Moment.FORWARD, 8.1),), oom_bytes=10 * GIB
    )
    only_bound, both = learn(Belief(), [bound]), learn(Belief(), [as_foretold])
    assert p_fit(both, plan, forecast(9), 10 * GIB) == 0.0
    of = forecast(5)
    assert 5 * GIB < centre(both, smaller, of) < centre(only_bound, smaller, of)


def test_fragmentation_is_no_error_of_the_live_bytes() -> None:
    plain = a_plan(allocator=())
    lost = Lesson(
        plain, forecast(9), oom_bytes=10 * GIB,
        fragmentation_bytes=2 * GIB, allocated_bytes=8 * GIB,
    )  # fmt: skip
    belief = learn(Belief(), [lost])
    growing = a_plan(micro_batch=4, accumulation=2)
    assert centre(belief, growing, forecast(5)) < 5.1 * GIB
    assert centre(belief, growing.but(allocator=()), forecast(5)) > 6 * GIB


def test_an_attempt_that_measured_nothing_teaches_nothing() -> None:
    assert learn(Belief(), [Lesson(a_plan(), forecast(9))]) == Belief()


def test_a_pass_over_short_rows_or_few_says_nothing_of_the_longest_batch() -> None:
    plan, of = a_plan(), forecast(9)
    for partly in ({"sequence": 100, "rows": 8}, {"sequence": 512, "rows": 3}):
        short = Lesson(plan, of, (probe(Moment.BACKWARD, 3.0, **partly),), sequence=512)
        assert learn(Belief(), [short]) == Belief()
    whole = Lesson(plan, of, (probe(Moment.BACKWARD, 9.5, sequence=512, rows=8),), sequence=512)
    assert centre(learn(Belief(), [whole]), plan, of) == pytest.approx(9.5 * GIB, rel=0.01)
