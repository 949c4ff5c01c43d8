"""What an attempt teaches is kept without names or paths of its job, and only where it is sane."""

import dataclasses
import json
import math
from typing import Any

import pytest

from autotune.core.codec import from_plain, to_plain
from autotune.core.evidence import Memory
from autotune.core.failure import Failure, Phase, Trait
from autotune.core.outcome import Outcome, digest_of, keeps, log_ratio, outcome_of
from autotune.core.plan import Plan
from tests.builders import diagnosis, evidence, plan
from tests.outcomes import MIB, forecast, outcome, shape, subject


def made(seen: Any, found: Any, **changes: Any) -> Outcome | None:
    given: dict[str, Any] = {"day": "2026-11-21", "capacity_bytes": 1540 * MIB, **changes}
    return outcome_of(subject(), plan(), forecast(), seen, found, **given)


HELD = Memory(device="cpu", peak_bytes=1200 * MIB)


def test_an_attempt_that_finished_teaches_its_peak() -> None:
    one = made(evidence(finished=True, memory=HELD), diagnosis(Failure.NONE), step_seconds=2.5)
    assert one is not None
    assert (one.ended, one.measured_bytes, one.bound_bytes) == ("stable", 1200 * MIB, None)
    assert (one.predicted_bytes, one.capacity_gib, one.step_seconds) == (1000 * MIB, 1.5, 2.5)
    assert log_ratio(one) == pytest.approx(math.log(1.2))


def test_the_error_is_that_of_the_tensors_where_the_process_was_measured() -> None:
    seen = evidence(finished=True, memory=HELD)
    foretold = forecast(outside=200 * MIB, overhead=50 * MIB)
    one = outcome_of(
        subject(), plan(), foretold, seen, diagnosis(Failure.NONE),
        day="2026-11-21", capacity_bytes=1540 * MIB, outside_bytes=250 * MIB,
    )  # fmt: skip
    assert one is not None
    assert log_ratio(one) == pytest.approx(math.log((1200 - 300) / (1000 - 250)))


def test_an_attempt_that_died_of_its_size_teaches_that_it_needed_more_than_there_was() -> None:
    one = made(evidence(memory=HELD), diagnosis())
    assert one is not None
    assert (one.ended, one.measured_bytes, one.bound_bytes) == ("device_oom", None, 1540 * MIB)


@pytest.mark.parametrize(
    ("found", "why"),
    [
        (diagnosis(Failure.DEVICE_OOM_COTENANT), "a neighbour's memory is not its own"),
        (diagnosis(traits=(Trait.LEAKING,)), "a leak is no need of the plan"),
        (diagnosis(confidence=0.3), "nobody is sure"),
        (diagnosis(phase=Phase.EVAL), "it was no training"),
        (diagnosis(phase=Phase.SAVE), "it was no training either"),
        (diagnosis(Failure.PREEMPTED), "it never saw its longest batch"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_an_attempt_that_ended_otherwise_teaches_nothing(found: Any, why: str) -> None:
    assert made(evidence(memory=HELD, started_training=True), found) is None, why


def test_an_attempt_that_rehearsed_its_longest_batch_and_trained_teaches_its_peak() -> None:
    seen = evidence(memory=HELD, started_training=True)
    one = made(seen, diagnosis(Failure.PREEMPTED), rehearsed=True)
    assert one is not None
    assert one.measured_bytes == 1200 * MIB


def test_without_a_reading_or_a_capacity_nothing_is_taught() -> None:
    none = diagnosis(Failure.NONE)
    assert made(evidence(finished=True), none) is None
    assert made(evidence(finished=True, memory=HELD), none, capacity_bytes=None) is None


def test_settings_that_hold_text_of_the_owner_are_left_out() -> None:
    given = plan(allocator=(("a_name", "of mine"),), excluded=(1,))
    one = outcome(of=given)
    assert one.plan == plan()
    assert "mine" not in json.dumps(to_plain(one))


def test_the_digest_is_of_the_shape_alone() -> None:
    assert digest_of(shape()) == digest_of(shape(doubts=("a sentence",)))
    assert digest_of(shape()) != digest_of(shape(layers=5))


def test_an_outcome_survives_being_written_and_read() -> None:
    one = outcome()
    assert from_plain(Outcome, json.loads(json.dumps(to_plain(one)))) == one


@pytest.mark.parametrize(
    "changes",
    [
        {"schema": 2},
        {"day": "yesterday"},
        {"shape": "../../etc/passwd"},
        {"device_name": "\x1b[2Jcpu"},
        {"device_name": "x" * 101},
        {"versions": {"torch": "2", "a_key": "of mine"}},
        {"predicted_bytes": 0},
        {"measured_bytes": None},
        {"measured_bytes": -5},
        {"measured_bytes": 2**60},
        {"measured_bytes": 5000 * MIB},
        {"measured_bytes": 100 * MIB},
        {"bound_bytes": 5},
        {"outside_bytes": 1100 * MIB},
        {"predicted_outside_bytes": 1000 * MIB},
        {"ended": "device_oom"},
        {"spread": math.nan},
        {"step_seconds": math.nan},
        {"step_seconds": math.inf},
        {"step_seconds": 0.0},
        {"capacity_gib": math.inf},
        {"sequence": 0},
        {"plan": plan(micro_batch=0)},
        {"plan": plan(reduce_bucket=2**60)},
        {"plan": plan(allocator=(("a", "b"),))},
    ],
    ids=lambda changes: "-".join(changes),
)
def test_a_senseless_outcome_is_not_kept(changes: dict[str, Any]) -> None:
    assert keeps(outcome()) is None
    assert keeps(dataclasses.replace(outcome(), **changes)) is not None


def test_a_plan_says_all_of_its_settings_in_an_outcome() -> None:
    assert set(to_plain(outcome())["plan"]) == {field.name for field in dataclasses.fields(Plan)}
