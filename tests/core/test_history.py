"""The journal's events fold into one story, and what was decided stays until it is done."""

import pytest

from autotune.core.failure import Failure
from autotune.core.fault import CannotRecord
from autotune.core.history import Story, fold, tell
from autotune.core.inherited import Inherited
from autotune.core.record import (
    AttemptEnded,
    AttemptStarted,
    Decided,
    Ended,
    Event,
    Prepared,
    Prove,
    Proved,
    RunStarted,
    StopAsked,
    Wait,
    Waited,
    WentOn,
)
from tests import builders

STARTED = RunStarted("r", "a-job", "id", builders.plan(), "cuda")
LAUNCH = builders.launch(1)
ENDED = AttemptEnded(1, builders.evidence(checkpoint_step=4), builders.diagnosis())


def test_nothing_has_happened_before_the_first_event() -> None:
    assert fold([]) == Story()
    assert fold([STARTED]).last is None


def test_a_decided_launch_is_pending_until_its_attempt_is_over() -> None:
    begun: list[Event] = [STARTED, Decided(LAUNCH), AttemptStarted(1, 7, 1.0, "boot")]
    story = fold(begun)
    assert story.pending == LAUNCH
    assert story.last is not None
    assert story.last.failure is None
    story = tell(story, ENDED)
    assert story.pending is None
    assert story.last is not None
    assert story.last.failure is Failure.DEVICE_OOM


def test_a_conversion_stands_beside_the_attempt_it_was_for() -> None:
    story = fold([STARTED, Decided(LAUNCH), Prepared(1, False, why="a shard is missing")])
    assert story.last is not None
    assert story.last.prepared is not None
    assert not story.last.prepared.ok
    assert story.pending == LAUNCH


def test_a_wait_is_over_once_and_until_the_next_attempt_ends() -> None:
    story = fold([STARTED, Decided(LAUNCH), ENDED, Decided(Wait(5.0, "why")), Waited(5.5)])
    assert (story.waited_seconds, story.waited_since_end, story.pending) == (5.5, True, None)
    again = builders.launch(2)
    over = AttemptEnded(2, builders.evidence(attempt=2), builders.diagnosis())
    story = tell(tell(story, Decided(again)), over)
    assert (story.waited_seconds, story.waited_since_end) == (5.5, False)


@pytest.mark.parametrize(
    ("step", "kept"),
    [
        (Wait(5.0, "why"), False),
        (Prove(builders.plan(), 1, "checkpoint-4", 4), False),
        (builders.launch(2), True),
    ],
    ids=["wait", "proof", "attempt"],
)
def test_a_stop_ends_a_wait_or_a_proof_and_lets_an_attempt_end_itself(
    step: Wait, kept: bool
) -> None:
    story = fold([STARTED, Decided(LAUNCH), ENDED, Decided(step), StopAsked("you")])
    assert (story.pending == step) == kept
    assert story.stop_asked == StopAsked("you")


def test_a_run_gone_on_with_has_not_ended_and_was_not_asked_to_stop() -> None:
    story = fold([STARTED, StopAsked("you"), Ended("stopped", 4)])
    assert story.ended == Ended("stopped", 4)
    story = tell(story, WentOn(9, "default", "d", "j"))
    assert (story.ended, story.stop_asked) == (None, None)


def test_a_proof_is_kept_whatever_it_says() -> None:
    prove = Prove(builders.plan(), 1, "checkpoint-4", 4)
    story = fold([STARTED, Decided(LAUNCH), ENDED, Decided(prove), Proved(False, "unproven")])
    assert story.proof == Proved(False, "unproven")
    assert story.pending is None


def test_time_in_attempts_is_summed_over_those_that_ended() -> None:
    story = builders.story(
        builders.attempt(1, seconds=10.0), builders.attempt(2, seconds=5.0), builders.attempt(3)
    )
    assert story.attempt_seconds == 75.0


def numbers(*reached: int | None) -> list[int]:
    """Return which attempts stand since progress, where each reached a step."""
    attempts = [builders.attempt(n, reached=step) for n, step in enumerate(reached, 1)]
    return [attempt.number for attempt in builders.story(*attempts).since_progress()]


def test_only_attempts_after_the_last_progress_stand_without_it() -> None:
    assert numbers(0, 0, 0) == [1, 2, 3]
    assert numbers(0, 5, 5, 5) == [3, 4]
    assert numbers(5, 10, 15) == []
    assert numbers(10, 5, 5) == [2, 3]  # less than before is no progress


def test_unknown_progress_neither_resets_nor_counts() -> None:
    assert numbers(0, None, 0) == [1, 3]
    assert numbers(5, None, 5) == [3]


@pytest.mark.parametrize("event", [ENDED, AttemptStarted(7, 5, 1.0, "boot"), Prepared(7, True)])
def test_an_attempt_that_was_never_decided_is_refused_in_a_sentence(event: Event) -> None:
    story: list[Event] = [STARTED, Decided(builders.launch(3)), event]
    with pytest.raises(CannotRecord, match=r"attempt [17], which it never decided"):
        fold(story)


def test_the_step_of_another_runs_checkpoint_is_no_progress_of_this_one() -> None:
    given = Inherited("../old", "/old/checkpoint-40", 40, builders.plan())
    first = builders.attempt(1, reached=40)
    further = builders.attempt(2, reached=41)
    started = RunStarted("r", "a-job", "id", builders.plan(), "cuda", inherited=given)
    assert Story(started, (first,)).since_progress() == (first,)
    assert Story(started, (first, further)).since_progress() == ()
