"""An outline says what each rung saves and costs, and prints as the contract has it."""

import dataclasses
from typing import Any

import pytest

from autotune.core.outlined import (
    Outline,
    as_plain,
    doubts_of,
    runners_up,
    smallest,
    steps_of,
)
from autotune.core.plan import Plan
from autotune.core.planner import Prospect
from autotune.core.rung import Result
from tests.builders import plan
from tests.outcomes import MIB, forecast

HALF = "smaller_micro_batch"
CKPT = "activation_checkpointing"


def prospect(
    mib: int, rungs: tuple[str, ...], of: Plan, p_fit: float, time: float = 1.0, **changes: Any
) -> Prospect:
    """Return what is expected of a plan, give or take a tenth."""
    given: dict[str, Any] = {
        "result": Result.SAME, "forecast": forecast(mib * MIB, doubts=("the loop is unknown",)),
        "low": mib * MIB * 9 // 10, "high": mib * MIB * 11 // 10,
    }  # fmt: skip
    return Prospect(plan=of, rungs=rungs, p_fit=p_fit, step_time_factor=time, **given | changes)


def halved(times: int, **changes: Any) -> Plan:
    """Return the plan with its micro-batch halved."""
    micro = 8 // 2**times
    return plan(micro_batch=micro, accumulation=8 // micro, eval_micro_batch=micro, **changes)


GIVEN = prospect(2200, (), plan(), 0.0, why="it is too large")
FOUND = (
    GIVEN,
    prospect(1700, (HALF,), halved(1), 0.1, 1.05),
    prospect(1400, (HALF, HALF), halved(2), 0.97, 1.1),
    prospect(1300, (HALF, CKPT), halved(1, activation_checkpointing=True), 0.99, 1.37),
    prospect(1200, (HALF, HALF, CKPT), halved(2, activation_checkpointing=True), 1.0, 1.4),
    prospect(1000, ("four_bit",), plan(quantization="nf4"), 1.0, 1.02, result=Result.CLOSE),
)


def outline(**changes: Any) -> Outline:
    """Return the outline of a job that needs half its micro-batch twice."""
    given: dict[str, Any] = {
        "job": "a-job", "device": "cpu", "capacity_bytes": 1540 * MIB, "start": plan(),
        "prospects": FOUND, "chosen": 2, "why": "the cheapest plan that fits",
    }  # fmt: skip
    return Outline(**given | changes)


def test_a_rung_taken_twice_is_one_step_that_saves_and_costs() -> None:
    (step,) = steps_of(outline(), FOUND[2])
    assert (step.rung, step.times, step.saved_bytes) == (HALF, 2, 800 * MIB)
    assert step.time_factor == pytest.approx(1.1)
    assert (step.before.micro_batch, step.after.micro_batch) == (8, 2)


def test_each_rung_is_measured_against_the_plan_before_it() -> None:
    first, second = steps_of(outline(), FOUND[4])
    assert (first.rung, second.rung) == (HALF, CKPT)
    assert (first.saved_bytes, second.saved_bytes) == (800 * MIB, 200 * MIB)
    assert second.time_factor == pytest.approx(1.4 / 1.1)
    assert second.before == first.after


def test_rungs_with_nothing_known_between_them_are_one_step() -> None:
    (step,) = steps_of(outline(prospects=(GIVEN, FOUND[4]), chosen=1), FOUND[4])
    assert (step.rung, step.times) == (f"{HALF} + {CKPT}", 3)
    assert step.saved_bytes == 1000 * MIB


def test_without_the_job_as_given_nothing_is_said_of_savings() -> None:
    (step,) = steps_of(outline(prospects=(FOUND[2],), chosen=0), FOUND[2])
    assert (step.saved_bytes, step.time_factor) == (None, None)


def test_runners_up_are_the_cheapest_that_fit_and_then_the_likeliest() -> None:
    assert [place for place, _ in runners_up(outline(), 9)] == [3, 4, 5, 1, 0]
    assert len(runners_up(outline(), 2)) == 2


def test_what_would_not_be_launched_is_no_runner_up() -> None:
    asked_too_much = dataclasses.replace(FOUND[3], refused=True)
    seen = outline(prospects=(*FOUND[:3], asked_too_much, *FOUND[4:]))
    assert [place for place, _ in runners_up(seen, 9)] == [4, 5, 1, 0]


def test_json_has_exactly_the_keys_of_the_contract() -> None:
    told = as_plain(outline())
    assert list(told) == ["capacity_bytes", "chosen", "plans"]
    assert (told["capacity_bytes"], told["chosen"], len(told["plans"])) == (1540 * MIB, 2, 6)
    chosen = told["plans"][2]
    assert list(chosen) == [
        "changes", "settings", "predicted_peak_bytes", "low_bytes", "high_bytes", "p_fit",
        "step_time_factor", "result", "why",
    ]  # fmt: skip
    assert chosen["changes"] == [
        {
            "rung": HALF,
            "from": {"micro_batch": 8, "accumulation": 1, "eval_micro_batch": 8},
            "to": {"micro_batch": 2, "accumulation": 4, "eval_micro_batch": 2},
        }
    ]
    assert chosen["settings"]["micro_batch"] == 2
    assert (chosen["p_fit"], chosen["result"]) == (0.97, "same")
    assert told["plans"][0]["changes"] == []


def test_a_doubt_is_said_once() -> None:
    found = outline(doubts=("the loop is unknown", "the data were not read"))
    assert doubts_of(found) == ("the loop is unknown", "the data were not read")


def test_the_smallest_plan_is_found_where_none_fits() -> None:
    assert smallest(outline(chosen=None)) is FOUND[5]
    assert smallest(outline(prospects=(), chosen=None)) is None
