"""Attempts, time and causes are counted, and each limit says what it counted."""

import pytest

from autotune.core.budget import (
    attempts_spent,
    cause_spent,
    pause_before,
    rung_spent,
    time_spent,
    wait_spent,
)
from autotune.core.failure import Failure
from autotune.core.history import Attempt
from autotune.core.job import Limits
from autotune.core.policy import Rule
from tests import builders

PORT = Failure.RENDEZVOUS_PORT
THRICE = Rule.model_validate(
    {"when": "rendezvous_port", "try": ["retry_unchanged"], "spend": "no", "at_most": 3, "why": "x"}
)


def retried(number: int, reached: int | None = 0, answers: str = "rendezvous_port") -> Attempt:
    """Return an attempt started by the rule for what it `answers` that lost its port again."""
    taken = builders.remedy("retry_unchanged", rule=7, spend=False, answers=answers)
    return builders.attempt(number, failure=PORT, reached=reached, taken=taken)


def test_the_first_attempt_and_every_rung_are_spent_and_a_retry_is_not() -> None:
    story = builders.story(
        builders.attempt(1), retried(2), builders.attempt(3, taken=builders.remedy())
    )
    assert story.spent == 2
    assert attempts_spent(story, Limits(attempts=3)) is None
    assert attempts_spent(story, Limits(attempts=2)) == (
        "2 attempts are spent, and the job allows 2"
    )


def test_one_attempt_is_spoken_of_as_one() -> None:
    story = builders.story(builders.attempt(1))
    assert attempts_spent(story, Limits(attempts=1)) == "1 attempt is spent, and the job allows 1"


def test_time_in_attempts_does_not_count_waits_and_a_gap_counts_nothing() -> None:
    story = builders.story(
        builders.attempt(1, seconds=1000.0), builders.attempt(2, seconds=None), waited_seconds=9e9
    )
    assert time_spent(story, Limits(wall=1001.0)) is None
    assert time_spent(story, Limits(wall=1000.0)) == (
        "16 min 40 s are spent in attempts, and the job allows 16 min 40 s"
    )


def test_waits_have_a_limit_of_their_own() -> None:
    story = builders.story(builders.attempt(1, seconds=9e9), waited_seconds=3600.0)
    assert wait_spent(story, Limits(wait=7200.0)) is None
    assert wait_spent(story, Limits(wait=3600.0)) == (
        "1 h 0 min were spent waiting, and the job allows 1 h 0 min"
    )


def test_a_cause_has_a_ceiling_that_progress_lifts() -> None:
    policy = builders.shipped()
    ceiling = policy.limits.same_cause
    many = [builders.attempt(n) for n in range(1, ceiling + 2)]
    assert cause_spent(builders.story(*many[:-1]), policy, Failure.DEVICE_OOM) is None
    assert cause_spent(builders.story(*many), policy, Failure.DEVICE_OOM) == (
        f"`device_oom` ended {ceiling + 1} attempts without progress; the limit is {ceiling}"
    )
    assert cause_spent(builders.story(*many), policy, Failure.HOST_OOM) is None
    many[-1] = builders.attempt(ceiling + 1, reached=5)
    assert cause_spent(builders.story(*many), policy, Failure.DEVICE_OOM) is None


def test_a_rung_is_taken_as_often_in_a_row_as_its_rule_says() -> None:
    first = builders.attempt(1, failure=PORT)
    story = builders.story(first, retried(2), retried(3))
    assert rung_spent(story, 7, THRICE, "retry_unchanged") is None
    story = builders.story(first, retried(2), retried(3), retried(4))
    assert rung_spent(story, 7, THRICE, "another_port") is None
    other = THRICE.model_copy(update={"and_": ["in_load"]})
    assert rung_spent(story, 7, other, "retry_unchanged") is None
    assert rung_spent(story, 7, THRICE, "retry_unchanged") == (
        "`retry_unchanged` of rule 7 (`rendezvous_port`) was used 3 times without progress"
    )


def test_a_rule_is_known_wherever_it_stands_and_whatever_else_of_it_is_edited() -> None:
    first = builders.attempt(1, failure=PORT)
    story = builders.story(first, retried(2), retried(3), retried(4))
    for place in (1, 7, 40):
        assert rung_spent(story, place, THRICE, "retry_unchanged") == (
            f"`retry_unchanged` of rule {place} (`rendezvous_port`) "
            "was used 3 times without progress"
        )
    more = THRICE.model_copy(update={"at_most": 4, "why": "reworded"})
    assert rung_spent(story, 7, more, "retry_unchanged") is None
    assert rung_spent(builders.story(*story.attempts, retried(5)), 7, more, "retry_unchanged")


def test_what_told_only_the_place_of_its_rule_counts_by_the_failure_it_answered() -> None:
    first = builders.attempt(1, failure=PORT)
    story = builders.story(first, *(retried(n, answers="") for n in (2, 3, 4)))
    assert rung_spent(story, 30, THRICE, "retry_unchanged") is not None
    assert rung_spent(story, 7, THRICE, "another_port") is None
    of_another = THRICE.model_copy(update={"when": "preempted"})
    assert rung_spent(story, 7, of_another, "retry_unchanged") is None
    of_all = THRICE.model_copy(update={"when": "anything"})
    assert rung_spent(story, 7, of_all, "retry_unchanged") is not None
    begun = builders.story(retried(1, answers=""))
    assert rung_spent(begun, 7, of_all.model_copy(update={"at_most": 1}), "retry_unchanged") is None


def test_a_retry_that_made_progress_may_be_made_again() -> None:
    once = THRICE.model_copy(update={"at_most": 1})
    first = builders.attempt(1, failure=PORT)
    assert rung_spent(builders.story(first, retried(2)), 7, once, "retry_unchanged") is not None
    assert (
        rung_spent(builders.story(first, retried(2, reached=10)), 7, once, "retry_unchanged")
        is None
    )
    stuck = builders.story(first, retried(2, reached=10), retried(3, reached=10))
    assert rung_spent(stuck, 7, once, "retry_unchanged") is not None


@pytest.mark.parametrize("reached", [None, 0])
def test_unknown_progress_neither_lifts_nor_counts(reached: int | None) -> None:
    story = builders.story(builders.attempt(1, failure=PORT), retried(2, reached=reached))
    counted = (
        rung_spent(story, 7, THRICE.model_copy(update={"at_most": 1}), "retry_unchanged")
        is not None
    )
    assert counted == (reached == 0)


def test_a_rule_without_a_number_is_never_spent() -> None:
    endless = THRICE.model_copy(update={"at_most": None})
    many = [retried(number) for number in range(1, 60)]
    assert rung_spent(builders.story(*many), 7, endless, "retry_unchanged") is None


def test_a_pause_doubles_with_each_time_where_the_rule_says_so() -> None:
    paused = THRICE.model_copy(update={"pause": 60.0})
    backing_off = paused.model_copy(update={"backoff": "yes"})
    story = builders.story(builders.attempt(1, failure=PORT))
    for number, seconds in ((2, 60.0), (3, 120.0), (4, 240.0)):
        assert pause_before(story, paused, "retry_unchanged") == 60.0
        assert pause_before(story, backing_off, "retry_unchanged") == seconds
        story = builders.story(*story.attempts, retried(number))
    progressed = builders.story(*story.attempts, retried(5, reached=10))
    assert pause_before(progressed, backing_off, "retry_unchanged") == 60.0
