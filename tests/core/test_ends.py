"""Whatever befalls a training, again and again, the run comes to an end and stays that training."""

import dataclasses
import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autotune.core.decide import next_step
from autotune.core.failure import Failure, Phase
from autotune.core.history import Story, tell
from autotune.core.outlook import Outlook, Saved
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
SAVED = tuple(Saved(f"checkpoints/checkpoint-{step}", step, 1) for step in (5, 4, 3))
CHANGES = ["change_dtype", "unquantize", "start_over"]


def outlook(policy: str, device: str, start: Plan, allows: bool) -> Outlook:
    limits = {"attempts": 1000, "wall": "100d", "wait": "10d"}
    return builders.outlook(
        policy=builders.shipped(policy),
        around=builders.around(device=device, gpus=tuple(range(start.world_size))),
        start=start,
        job=builders.job(limits=limits, allow=CHANGES if allows else []),
    )


# The others end a run at once.
ANSWERED = sorted({Failure(rule.when) for rule in builders.shipped().rules if rule.try_})
happenings = st.tuples(
    st.sampled_from(ANSWERED),
    st.sampled_from([None, *Phase]),
    st.booleans(),  # whether a conversion, where one is needed, succeeds
    st.sampled_from([None, 0, 1]),  # the rank that failed
)
starts = st.builds(
    builders.plan,
    world_size=st.sampled_from([1, 2, 3]),
    micro_batch=st.integers(1, 12),
    accumulation=st.integers(1, 4),
    method=st.sampled_from(["full", "lora"]),
    offload_optimizer=st.booleans(),
    attention=st.sampled_from(["sdpa", "flash_attention_2"]),
    loader_workers=st.sampled_from([0, 4]),
    pinned_memory=st.booleans(),
    dtype=st.sampled_from(["bf16", "fp16", "fp32"]),
)


@pytest.mark.long
@pytest.mark.parametrize("policy", ["default", "same_result"])
@settings(max_examples=50)
@given(
    row=st.lists(happenings, min_size=1, max_size=6),
    start=starts,
    device=st.sampled_from(["cpu", "cuda"]),
    allows=st.booleans(),
)
def test_a_run_without_progress_is_given_up(
    policy: str,
    row: list[tuple[Failure, Phase | None, bool, int | None]],
    start: Plan,
    device: str,
    allows: bool,
) -> None:
    look, held = outlook(policy, device, start, allows), SAVED
    story = tell(Story(), RunStarted("r", "a-job", "id", start, device))
    happened = itertools.cycle(row)
    beaten: list[Plan] = []
    for _ in range(MOST_STEPS):
        newest = held[0] if held else None
        look = dataclasses.replace(look, saved=newest, earlier=held[1:])
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
        held = tuple(saved for saved in held if saved.name not in step.set_aside)
        assert held or allows
        failure, phase, converts, rank = next(happened)
        if step.carry.conversions:
            story = tell(story, Prepared(step.attempt, converts))
            failure = failure if converts else Failure.CHECKPOINT_MISMATCH
        found = builders.diagnosis(failure, phase=phase, rank=rank)
        reached = held[0].step if held else 0
        seen = builders.evidence(attempt=step.attempt, checkpoint_step=reached, seconds=1.0)
        story = tell(story, AttemptEnded(step.attempt, seen, found))
        beaten.append(step.plan)
    raise AssertionError(f"still going after {MOST_STEPS} steps, the last plan {beaten[-1]}")
