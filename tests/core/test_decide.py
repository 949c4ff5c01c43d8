"""The next step follows from the story and its outlook alone, at every turn a run can take."""

import dataclasses
from typing import Any

import pytest

from autotune.core.carry import CarryKind
from autotune.core.decide import next_step
from autotune.core.evidence import Card, KernelEvent, Machine
from autotune.core.failure import Failure, Phase
from autotune.core.history import Attempt, Story
from autotune.core.inherited import Inherited
from autotune.core.outlook import Outlook, Saved
from autotune.core.plan import Plan
from autotune.core.record import (
    Finish,
    GiveUp,
    Launch,
    Prepared,
    Prove,
    Proved,
    Step,
    Stop,
    StopAsked,
    Wait,
)
from tests import builders

SMALL = {"reduce_bucket": 5_000_000, "allgather_bucket": 5_000_000}
PLAN = builders.plan(**SMALL)
ON_CPU = builders.around(device="cpu")


def outlook(job: dict[str, Any] | None = None, **changes: Any) -> Outlook:
    return builders.outlook(
        job=builders.job(**job or {}), **{"start": PLAN, "around": ON_CPU, **changes}
    )


def launched(step: Step) -> Launch:
    assert isinstance(step, Launch), step
    return step


def rung_of(step: Step) -> str | None:
    remedy = launched(step).remedy
    return remedy.rung if remedy else None


def test_a_run_begins_with_the_jobs_own_settings_and_no_checkpoint() -> None:
    step = launched(next_step(Story(), outlook()))
    assert (step.attempt, step.plan, step.checkpoint, step.remedy) == (1, PLAN, None, None)
    assert step.carry.kind is CarryKind.FRESH
    assert step.why == "the job's own settings"


def test_a_checkpoint_found_at_the_beginning_is_gone_on_from() -> None:
    saved = Saved("checkpoints/checkpoint-5", 5, None)
    step = launched(next_step(Story(), outlook(saved=saved)))
    assert (step.checkpoint, step.checkpoint_step) == ("checkpoints/checkpoint-5", 5)
    assert step.carry.kind is CarryKind.SAME


GIVEN = Inherited("../old", "/old/checkpoint-40", 40, PLAN.but(world_size=4, zero_stage=3))
BROUGHT = Saved("checkpoints/checkpoint-40", 40, None)


def test_another_runs_checkpoint_is_carried_from_the_plan_that_wrote_it() -> None:
    step = launched(next_step(Story(), outlook(saved=BROUGHT, inherited=GIVEN)))
    assert (step.checkpoint_step, step.carry.kind) == (40, CarryKind.STAGED)
    assert "world size 4 -> 2" in step.carry.why


def test_what_this_run_saved_is_carried_from_its_own_plan() -> None:
    story = builders.story(builders.attempt(1, PLAN, Failure.PREEMPTED))
    own = Saved("checkpoints/checkpoint-50", 50, 1)
    step = next_step(
        dataclasses.replace(story, waited_since_end=True),
        outlook(saved=own, earlier=(BROUGHT,), inherited=GIVEN),
    )
    assert launched(step).carry.kind is CarryKind.SAME


def test_another_runs_checkpoint_that_cannot_be_converted_ends_the_run_in_words() -> None:
    looks = outlook(saved=BROUGHT, inherited=GIVEN)
    first = launched(next_step(Story(), looks))
    failed = Attempt(
        first,
        prepared=Prepared(1, False, why="a shard is missing"),
        evidence=builders.evidence(checkpoint_step=40),
        diagnosis=builders.diagnosis(Failure.CHECKPOINT_MISMATCH, why="a shard is missing"),
    )
    story = Story(attempts=(failed,))
    step = next_step(story, looks)
    assert isinstance(step, GiveUp)
    assert "could not be carried over: a shard is missing" in step.why
    assert "ZeRO stage 3 on 4 rank(s)" in step.cure
    again = dataclasses.replace(story, taken_up_again=True)
    assert launched(next_step(again, looks)).attempt == 2


def test_a_failure_is_answered_by_a_rung_from_the_newest_checkpoint() -> None:
    story = builders.story(builders.attempt(1, PLAN, reached=10))
    saved = Saved("checkpoints/checkpoint-10", 10, 1)
    step = launched(next_step(story, outlook(saved=saved)))
    assert (step.attempt, rung_of(step)) == (2, "smaller_micro_batch")
    assert step.plan.global_batch == PLAN.global_batch
    assert (step.checkpoint, step.checkpoint_step) == ("checkpoints/checkpoint-10", 10)
    assert step.remedy is not None
    assert step.why == step.remedy.why


def test_an_attempt_we_interrupted_goes_on_unchanged_and_spends_nothing() -> None:
    first = builders.attempt(1, PLAN, Failure.NONE, reached=4, ended_by_us="supervisor_lost")
    story = builders.story(first)
    step = launched(
        next_step(story, outlook({"limits": {"attempts": 1}}, saved=Saved("c-4", 4, 1)))
    )
    assert (step.plan, step.remedy, step.checkpoint_step) == (PLAN, None, 4)
    assert step.why == "it was interrupted, not beaten"
    second = dataclasses.replace(first, launch=step)
    assert builders.story(first, second).spent == 1


def test_a_training_that_ended_without_finishing_is_not_mistaken_for_an_interruption() -> None:
    story = builders.story(builders.attempt(1, PLAN, Failure.NONE))
    assert rung_of(next_step(story, outlook())) == "retry_unchanged"


def test_no_rung_is_taken_when_the_attempts_are_spent() -> None:
    story = builders.story(builders.attempt(1, PLAN))
    step = next_step(story, outlook({"limits": {"attempts": 1}}))
    assert step == GiveUp("1 attempt is spent, and the job allows 1")


def test_what_is_not_our_failure_is_retried_when_the_attempts_are_spent() -> None:
    story = builders.story(builders.attempt(1, PLAN, Failure.DEVICE_OOM_COTENANT))
    step = next_step(story, outlook({"limits": {"attempts": 1}}))
    assert isinstance(step, Wait)


def test_a_failure_without_a_remedy_gives_its_own_reason_when_the_attempts_are_spent() -> None:
    story = builders.story(builders.attempt(1, PLAN, Failure.DATA_ERROR))
    step = next_step(story, outlook({"limits": {"attempts": 1}}))
    assert isinstance(step, GiveUp)
    assert step.why.startswith("The data could not be read")


def test_no_attempt_is_made_when_the_time_is_spent() -> None:
    for failure in (Failure.DEVICE_OOM, Failure.NONE, Failure.RENDEZVOUS_PORT):
        by_us = "limit" if failure is Failure.NONE else None
        story = builders.story(
            builders.attempt(1, PLAN, failure, seconds=3600.0, ended_by_us=by_us)
        )
        step = next_step(story, outlook({"limits": {"wall": "1h"}}))
        assert step == GiveUp("1 h 0 min are spent in attempts, and the job allows 1 h 0 min")


def test_waiting_does_not_count_against_the_time_for_attempts() -> None:
    story = builders.story(builders.attempt(1, PLAN), waited_seconds=40000.0)
    step = next_step(story, outlook({"limits": {"wall": "1h", "wait": "12h"}}))
    assert rung_of(step) == "smaller_micro_batch"


def test_time_for_waiting_that_is_spent_ends_waits_and_not_rungs() -> None:
    limits = {"limits": {"wait": "1h"}}
    neighbour = builders.attempt(1, PLAN, Failure.DEVICE_OOM_COTENANT)
    step = next_step(builders.story(neighbour, waited_seconds=3600.0), outlook(limits))
    assert isinstance(step, GiveUp)
    assert step.why == "1 h 0 min were spent waiting, and the job allows 1 h 0 min"
    assert step.cure.startswith("ask who holds the GPU")
    own = builders.attempt(1, PLAN)
    step = next_step(builders.story(own, waited_seconds=3600.0), outlook(limits))
    assert rung_of(step) == "smaller_micro_batch"


def test_a_pause_comes_before_the_attempt_it_belongs_to() -> None:
    neighbour = builders.attempt(1, PLAN, Failure.DEVICE_OOM_COTENANT)
    step = next_step(builders.story(neighbour), outlook())
    assert isinstance(step, Wait)
    assert step.seconds == 300
    after = builders.story(neighbour, waited_seconds=300.0, waited_since_end=True)
    again = launched(next_step(after, outlook()))
    assert (again.plan, rung_of(again)) == (PLAN, "wait_for_neighbour")
    assert again.remedy is not None
    assert not again.remedy.spend


DONE = builders.attempt(1, PLAN, Failure.NONE, reached=20, finished=True)
LAST = Saved("checkpoints/checkpoint-20", 20, 1)


def test_a_finished_training_is_proven_and_then_finished() -> None:
    prove = next_step(builders.story(DONE), outlook(saved=LAST))
    assert prove == Prove(PLAN, 1, "checkpoints/checkpoint-20", 20)
    for ok in (True, False):
        story = builders.story(DONE, proof=Proved(ok, "why"))
        assert isinstance(next_step(story, outlook(saved=LAST)), Finish)


def test_a_proof_is_left_out_where_the_job_says_so_or_nothing_was_saved() -> None:
    story = builders.story(DONE)
    assert isinstance(next_step(story, outlook({"proof": False}, saved=LAST)), Finish)
    assert isinstance(next_step(story, outlook()), Finish)


def test_a_finished_training_is_closed_whatever_limit_was_reached() -> None:
    limits = {"limits": {"wall": "1s", "wait": "0s", "attempts": 1}}
    assert isinstance(next_step(builders.story(DONE), outlook(limits, saved=LAST)), Prove)


def unconverted(number: int, plan: Plan, rung: str) -> Attempt:
    """Return an attempt whose checkpoint could not be converted."""
    failed = builders.attempt(
        number, plan, Failure.CHECKPOINT_MISMATCH, taken=builders.remedy(rung)
    )
    return dataclasses.replace(failed, prepared=Prepared(number, False, why="a shard is missing"))


def test_a_conversion_that_failed_is_a_rung_gone_and_the_ladder_goes_on() -> None:
    plan = PLAN.but(micro_batch=1, accumulation=8, activation_checkpointing=True)
    beaten = builders.attempt(1, plan, reached=5)
    gone = unconverted(2, plan.but(zero_stage=3), "zero_up")
    where = builders.around()
    saved = Saved("c-5", 5, 1)
    forbidden = {"forbid": ["allocator_settings", "activation_offload"]}
    look = outlook(forbidden, around=where, start=plan, saved=saved)
    assert rung_of(next_step(builders.story(beaten), look)) == "zero_up"
    step = launched(next_step(builders.story(beaten, gone), look))
    assert (step.attempt, rung_of(step)) == (3, "offload_optimizer")
    assert step.plan == plan.but(offload_optimizer=True)
    assert step.remedy is not None
    why = {one.rung: one.why for one in step.remedy.passed_over}
    assert why["zero_up"] == "attempt 2 ran this plan and ended with checkpoint_mismatch"


def test_a_rung_that_broke_when_we_turned_it_on_is_gone_and_the_ladder_goes_on() -> None:
    beaten = builders.attempt(1, PLAN)
    beaten = dataclasses.replace(beaten, diagnosis=builders.diagnosis(phase=Phase.STEP))
    taken = builders.remedy("offload_optimizer")
    broken = builders.attempt(
        2, PLAN.but(offload_optimizer=True), Failure.OFFLOAD_DEVICE, taken=taken
    )
    look = outlook(
        {"forbid": ["allocator_settings", "zero_up"]}, around=builders.around(has_evaluation=False)
    )
    assert rung_of(next_step(builders.story(beaten), look)) == "offload_optimizer"
    step = launched(next_step(builders.story(beaten, broken), look))
    assert rung_of(step) == "smaller_micro_batch"
    assert not step.plan.offload_optimizer
    # Also where the same plan was first retried for another reason.
    port = dataclasses.replace(broken, diagnosis=builders.diagnosis(Failure.RENDEZVOUS_PORT))
    again = builders.attempt(
        3, broken.plan, Failure.OFFLOAD_DEVICE, taken=builders.remedy("retry_unchanged")
    )
    assert rung_of(next_step(builders.story(beaten, port, again), look)) == "smaller_micro_batch"


def test_an_offload_the_job_itself_asked_for_is_dropped() -> None:
    plan = PLAN.but(offload_optimizer=True)
    story = builders.story(builders.attempt(1, plan, Failure.OFFLOAD_DEVICE))
    step = launched(next_step(story, outlook(start=plan)))
    assert (rung_of(step), step.plan) == ("drop_offload", PLAN)


def test_a_card_whose_memory_broke_is_left_out_whatever_rank_spoke() -> None:
    machine = Machine(cards=(Card(3, uncorrected_errors=2), Card(2, slowed_by=("heat",))))
    broken = builders.attempt(1, PLAN, Failure.GPU_HARDWARE, machine=machine)
    look = outlook(around=builders.around(gpus=(2, 3)))
    step = launched(next_step(builders.story(broken), look))
    assert (rung_of(step), step.plan.excluded, step.plan.world_size) == ("exclude_device", (3,), 1)


def test_a_card_that_the_kernel_blames_is_left_out_and_not_the_rank_that_cried_out() -> None:
    xid = KernelEvent("xid", "NVRM: Xid: 79", ours=True, bus_id="0000:3b:00", code=79)
    machine = Machine(kernel=(xid,), cards=(Card(2, "0000:1a:00"), Card(3, "0000:3b:00")))
    cried = builders.attempt(1, PLAN, Failure.GPU_HARDWARE, machine=machine)
    cried = dataclasses.replace(cried, diagnosis=builders.diagnosis(Failure.GPU_HARDWARE, rank=0))
    look = outlook(around=builders.around(gpus=(2, 3)))
    step = launched(next_step(builders.story(cried), look))
    assert (rung_of(step), step.plan.excluded) == ("exclude_device", (3,))


def test_a_stop_comes_before_everything_that_was_not_begun() -> None:
    for last in (DONE, builders.attempt(1, PLAN)):
        story = builders.story(last, stop_asked=StopAsked("Ctrl-C"))
        assert next_step(story, outlook(saved=LAST)) == Stop("asked to by Ctrl-C")
    assert next_step(Story(stop_asked=StopAsked("you")), outlook()) == Stop("asked to by you")


@pytest.mark.parametrize(
    "pending",
    [
        Wait(5.0, "why"),
        Prove(PLAN, 1, "c", 1),
        builders.launch(4, PLAN),
        GiveUp("why"),
        Finish(PLAN, 1, "why"),
    ],
    ids=lambda step: type(step).__name__,
)
def test_what_was_decided_and_not_done_is_replayed_and_not_decided_again(pending: Step) -> None:
    story = builders.story(DONE, pending=pending, stop_asked=StopAsked("you"))
    assert next_step(story, outlook()) is pending


def test_the_same_story_gives_the_same_step() -> None:
    story = builders.story(builders.attempt(1, PLAN, reached=3))
    look = outlook(saved=Saved("c-3", 3, 1))
    assert next_step(story, look) == next_step(story, look)


def test_a_carry_rests_on_the_plan_that_wrote_the_checkpoint() -> None:
    at_2, at_3 = PLAN, PLAN.but(zero_stage=3)
    story = builders.story(
        builders.attempt(1, at_2, reached=5),
        builders.attempt(2, at_3, Failure.RENDEZVOUS_PORT, reached=5),
    )
    for writer, kind in ((1, CarryKind.STAGED), (2, CarryKind.SAME), (None, CarryKind.SAME)):
        waited = dataclasses.replace(story, waited_since_end=True)
        step = launched(next_step(waited, outlook(saved=Saved("c-5", 5, writer))))
        assert (step.plan, step.carry.kind) == (at_3, kind)


def test_a_carry_that_would_lose_something_waits_for_the_owners_word() -> None:
    plan = PLAN.but(dtype="fp32")
    story = builders.story(
        builders.attempt(1, plan, reached=5), builders.attempt(2, PLAN, Failure.HANG, reached=5)
    )
    saved = Saved("c-5", 5, 1)
    step = next_step(story, outlook(saved=saved))
    assert isinstance(step, GiveUp)
    assert "allow: [change_dtype]" in step.passed_over[0].why
    step = launched(next_step(story, outlook({"allow": ["change_dtype"]}, saved=saved)))
    assert (rung_of(step), step.carry.kind) == ("retry_unchanged", CarryKind.STAGED)
