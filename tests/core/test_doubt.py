"""Beside a neighbour who was there before, a plan waits for a while before it is changed."""

import dataclasses
from typing import Any

import pytest

from autotune.core.decide import next_step
from autotune.core.evidence import Memory
from autotune.core.failure import Failure
from autotune.core.history import Attempt, Story
from autotune.core.record import Launch, Step, Wait
from autotune.core.seats import Seat, Seating
from tests import builders

GIB = builders.GIB
PLAN = builders.plan(world_size=1)
# Of 80 GiB we hold 66, others 12, 1 is free and 3 were asked for.
BESIDE = {"requested": 3, "capacity": 80, "free": 2, "reserved": 65, "process": 66}
FIRST = "shrink_buckets"  # of the rungs for this plan


def refused(
    number: int = 1,
    failure: Failure = Failure.DEVICE_OOM,
    gib: dict[str, float] | None = None,
) -> Attempt:
    """Return an attempt that was refused memory with these figures, a 0 being none."""
    one = builders.attempt(number, PLAN, failure, memory=Memory(device="cuda"))
    told = {name: size for name, size in {**BESIDE, **(gib or {})}.items() if size}
    why = builders.diagnosis(failure, figures=builders.figures(**told))
    launch = dataclasses.replace(one.launch, devices=(0,))
    return dataclasses.replace(one, launch=launch, diagnosis=why)


def after(*attempts: Attempt, waited: float | None = None, **changes: Any) -> Story:
    """Return the story so far; `waited` seconds since the last attempt, and no room came."""
    if waited is None:
        return builders.story(*attempts, **changes)
    since = {"waited_seconds": waited, "waited_since_end": True, "room": False}
    return builders.story(*attempts, **since | changes)


def decided(story: Story, job: dict[str, Any] | None = None, **changes: Any) -> Step:
    """Return the step where nothing is known of the job's need."""
    given = {"job": builders.job(**job or {}), "start": PLAN, **changes}
    return next_step(story, builders.outlook(**given))


def rung(step: Step) -> str:
    """Return what the attempt is launched with."""
    assert isinstance(step, Launch), step
    assert step.remedy is not None
    return step.remedy.rung


def test_what_others_hold_is_waited_for_with_the_need_that_the_refusal_showed() -> None:
    step = decided(after(refused()))
    assert isinstance(step, Wait)
    assert (step.seconds, step.free_bytes) == (300.0, 69 * GIB)
    assert step.why.startswith("Others who were there before hold more than was missing")


def test_room_that_came_is_taken_with_the_same_plan_and_costs_no_attempt() -> None:
    step = decided(after(refused(), waited=7200.0, room=True))
    assert isinstance(step, Launch)
    assert (step.plan, rung(step)) == (PLAN, "wait_for_neighbour")
    assert step.remedy is not None
    assert not step.remedy.spend


def test_where_nobody_can_tell_of_room_the_same_plan_is_tried_after_a_pause() -> None:
    assert rung(decided(after(refused(), waited=300.0, room=None))) == "wait_for_neighbour"


def test_a_neighbour_who_stays_is_a_part_of_the_machine_after_an_hour() -> None:
    assert isinstance(decided(after(refused(), waited=3300.0)), Wait)
    assert rung(decided(after(refused(), waited=3600.0))) == FIRST


def test_what_was_waited_before_the_attempt_is_not_counted_against_it() -> None:
    assert isinstance(decided(after(refused(), waited=9000.0, waited_before=8000.0)), Wait)


def test_it_is_waited_once_without_progress_whatever_the_plan() -> None:
    assert rung(decided(after(refused(1), refused(2)))) == FIRST
    crowded = refused(1, Failure.DEVICE_OOM_COTENANT)
    assert isinstance(decided(after(crowded, refused(2))), Wait)


@pytest.mark.parametrize(
    "gib",
    [
        {"requested": 20},  # more than others hold
        {"capacity": 71},  # they hold less than 5 % of the card
        {"process": 0},  # what torch alone holds is not all that is ours
        {"limit": 66},  # our own cap refused
    ],
)
def test_a_refusal_that_others_do_not_explain_is_answered_at_once(gib: dict[str, float]) -> None:
    assert rung(decided(after(refused(gib=gib)))) == FIRST


def test_where_a_limit_said_what_must_be_free_the_start_has_waited_already() -> None:
    step = decided(after(refused()), {"devices": {"memory_limit": "70GiB"}})
    assert rung(step) == FIRST


def test_an_owner_who_allows_no_waiting_gets_a_rung() -> None:
    assert rung(decided(after(refused()), {"forbid": ["wait_for_neighbour"]})) == FIRST
    spent = after(refused(), waited_seconds=3600.0)
    assert rung(decided(spent, {"limits": {"wait": "1h"}})) == FIRST


def test_another_gpu_is_taken_where_no_room_came_and_the_job_may_move() -> None:
    seats = (Seat(0, 67 * GIB, empty=False), Seat(1, 79 * GIB))
    story = after(refused(), waited=300.0)
    step = decided(story, seating=Seating(seats, may_move=True))
    assert isinstance(step, Launch)
    assert (step.plan, step.devices) == (PLAN, (1,))
