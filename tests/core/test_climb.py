"""A run with room to spare tries what is predicted to be faster, and keeps what is."""

import dataclasses
from typing import Any

import pytest

from autotune.core.climb import FASTER, NOT_FASTER, steer
from autotune.core.compatibility import conflicts
from autotune.core.decide import next_step
from autotune.core.evidence import Evidence
from autotune.core.failure import Failure
from autotune.core.history import Attempt, Story
from autotune.core.outlook import Outlook, Saved
from autotune.core.pace import Pace
from autotune.core.plan import Change, Plan
from autotune.core.record import Launch
from tests import builders
from tests.core.foretold import Foretold, foretold

START = builders.plan(reduce_bucket=5_000_000, allgather_bucket=5_000_000, micro_batch=8)
SMALL = START.but(micro_batch=1, accumulation=8, eval_micro_batch=1, activation_checkpointing=True)
SAVED = Saved("checkpoints/checkpoint-20", 20, 1)


def light(plan: Plan) -> float:
    """Less than any card."""
    return 4.0 + plan.micro_batch / 8


def outlook(foresight: Foretold | None = None, **job: Any) -> Outlook:
    return builders.outlook(
        job=builders.job(**job),
        start=START,
        foresight=foresight or foretold(40, light),
        saved=SAVED,
    )


def running(plan: Plan = SMALL, **changes: Any) -> Story:
    launch = builders.launch(1, plan)
    return Story(attempts=(Attempt(dataclasses.replace(launch, **changes)),))


def seen(seconds: float = 10.0, steps: int = 30, **changes: Any) -> Evidence:
    pace = Pace(steps, seconds, seconds / 1000, seconds / 1000, start_seconds=40.0)
    given: dict[str, Any] = {
        "step": 20, "total_steps": 5000, "checkpoint_step": 20, "started_training": True,
        "seconds": 300.0, "pace": pace,
    }  # fmt: skip
    return builders.evidence(**given | changes)


def stopped_for_it(story: Story, evidence: Evidence) -> Story:
    last = story.attempts[-1]
    over = dataclasses.replace(evidence, ended_by_us=FASTER)
    ended = dataclasses.replace(last, evidence=over, diagnosis=builders.diagnosis(Failure.NONE))
    return dataclasses.replace(story, attempts=(*story.attempts[:-1], ended))


def launched(story: Story, look: Outlook) -> Launch:
    step = next_step(story, look)
    assert isinstance(step, Launch), step
    return step


def test_a_run_with_room_to_spare_makes_way_for_a_faster_plan() -> None:
    wanted = steer(running(), outlook(), seen(), True)
    assert wanted is not None
    assert wanted[0] == FASTER
    step = launched(stopped_for_it(running(), seen()), outlook())
    assert step.trial_of == 1
    assert step.plan.micro_batch > SMALL.micro_batch
    assert step.plan.global_batch == SMALL.global_batch
    assert step.checkpoint == SAVED.name
    assert step.foreseen is not None


@pytest.mark.parametrize(
    ("why", "job", "changes"),
    [
        ("the owner wants none", {"climb_back": 0.0}, {}),
        ("too few steps were measured", {}, {"pace": Pace(3, 10.0, 0.01, None, 40.0)}),
        ("nothing new is saved", {}, {"checkpoint_step": 0}),
        ("too little is left to win back the restart", {}, {"step": 4995}),
        ("the price of a restart is not known", {}, {"pace": Pace(30, 10.0, 0.01, 0.01, None)}),
    ],
)
def test_a_run_is_left_alone_where(why: str, job: dict[str, Any], changes: dict[str, Any]) -> None:
    assert steer(running(), outlook(**job), seen(**changes), True) is None, why


def test_a_run_that_has_no_room_is_left_alone() -> None:
    def heavy(plan: Plan) -> float:
        return 30.0 if plan == SMALL else 60.0

    assert steer(running(), outlook(foretold(40, heavy)), seen(), True) is None


def test_what_may_not_fit_is_tried_but_not_against_the_odds() -> None:
    def wanted(gib: float) -> tuple[str, str] | None:
        look = outlook(foretold(40, lambda plan: 30.0 if plan == SMALL else gib))
        return steer(running(), look, seen(), True)

    even = wanted(39.5)
    assert even is not None
    assert "fits with 6" in even[1]
    assert wanted(40.5) is None


def test_a_trial_costs_no_more_than_the_share_the_owner_gave() -> None:
    dear = Pace(30, 10.0, 0.01, 0.01, start_seconds=1500.0)
    assert steer(running(), outlook(), seen(pace=dear), True) is None
    assert steer(running(), outlook(climb_back="20%"), seen(pace=dear), True) is not None


def test_what_the_weights_learn_from_is_not_changed_in_the_middle() -> None:
    start = START.but(method="lora")
    small = SMALL.but(method="lora", quantization="nf4")
    look = dataclasses.replace(outlook(), start=start)
    step = launched(stopped_for_it(running(small), seen()), look)
    assert step.plan.quantization == "nf4"


def trial(story: Story, look: Outlook) -> Story:
    over = stopped_for_it(story, seen())
    step = launched(over, look)
    return dataclasses.replace(over, attempts=(*over.attempts, Attempt(step)))


def test_a_trial_that_is_slower_for_a_token_ends_and_what_held_goes_on() -> None:
    story = trial(running(), outlook())
    slow = Pace(8, 12.0, 0.012, 0.012, 40.0)
    wanted = steer(story, outlook(), seen(pace=slow), True)
    assert wanted is not None
    assert wanted[0] == NOT_FASTER
    over = dataclasses.replace(
        story.attempts[-1],
        evidence=seen(pace=slow, ended_by_us=NOT_FASTER),
        diagnosis=builders.diagnosis(Failure.NONE),
    )
    told = dataclasses.replace(story, attempts=(*story.attempts[:-1], over))
    step = launched(told, outlook())
    assert (step.plan, step.trial_of, step.remedy) == (SMALL, None, None)


def test_a_trial_that_is_faster_goes_on() -> None:
    story = trial(running(), outlook())
    quick = Pace(8, 2.0, 0.002, 0.002, 40.0)
    wanted = steer(story, outlook(), seen(pace=quick, step=25, checkpoint_step=20), True)
    assert wanted is None


def test_a_trial_that_fails_is_gone_back_from_and_not_tried_again() -> None:
    story = trial(running(), outlook())
    tried = story.attempts[-1].plan
    died = dataclasses.replace(
        story.attempts[-1], evidence=seen(), diagnosis=builders.diagnosis(Failure.DEVICE_OOM)
    )
    told = dataclasses.replace(story, attempts=(*story.attempts[:-1], died))
    step = launched(told, outlook())
    assert step.plan == SMALL
    back = dataclasses.replace(told, attempts=(*told.attempts, Attempt(step)))
    wanted = steer(back, outlook(), seen(step=40, checkpoint_step=40), True)
    if wanted is not None:
        again = launched(stopped_for_it(back, seen(step=40, checkpoint_step=40)), outlook())
        assert again.plan != tried


def test_a_trial_that_a_port_kept_from_starting_is_tried_on() -> None:
    story = trial(running(), outlook())
    died = dataclasses.replace(
        story.attempts[-1],
        evidence=seen(pace=None),
        diagnosis=builders.diagnosis(Failure.COLLECTIVE_ERROR),
    )
    told = dataclasses.replace(story, attempts=(*story.attempts[:-1], died), waited_since_end=True)
    assert launched(told, outlook()).plan == story.attempts[-1].plan


def test_a_run_that_began_without_a_checkpoint_makes_way_at_its_first() -> None:
    look = dataclasses.replace(outlook(), saved=None)
    wanted = steer(running(), look, seen(), True)
    assert wanted is not None
    assert wanted[0] == FASTER


def test_a_faster_plan_is_looked_for_only_where_something_was_just_saved() -> None:
    assert steer(running(), outlook(), seen(), False) is None


def ended(story: Story, failure: Failure, **changes: Any) -> Story:
    over = dataclasses.replace(
        story.attempts[-1], evidence=seen(**changes), diagnosis=builders.diagnosis(failure)
    )
    return dataclasses.replace(story, attempts=(*story.attempts[:-1], over))


def test_a_trial_that_was_interrupted_before_its_pace_was_known_is_a_trial_still() -> None:
    story = trial(running(), outlook())
    begun = Pace(3, 2.0, 0.002, None, 40.0)
    again = launched(ended(story, Failure.NONE, pace=begun, ended_by_us="stop"), outlook())
    assert (again.plan, again.trial_of) == (story.attempts[-1].plan, 1)


def test_a_trial_that_was_kept_is_none_any_more_when_it_is_interrupted() -> None:
    story = trial(running(), outlook())
    quick = Pace(30, 2.0, 0.002, 0.002, 40.0)
    again = launched(ended(story, Failure.NONE, pace=quick, ended_by_us="stop"), outlook())
    assert (again.plan, again.trial_of) == (story.attempts[-1].plan, None)


def test_a_trial_that_dies_before_its_first_step_is_paid_for_with_all_its_time() -> None:
    story = trial(running(), outlook())
    told = ended(story, Failure.DEVICE_OOM)
    lost = dataclasses.replace(told.attempts[-1], evidence=builders.evidence(seconds=3000.0))
    told = dataclasses.replace(told, attempts=(*told.attempts[:-1], lost))
    back = dataclasses.replace(told, attempts=(*told.attempts, Attempt(launched(told, outlook()))))
    assert steer(back, outlook(), seen(step=40, checkpoint_step=40), True) is None


def test_a_setting_that_broke_is_in_no_trial() -> None:
    start, small = START.but(sequence=2048), SMALL.but(sequence=2048)

    def chunked_alone_is_light(plan: Plan) -> float:
        return 10.0 if plan.loss == "chunked" or plan == small else 60.0

    look = dataclasses.replace(outlook(foretold(40, chunked_alone_is_light)), start=start)
    assert steer(running(small), look, seen(), True) is not None
    broke = builders.attempt(
        1,
        start.but(loss="chunked"),
        Failure.USER_CODE_ERROR,
        taken=builders.remedy("chunked_loss", changes=(Change("loss", "whole", "chunked"),)),
    )
    held = Attempt(builders.launch(2, small))
    assert steer(Story(attempts=(broke, held)), look, seen(), True) is None


def test_without_recomputing_there_is_nothing_to_offload() -> None:
    start = START.but(activation_checkpointing=True, activation_offload=True)
    look = dataclasses.replace(outlook(), start=start)
    step = launched(stopped_for_it(running(start), seen()), look)
    assert not conflicts(step.plan, "cuda", {})


def test_a_faster_plan_is_looked_for_only_at_a_checkpoint_and_a_trial_judged_at_any_step() -> None:
    assert steer(running(), outlook(), seen(), saved=False) is None
    slow = Pace(8, 12.0, 0.012, 0.012, 40.0)
    wanted = steer(trial(running(), outlook()), outlook(), seen(pace=slow), saved=False)
    assert wanted is not None
    assert wanted[0] == NOT_FASTER


def test_a_trial_cut_short_before_it_was_judged_goes_on_as_a_trial() -> None:
    story = trial(running(), outlook())
    cut = dataclasses.replace(
        story.attempts[-1],
        evidence=seen(pace=Pace(3, 12.0, 0.012, None, 40.0), ended_by_us="supervisor_lost"),
        diagnosis=builders.diagnosis(Failure.NONE),
    )
    story = dataclasses.replace(story, attempts=(*story.attempts[:-1], cut))
    step = launched(story, outlook())
    assert (step.plan, step.trial_of) == (cut.plan, 1)


@pytest.mark.parametrize(("token_seconds", "kept"), [(0.012, False), (0.002, True)])
def test_a_trial_cut_short_after_it_could_be_judged_is_judged(
    token_seconds: float, kept: bool
) -> None:
    story = trial(running(), outlook())
    pace = Pace(8, 1000 * token_seconds, token_seconds, token_seconds, 40.0)
    cut = dataclasses.replace(
        story.attempts[-1],
        evidence=seen(pace=pace, ended_by_us="supervisor_lost"),
        diagnosis=builders.diagnosis(Failure.NONE),
    )
    story = dataclasses.replace(story, attempts=(*story.attempts[:-1], cut))
    step = launched(story, outlook())
    assert (step.plan, step.trial_of) == (cut.plan if kept else SMALL, None)
