"""A resumed attempt is held to what rounding explains, and to less where its plan changes more."""

from typing import Any

import pytest

from autotune.core.carry import CarryKind
from autotune.core.continuity import expected_of, tolerance_between
from autotune.core.failure import Failure
from autotune.core.history import Attempt, Story
from autotune.core.trail import Told, Tracker, Trail
from tests import builders

LIMITS = builders.shipped().limits
PLAN = builders.plan(dtype="fp32")


def trail(first: int, last: int, saved: int, losses: list[float] | None = None) -> Trail:
    tracker = Tracker()
    for at, step in enumerate(range(first, last + 1)):
        loss = losses[at % len(losses)] if losses else 3.0 - step / 100
        tracker.step(Told(step, loss, f"{step:016x}", 1e-3), 16)
        if step == saved:
            tracker.saved(step)
    found = tracker.read()
    assert found is not None
    return found


def attempt(number: int, found: Trail, plan: Any = PLAN, failure: Any = None) -> Attempt:
    launch = builders.launch(number, plan)
    seen = builders.evidence(attempt=number, trail=found, step=found.last)
    named = builders.diagnosis(failure or Failure.DEVICE_OOM)
    return Attempt(launch, evidence=seen, diagnosis=named)


def expected(*attempts: Attempt, step: int = 40, plan: Any = PLAN, **given: Any) -> Any:
    carry = given.get("carry", CarryKind.SAME)
    return expected_of(Story(attempts=attempts), step, PLAN, plan, carry, LIMITS)


@pytest.mark.parametrize(
    ("changed", "tolerance"),
    [
        ({}, LIMITS.loss_departs),
        ({"micro_batch": 4, "accumulation": 2, "zero_stage": 3}, LIMITS.loss_departs),
        ({"activation_checkpointing": True, "loss": "chunked"}, LIMITS.loss_departs),
        ({"optimizer": "adamw_8bit"}, LIMITS.loss_departs),  # the weights are the same
        ({"dtype": "bf16"}, None),
        ({"quantization": "nf4"}, None),
        ({"four_bit_compute": "fp32"}, None),
        ({"sequence": 32}, None),
    ],
)
def test_only_what_moves_a_loss_by_more_than_rounding_excuses_it(
    changed: dict[str, Any], tolerance: float | None
) -> None:
    assert tolerance_between(PLAN, PLAN.but(**changed), LIMITS) == tolerance


def test_sixteen_bits_round_more() -> None:
    plan = PLAN.but(dtype="bf16")

    assert tolerance_between(plan, plan, LIMITS) == LIMITS.loss_departs_16bit


def test_the_first_step_is_held_to_nothing() -> None:
    assert expected(step=0) is None


def test_the_steps_after_the_checkpoint_are_to_come_again_as_they_were() -> None:
    found = expected(attempt(1, trail(1, 45, saved=40)))

    assert [one.step for one in found.replay] == [41, 42, 43, 44, 45]
    assert found.replay[0].samples == f"{41:016x}"
    assert found.replay[0].loss == 3.0 - 0.41


def test_another_optimizer_makes_other_losses_of_the_same_samples() -> None:
    found = expected(
        attempt(1, trail(1, 45, saved=40)),
        plan=PLAN.but(optimizer="adamw_8bit"),
        carry=CarryKind.STAGED_WITHOUT_MOMENTS,
    )

    assert {one.loss for one in found.replay} == {None}
    assert None not in {one.samples for one in found.replay}


def test_a_shorter_sequence_may_pack_other_samples() -> None:
    found = expected(attempt(1, trail(1, 45, saved=40)), plan=PLAN.but(sequence=32))

    assert {(one.loss, one.samples) for one in found.replay} == {(None, None)}


def test_an_attempt_that_did_not_go_on_as_it_should_is_no_measure() -> None:
    wrong = attempt(2, trail(41, 44, saved=0), failure=Failure.CHECKPOINT_MISMATCH)

    assert expected(wrong).replay == ()


def test_the_newest_attempt_that_trained_a_step_is_its_measure() -> None:
    first = attempt(1, trail(1, 45, saved=40))
    again = attempt(2, trail(41, 43, saved=0, losses=[9.0]))

    losses = {one.step: one.loss for one in expected(first, again).replay}

    assert (losses[41], losses[43], losses[45]) == (9.0, 9.0, 3.0 - 0.45)


def test_the_band_is_where_the_losses_scattered_before() -> None:
    before = attempt(1, trail(1, 40, saved=40, losses=[1.9, 2.0, 2.1]))

    band = expected(before).band

    assert band is not None
    assert band.median == 2.0
    assert band.spread == pytest.approx(4 * 1.4826 * 0.1)


def test_a_loss_that_never_scattered_still_has_some_room() -> None:
    band = expected(attempt(1, trail(1, 40, saved=40, losses=[2.0]))).band

    assert band is not None
    assert band.spread == pytest.approx(0.02)


def test_few_steps_make_no_band_and_neither_does_a_plan_that_moves_the_loss() -> None:
    assert expected(attempt(1, trail(1, 7, saved=7)), step=7).band is None
    long = attempt(1, trail(1, 40, saved=40))
    assert expected(long, plan=PLAN.but(dtype="bf16")).band is None
