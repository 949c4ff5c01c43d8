"""A loss that is lost is told from one that is missing, and from a scaler that finds its scale."""

from typing import Any

import pytest

from autotune.core.diagnosis import diagnose
from autotune.core.divergence import Course, after_step
from autotune.core.failure import Failure
from autotune.core.outlook import Saved
from autotune.core.view import View
from autotune.watch import by_files
from tests.builders import evidence


def course(*steps: Any) -> Course:
    """Return the course after steps, each a loss or a loss with the skips so far."""
    now = Course()
    for step in steps:
        loss, skips = step if isinstance(step, tuple) else (step, None)
        now = after_step(now, loss, skips)
    return now


@pytest.mark.parametrize("lost", ["nan", "inf", "-inf", "NaN", float("nan"), float("inf")])
def test_a_loss_that_is_no_number_counts_until_one_is(lost: Any) -> None:
    assert "finite" in (course(2.0, lost, lost, lost).diverged(3) or "")
    assert course(2.0, lost, lost).diverged(3) is None
    assert course(lost, lost, 2.0, lost).diverged(3) is None


@pytest.mark.parametrize("missing", [None, "a word", [], True, {}])
def test_a_loss_that_is_not_reported_proves_nothing(missing: Any) -> None:
    assert course(*[missing] * 99).diverged(3) is None


def test_a_scaler_at_work_is_not_a_lost_loss_until_it_never_ends() -> None:
    looking = [("inf", 1), ("inf", 2), ("inf", 3), (2.0, 3)]
    assert course((2.0, 0), *looking, *[(1.9, 3)] * 5).diverged(3) is None
    assert "4 optimizer steps in a row were skipped" in (
        course((2.0, 0), *[("inf", n) for n in range(1, 5)]).diverged(4) or ""
    )


def test_a_zero_that_was_fallen_to_is_lost_and_one_that_was_come_down_to_is_learned() -> None:
    assert "all at once" in (course(8.0, 0.0, 0.0, 0.0).diverged(3) or "")
    assert "from the first step" in (course(0.0, 0.0, 0.0).diverged(3) or "")
    assert course(8.0, 1.0, 0.01, *[0.0] * 99).diverged(3) is None


def test_the_view_follows_the_loss_of_rank_0_alone() -> None:
    view = View()
    for step in range(1, 5):
        view.see({"rank": 0, "kind": "step", "step": step, "loss": "nan"})
        view.see({"rank": 1, "kind": "step", "step": step, "loss": 2.0})
    assert view.course.lost == 4
    assert view.loss is None


def test_what_is_said_twice_is_no_progress() -> None:
    view = View()
    said: list[dict[str, Any]] = [
        {"kind": "start", "pid": 7}, {"kind": "phase", "phase": "load"},
        {"kind": "step", "step": 1}, {"kind": "eval", "step": 1},
        {"kind": "checkpoint", "step": 1}, {"kind": "stopped"},
        {"kind": "settings", "zero_stage": 2},
    ]  # fmt: skip
    for event in said:
        before = view.marks
        view.see({"rank": 0, **event})
        assert view.marks == before + 1, event
        view.see({"rank": 0, **event})
        assert view.marks == before + 1, event


def test_a_short_training_that_was_lost_for_most_of_its_steps_has_not_finished() -> None:
    skipped = course((9.0, 0), *[("inf", n) for n in range(1, 24)])
    assert "23 optimizer steps" in (skipped.lost_at_the_end(24) or "")
    assert skipped.lost_at_the_end(60) is None
    assert course(2.0, "nan", "nan").lost_at_the_end(3) is None
    assert course(2.0, *["nan"] * 20, 1.9).lost_at_the_end(22) is None


def test_a_training_lost_at_its_end_is_diverged_though_its_last_step_is_saved() -> None:
    seen = evidence(exit_code=0, step=24, total_steps=24, checkpoint_step=24, diverged="all lost")
    seen = by_files(seen, Saved("checkpoint-24", 24, 1))
    assert not seen.finished
    assert diagnose(seen).failure is Failure.NUMERIC_DIVERGENCE
