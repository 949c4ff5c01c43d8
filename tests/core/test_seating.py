"""A start goes where nobody else is, waits where it may not move, and says for whom."""

import dataclasses
from typing import Any

import pytest

from autotune.core.codec import to_plain
from autotune.core.decide import next_step
from autotune.core.failure import Failure
from autotune.core.history import Attempt, Story, tell
from autotune.core.outlook import Outlook, Saved
from autotune.core.record import (
    Decided,
    GiveUp,
    Launch,
    Prove,
    StopAsked,
    Unseated,
    Wait,
    Waited,
    WentOn,
    decode,
    encode,
)
from autotune.core.seats import Seat, Seating
from tests import builders

GIB = builders.GIB
PLAN = builders.plan(world_size=1)
EMPTY = (Seat(0, 79 * GIB), Seat(1, 79 * GIB), Seat(2, 79 * GIB))
LEASED = Seat(0, 79 * GIB, holder="alice's job a (process 7)")
CROWDED = Seat(0, 10 * GIB, empty=False, others="bob's process 9 holds 69.00 GiB")


def outlook(
    *seats: Seat, may_move: bool = True, limit: str | None = "24GiB", **changes: Any
) -> Outlook:
    """Return what a decision rests on where the job was given these GPUs."""
    job = builders.job(devices={"memory_limit": limit}, **changes)
    return builders.outlook(start=PLAN, job=job, seating=Seating(seats, may_move))


def crowded_out(number: int, *devices: int, rank: int | None = None) -> Attempt:
    """Return an attempt that a neighbour crowded out."""
    one = builders.attempt(number, PLAN, Failure.DEVICE_OOM_COTENANT)
    why = builders.diagnosis(Failure.DEVICE_OOM_COTENANT, rank=rank)
    launch = dataclasses.replace(one.launch, devices=devices)
    return dataclasses.replace(one, launch=launch, diagnosis=why)


def devices(step: object) -> tuple[int, ...]:
    """Return where a launch goes."""
    assert isinstance(step, Launch), step
    return step.devices


def test_without_gpus_nothing_is_waited_for() -> None:
    assert devices(next_step(Story(), builders.outlook(start=PLAN))) == ()


def test_a_job_that_may_move_goes_where_nobody_is() -> None:
    assert devices(next_step(Story(), outlook(*EMPTY))) == (0,)
    assert devices(next_step(Story(), outlook(LEASED, *EMPTY[1:]))) == (1,)
    assert devices(next_step(Story(), outlook(CROWDED, *EMPTY[1:]))) == (1,)
    less = dataclasses.replace(EMPTY[1], free_bytes=30 * GIB, empty=False)
    assert devices(next_step(Story(), outlook(CROWDED, less, EMPTY[2]))) == (2,)


@pytest.mark.parametrize(
    ("seat", "said"),
    [
        (LEASED, "GPU 0 is leased to alice's job a (process 7)"),
        (
            CROWDED,
            "GPU 0 has 10.00 GiB free and 24.00 GiB are needed; bob's process 9 holds 69.00 GiB",
        ),
        (
            dataclasses.replace(CROWDED, others=""),
            "GPU 0 has 10.00 GiB free and 24.00 GiB are needed; who holds the rest is not known",
        ),
    ],
)
def test_a_job_that_names_its_gpus_waits_and_says_for_whom(seat: Seat, said: str) -> None:
    step = next_step(Story(), outlook(seat, may_move=False))
    assert step == Wait(300.0, said, for_devices=True)


def test_a_job_that_may_move_waits_for_whichever_is_free_first_and_names_all() -> None:
    seats = (LEASED, dataclasses.replace(LEASED, index=1, holder="bob's job b (process 8)"))
    step = next_step(Story(), outlook(*seats))
    assert isinstance(step, Wait)
    assert step.why == (
        "GPU 0 is leased to alice's job a (process 7); GPU 1 is leased to bob's job b (process 8)"
    )


def test_what_an_empty_card_lacks_is_not_waited_for() -> None:
    """A card's driver keeps some of it, and a plan may be predicted to want nearly all."""
    assert devices(next_step(Story(), outlook(Seat(0, 23 * GIB), may_move=False))) == (0,)
    mute = Seat(0, None, empty=False)
    assert devices(next_step(Story(), outlook(mute, may_move=False))) == (0,)


def test_without_a_figure_nobody_knows_how_much_to_wait_for() -> None:
    assert devices(next_step(Story(), outlook(CROWDED, may_move=False, limit=None))) == (0,)


def test_the_time_for_waiting_bounds_each_wait_and_all_of_them() -> None:
    short = outlook(LEASED, may_move=False, limits={"wait": "400s"})
    waited = builders.story(waited_seconds=300.0)
    assert next_step(waited, short) == Wait(100.0, next_step(Story(), short).why, for_devices=True)  # type: ignore[union-attr]
    over = builders.story(waited_seconds=400.0)
    given_up = next_step(over, short)
    assert isinstance(given_up, GiveUp)
    assert "alice's job a" in given_up.why
    # Room is a figure, and figures are wrong at times: tried once the time is over.
    crowded = outlook(CROWDED, may_move=False, limits={"wait": "400s"})
    assert devices(next_step(over, crowded)) == (0,)


def test_a_retry_stays_where_it_was_as_long_as_it_can() -> None:
    killed = builders.attempt(1, PLAN, Failure.PREEMPTED)
    before = dataclasses.replace(killed, launch=dataclasses.replace(killed.launch, devices=(1,)))
    story = builders.story(before, waited_since_end=True)
    assert devices(next_step(story, outlook(*EMPTY))) == (1,)
    leased = dataclasses.replace(EMPTY[1], holder="alice's job a (process 7)")
    assert devices(next_step(story, outlook(EMPTY[0], leased, EMPTY[2]))) == (0,)


def test_a_first_neighbour_is_waited_for_and_a_repeated_one_moved_away_from() -> None:
    once = builders.story(crowded_out(1, 0))
    wait = next_step(once, outlook(CROWDED, *EMPTY[1:]))
    assert isinstance(wait, Wait)
    assert not wait.for_devices
    # A whole pause in which the room did not come, or the second time in a row.
    stayed = tell(tell(once, Decided(wait)), Waited(300.0, room=False))
    twice = builders.story(crowded_out(1, 0), crowded_out(2, 0))
    for story in (stayed, twice):
        step = next_step(story, outlook(CROWDED, *EMPTY[1:]))
        assert devices(step) == (1,)
        assert isinstance(step, Launch)
        assert step.plan == PLAN


def test_repeated_trouble_is_waited_out_where_the_job_may_not_move_or_has_nowhere_to_go() -> None:
    twice = builders.story(crowded_out(1, 0), crowded_out(2, 0))
    full = dataclasses.replace(CROWDED, index=1)
    others = dataclasses.replace(LEASED, index=2)
    for given in (outlook(CROWDED, may_move=False), outlook(CROWDED, full, others)):
        assert isinstance(next_step(twice, given), Wait)


def test_what_ran_on_one_card_is_not_moved_to_a_smaller_one() -> None:
    twice = builders.story(crowded_out(1, 0), crowded_out(2, 0))
    here = dataclasses.replace(CROWDED, total_bytes=80 * GIB)
    small = Seat(1, 23 * GIB, total_bytes=24 * GIB)
    assert isinstance(next_step(twice, outlook(here, small)), Wait)
    assert devices(
        next_step(twice, outlook(here, dataclasses.replace(small, total_bytes=80 * GIB)))
    )


def test_of_several_gpus_the_one_with_the_neighbour_is_left() -> None:
    plan = builders.plan(world_size=2)
    tries = [
        dataclasses.replace(one, launch=dataclasses.replace(one.launch, plan=plan))
        for one in (crowded_out(1, 0, 1, rank=1), crowded_out(2, 0, 1, rank=1))
    ]
    calm = (EMPTY[0], dataclasses.replace(CROWDED, index=1), EMPTY[2], Seat(3, 79 * GIB))
    assert devices(next_step(builders.story(*tries), outlook(*calm))) == (0, 2)


def test_a_gpu_that_was_left_out_is_no_seat() -> None:
    out = builders.attempt(1, PLAN.but(excluded=(0,)), Failure.PREEMPTED)
    assert devices(next_step(builders.story(out, waited_since_end=True), outlook(*EMPTY))) == (1,)


def test_a_launch_that_could_not_be_seated_stands_with_its_deeds() -> None:
    decided = dataclasses.replace(
        builders.launch(1, PLAN, devices=(0,)), set_aside=("checkpoint-6",)
    )
    story = tell(tell(Story(), Decided(decided)), Unseated("GPU 0 is leased to alice"))
    assert story.attempts == ()
    wait = next_step(story, outlook(LEASED, may_move=False))
    assert wait == Wait(
        300.0, "GPU 0 is leased to alice's job a (process 7)", at_least=10.0, for_devices=True
    )
    for event in (Decided(wait), Waited(12.0), WentOn(1, "default", "", "")):
        story = tell(story, event)
    assert next_step(story, outlook(*EMPTY, may_move=False)) == decided
    moved = next_step(story, outlook(LEASED, *EMPTY[1:]))
    assert moved == dataclasses.replace(decided, devices=(1,))
    begun = tell(story, Decided(moved))
    assert begun.postponed is None
    assert [one.launch for one in begun.attempts] == [moved]


def test_a_stop_is_heard_before_a_launch_that_waits_and_it_is_gone_on_with_after_it() -> None:
    decided = builders.launch(1, PLAN, devices=(0,))
    story = tell(tell(Story(), Decided(decided)), Unseated("GPU 0 is leased to alice"))
    stopped = tell(story, StopAsked("Ctrl-C"))
    assert "Ctrl-C" in next_step(stopped, outlook(LEASED, may_move=False)).why  # type: ignore[union-attr]
    again = tell(stopped, WentOn(1, "default", "", ""))
    assert next_step(again, outlook(*EMPTY)) == decided


def test_a_proof_is_taken_where_the_training_ran() -> None:
    one = builders.attempt(1, PLAN, Failure.NONE, reached=9, finished=True)
    ended = dataclasses.replace(one, launch=dataclasses.replace(one.launch, devices=(1,)))
    given = outlook(*EMPTY)
    given = dataclasses.replace(given, saved=Saved("checkpoints/checkpoint-9", 9, 1))
    step = next_step(builders.story(ended), given)
    assert isinstance(step, Prove)
    assert step.devices == (1,)


def test_what_is_waited_for_is_what_was_measured_else_predicted_else_allowed() -> None:
    seats = (dataclasses.replace(CROWDED, free_bytes=12 * GIB),)
    killed = builders.attempt(1, PLAN, Failure.PREEMPTED)
    small = builders.evidence(
        started_training=True,
        checkpoint_step=0,
        memory=dataclasses.replace(builders.cpu_memory(), device="cuda", peak_bytes=11 * GIB),
    )
    for seen, starts in ((small, True), (killed.evidence, False)):
        story = builders.story(dataclasses.replace(killed, evidence=seen), waited_since_end=True)
        step = next_step(story, outlook(*seats, may_move=False))
        assert isinstance(step, Launch) is starts, step


def test_the_new_records_are_read_back_and_old_launches_name_no_devices() -> None:
    for event in (
        Unseated("GPU 0 is leased to alice"),
        Decided(Wait(300.0, "GPU 0 is leased to alice", for_devices=True)),
        Decided(builders.launch(1, PLAN, devices=(1, 0))),
    ):
        assert decode(encode(event, 0.0)) == event
    line = encode(Decided(builders.launch(1, PLAN)), 0.0)
    del line["devices"]
    read = decode(line)
    assert isinstance(read, Decided)
    assert devices(read.step) == ()
    assert to_plain(read)
