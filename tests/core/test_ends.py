"""Whatever befalls a training, again and again, the run comes to an end and stays that training."""

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autotune.core.decide import Outlook, Saved, next_step
from autotune.core.failure import Failure, Phase
from autotune.core.history import Story, tell
from autotune.core.plan import Plan
from autotune.core.record import (
    AttemptEnded,
    Decided,
    GiveUp,
    Launch,
    Prepared,
    RunStarted,
    Wait,
    Waited,
)
from tests import builders

# A thousand waits for a neighbour, each with its attempt, and twelve attempts for other causes.
MOST_STEPS = 2500
# Written by the first attempt and never followed by another: every later plan is carried from it.
SAVED = Saved("checkpoints/checkpoint-5", 5, 1)


def outlook(policy: str, device: str, start: Plan) -> Outlook:
    return builders.outlook(
        policy=builders.shipped(policy), around=builders.around(device=device), start=start,
        saved=SAVED,
        job=builders.job(limits={"attempts": 1000, "wall": "100d", "wait": "10d"}),
    )  # fmt: skip


# The others end a run at once.
ANSWERED = sorted({Failure(rule.when) for rule in builders.shipped().rules if rule.try_})
happenings = st.tuples(
    st.sampled_from(ANSWERED),
    st.sampled_from([None, *Phase]),
    st.booleans(),  # whether a conversion, where one is needed, succeeds
)
starts = st.builds(
    builders.plan,
    world_size=st.sampled_from([1, 2, 3]),
    micro_batch=st.integers(1, 12),
    accumulation=st.integers(1, 4),
    method=st.sampled_from(["full", "lora"]),
    offload_optimizer=st.booleans(),
)


@pytest.mark.parametrize("policy", ["default", "same_result"])
@settings(max_examples=200)
@given(
    row=st.lists(happenings, min_size=1, max_size=6),
    start=starts,
    device=st.sampled_from(["cpu", "cuda"]),
)
def test_a_run_without_progress_is_given_up(
    policy: str, row: list[tuple[Failure, Phase | None, bool]], start: Plan, device: str
) -> None:
    look = outlook(policy, device, start)
    story = tell(Story(), RunStarted("r", "a-job", "id", start, device))
    happened = itertools.cycle(row)
    beaten: list[Plan] = []
    for _ in range(MOST_STEPS):
        step = next_step(story, look)
        if isinstance(step, GiveUp):
            assert step.why
            return
        story = tell(story, Decided(step))
        if isinstance(step, Wait):
            story = tell(story, Waited(step.seconds))
            continue
        assert isinstance(step, Launch)
        assert step.plan.global_batch == start.global_batch
        if step.remedy is not None and step.remedy.changes:
            assert step.plan not in beaten
        failure, phase, converts = next(happened)
        if step.carry.conversions:
            story = tell(story, Prepared(step.attempt, converts))
            failure = failure if converts else Failure.CHECKPOINT_MISMATCH
        found = builders.diagnosis(failure, phase=phase)
        seen = builders.evidence(attempt=step.attempt, checkpoint_step=SAVED.step, seconds=1.0)
        story = tell(story, AttemptEnded(step.attempt, seen, found))
        beaten.append(step.plan)
    raise AssertionError(f"still going after {MOST_STEPS} steps, the last plan {beaten[-1]}")
