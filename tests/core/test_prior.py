"""Earlier outcomes correct a prediction, none of them by much, and none for ever."""

import dataclasses
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autotune.core.outcome import Outcome
from autotune.core.plan import Plan
from autotune.core.prior import (
    LARGEST,
    LEAST_OPEN,
    LEAST_SD,
    MOST,
    MOST_OF_A_KIND,
    MOST_OF_A_PLAN,
    PULL,
    Known,
    Prior,
    known_of,
    prior_from,
    pruned,
)
from tests.builders import plan
from tests.outcomes import LLAMA, MIB, outcome, shape, subject


def of_plan(number: int, needed_mib: int = 1100) -> Outcome:
    return outcome(needed_mib, of=plan(accumulation=number + 1))


def test_without_outcomes_the_formulas_are_trusted_as_far_as_they_claim() -> None:
    assert prior_from((), LLAMA, 0.05) == Prior(bias_mean=0.0, bias_sd=0.05, count=0)


def test_one_outcome_moves_the_prior_by_a_fifth_of_what_it_says() -> None:
    prior = prior_from([outcome(1100)], LLAMA, 0.05)
    assert prior.bias_mean == pytest.approx(math.log(1.1) / (1 + PULL))
    assert prior.count == 1


def test_many_outcomes_that_agree_come_close_to_what_they_say_and_are_surer() -> None:
    few = prior_from([of_plan(n) for n in range(2)], LLAMA, 0.05)
    many = prior_from([of_plan(n) for n in range(16)], LLAMA, 0.05)
    assert few.bias_mean < many.bias_mean < math.log(1.1)
    assert many.bias_mean > 0.75 * math.log(1.1)
    assert LEAST_SD <= many.bias_sd < few.bias_sd


def test_what_is_left_unknown_of_a_job_shrinks_with_outcomes_and_never_vanishes() -> None:
    found = [prior_from([of_plan(n) for n in range(count)], LLAMA, 0.1) for count in (0, 4, 16)]
    shares = [prior.open_share(0.1, 0.6) for prior in found]
    assert shares[0] == 1.0
    assert shares[0] > shares[1] > shares[2] >= LEAST_OPEN
    assert Prior(0.0, LEAST_SD, 20).open_share(0.5, 0.6) == LEAST_OPEN
    assert Prior(0.3, 0.4, 5).open_share(0.05, 0.6) == 1.0


def test_a_plan_that_was_run_every_night_counts_once() -> None:
    assert prior_from([outcome()] * 3, LLAMA, 0.05).count == 1


@pytest.mark.parametrize(
    "other",
    [
        outcome(job=subject(shape=shape(family="qwen2"))),
        outcome(of=plan(method="lora")),
        outcome(job=subject(device="cuda")),
        dataclasses.replace(outcome(), forecast_method="trace"),
        dataclasses.replace(outcome(), versions={"autotune": "0.9"}),
    ],
    ids=["family", "method", "device", "forecast", "formulas"],
)
def test_another_kind_of_job_teaches_nothing_of_this_one(other: Outcome) -> None:
    assert prior_from([other], LLAMA, 0.05).count == 0


def test_dying_where_it_was_predicted_to_fit_says_that_too_little_was_predicted() -> None:
    died = outcome(1200, died=True)
    assert prior_from([died], LLAMA, 0.05).bias_mean == pytest.approx(math.log(1.2) / (1 + PULL))


def test_dying_where_it_was_predicted_to_die_says_nothing() -> None:
    assert prior_from([outcome(800, died=True)], LLAMA, 0.05).count == 0


@given(st.integers(300, 3900), st.integers(1, 19))
def test_one_wrong_outcome_among_right_ones_moves_the_mean_by_little(
    wrong: int, right: int
) -> None:
    honest = [of_plan(n, 1000) for n in range(right)]
    prior = prior_from([*honest, of_plan(30, wrong)], LLAMA, 0.05)
    # Alone with one other it is half of them; from three on it is moved to the median's edge.
    most = LARGEST if right == 1 else 2 * LEAST_SD
    assert abs(prior.bias_mean) <= most / (right + 1 + PULL) + 1e-9


@given(st.lists(st.integers(260, 3990), max_size=40))
def test_whatever_is_held_the_prior_stays_within_what_one_own_run_corrects(
    needed: list[int],
) -> None:
    prior = prior_from([of_plan(n, one) for n, one in enumerate(needed)], LLAMA, 0.05)
    assert abs(prior.bias_mean) < LARGEST
    assert LEAST_SD <= prior.bias_sd < 2 * LARGEST
    # The run's own measurement, known to 1 %, leaves a tenth of it at most.
    own = 0.01
    assert own**2 / (own**2 + prior.bias_sd**2) <= 0.1 + 1e-9


def test_wrong_outcomes_age_out() -> None:
    wrong = [of_plan(n, 3000) for n in range(MOST_OF_A_KIND)]
    right = [of_plan(n + 100, 1000) for n in range(MOST_OF_A_KIND)]
    assert prior_from([*wrong, *right], LLAMA, 0.05).bias_mean == pytest.approx(0.0)


def test_the_newest_are_kept_of_a_plan_of_a_kind_and_of_all() -> None:
    days = [outcome(day=f"2026-11-{day:02d}") for day in range(1, 8)]
    assert pruned(days) == tuple(days[-MOST_OF_A_PLAN:])
    kind = [of_plan(n) for n in range(30)]
    assert pruned(kind) == tuple(kind[-MOST_OF_A_KIND:])
    many = [
        dataclasses.replace(one, versions={"autotune": str(version)})
        for version in range(MOST // MOST_OF_A_KIND + 1)
        for one in kind[:MOST_OF_A_KIND]
    ]
    many = [dataclasses.replace(one, shape=f"{place:016x}") for place, one in enumerate(many)]
    assert pruned(many) == tuple(many[-MOST:])


def known(*found: Outcome, name: str = "") -> dict[Plan, Known]:
    return dict(known_of(found, subject(), name))


def test_what_this_very_model_needed_is_known_by_plan() -> None:
    other = outcome(job=subject(shape=shape(layers=9)), of=plan(micro_batch=2))
    longer = outcome(job=subject(sequence=1024), of=plan(micro_batch=1, sequence=0))
    found = known(outcome(1100, step_seconds=2.0), outcome(900, died=True), other, longer)
    assert found == {plan(): Known(1100 * MIB, 2.0)}


def test_one_odd_night_among_three_does_not_decide() -> None:
    found = known(*(outcome(1100, step_seconds=one) for one in (2.0, 40.0, 2.1)))
    assert found[plan()].step_seconds == 2.1


def test_a_plan_that_only_died_has_no_peak_and_its_seconds_calibrate() -> None:
    died = outcome(900, died=True, of=plan(micro_batch=16), step_seconds=3.0)
    assert known(died)[plan(micro_batch=16)] == Known(None, 3.0)


def test_another_card_says_nothing_of_seconds() -> None:
    assert known(outcome(), name="another card") == {}
