"""The trail of an attempt is small however long it was, and its digest knows no factorisation."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autotune.core.codec import from_plain, to_plain
from autotune.core.trail import HELD, RECENT, Told, Tracker, Trail, show_digest
from autotune.core.view import View


def told(step: int, samples: str | None = None, loss: float | None = 2.0) -> Told:
    return Told(step, loss, f"{step:016x}" if samples is None else samples, 1e-3)


def trail(first: int, last: int, *saved: int) -> Trail:
    """Return the trail of an attempt that trained these steps."""
    tracker = Tracker()
    for step in range(first, last + 1):
        tracker.step(told(step), 16)
        if step in saved:
            tracker.saved(step)
    found = tracker.read()
    assert found is not None
    return found


@given(st.integers(1, 200), st.integers(0, 200))
def test_digests_of_adjoining_stretches_add_up_to_that_of_both(middle: int, more: int) -> None:
    first, second = trail(1, middle), trail(middle + 1, middle + 1 + more)

    both = int(first.digest, 16) + int(second.digest, 16)

    assert show_digest(both) == trail(1, middle + 1 + more).digest


def test_a_digest_depends_on_which_samples_made_up_which_step() -> None:
    def digest(*samples: str) -> str:
        tracker = Tracker()
        for step, one in enumerate(samples, 1):
            tracker.step(told(step, one), 16)
        found = tracker.read()
        assert found is not None
        return found.digest

    assert len({digest("a", "b"), digest("b", "a"), digest("a", "a"), digest("a")}) == 4


def test_a_long_attempt_can_be_cut_at_its_checkpoints_and_near_its_end() -> None:
    long = trail(1, 1000, 500, 900)

    for step in (0, 500, 900, 1000 - RECENT + 1, 999, 1000):
        expected = int(trail(1, step).digest, 16) if step else 0
        assert long.digest_up_to(step) == expected, step
    assert long.digest_up_to(700) is None
    assert long.digest_up_to(1001) is None


def test_its_size_is_bounded() -> None:
    long = trail(1, 5000, *range(10, 5000, 10))

    assert len(str(to_plain(long))) < 8000
    assert [one.step for one in long.head] == list(range(1, HELD + 1))
    assert [one.step for one in long.since] == list(range(4991, 4991 + HELD))
    assert len(long.recent) == RECENT
    assert from_plain(Trail, to_plain(long)) == long


def test_steps_that_nobody_told_of_are_counted_and_repeated_ones_are_not() -> None:
    tracker = Tracker()
    for step in (3, 4, 4, 3, 7):
        tracker.step(told(step), 16)

    found = tracker.read()

    assert found is not None
    assert (found.first, found.last, found.missing) == (3, 7, 2)


@pytest.mark.parametrize("junk", [None, 7, "short", "x" * 16, ["0" * 16]])
def test_a_fingerprint_that_is_none_is_counted_as_unknown(junk: object) -> None:
    view = View()
    view.see(
        {
            "kind": "step",
            "rank": 0,
            "step": 1,
            "loss": 2.0,
            "batch_fingerprint": junk,
            "batch_rows": 16,
        }
    )

    assert view.trail is not None
    assert view.trail.unknown == 1


def test_the_view_follows_steps_checkpoints_and_how_it_went_on() -> None:
    view = View()
    view.see({"kind": "continuity", "rank": 0, "step": 40, "check": "none", "lr": 1e-3,
              "lr_expected": 1e-3, "loss": 2.0})  # fmt: skip
    for step in range(41, 50):
        view.see({"kind": "step", "rank": 0, "step": step, "loss": 2.0, "lr": 1e-3,
                  "batch_fingerprint": f"{step:016x}", "batch_rows": 16})  # fmt: skip
        view.see({"kind": "step", "rank": 1, "step": step, "loss": 9.0, "batch_rows": 99})
    view.see({"kind": "checkpoint", "rank": 0, "step": 49})
    view.see({"kind": "continuity", "rank": 0, "step": 48, "check": "band", "loss": 2.1,
              "saved_loss": 2.0, "spread": 0.2})  # fmt: skip

    assert view.trail == trail(41, 49, 49)
    assert view.continued is not None
    assert (view.continued.step, view.continued.check) == (40, "band")
    assert (view.continued.rate, view.continued.loss) == (1e-3, 2.1)
