"""A plan that a framework did not follow is told of, setting by setting."""

from typing import Any

import pytest

from autotune.core.in_force import ignored
from autotune.core.plan import Plan

PLAN = Plan(
    world_size=2, micro_batch=4, accumulation=2, eval_micro_batch=4, method="full",
    quantization="none", dtype="bf16", activation_checkpointing=True, zero_stage=3,
    offload_optimizer=True, offload_param=False, reduce_bucket=5, allgather_bucket=5,
    gather_on_save=True, attention="sdpa", sequence=64,
)  # fmt: skip
FOLLOWED = {
    "world_size": 2, "micro_batch": 4, "accumulation": 2, "zero_stage": 3, "quantization": "none",
    "dtype": "bfloat16", "activation_checkpointing": True, "offload_optimizer": "cpu",
    "offload_param": "none", "attention": "sdpa", "sequence": 64, "optimizer": "AdamW",
}  # fmt: skip


def test_a_plan_in_force_has_nothing_to_be_told() -> None:
    assert ignored(PLAN, FOLLOWED) == ()
    assert ignored(PLAN, {}) == ()


@pytest.mark.parametrize(
    ("name", "found", "said"),
    [
        ("micro_batch", 8, "micro_batch is 8 in force and 4 in the plan"),
        ("accumulation", 1, "accumulation is 1 in force and 2 in the plan"),
        ("dtype", "float32", "dtype is float32 in force and bfloat16 in the plan"),
        ("offload_optimizer", "none", "offload_optimizer is none in force and True in the plan"),
        ("offload_param", "cpu", "offload_param is cpu in force and False in the plan"),
        (
            "activation_checkpointing",
            False,
            "activation_checkpointing is False in force and True in the plan",
        ),
        ("attention", "eager", "attention is eager in force and sdpa in the plan"),
    ],
)
def test_a_setting_that_was_not_taken_over_is_named(name: str, found: Any, said: str) -> None:
    assert ignored(PLAN, {**FOLLOWED, name: found}) == (said,)


def test_what_the_plan_leaves_to_the_job_is_not_held_against_it() -> None:
    plan = PLAN.but(attention="given", sequence=0)
    assert ignored(plan, {**FOLLOWED, "attention": "eager", "sequence": 128}) == ()


def test_what_the_tool_cannot_set_is_not_held_against_the_plan() -> None:
    assert ignored(PLAN, {"zero_stage": 9}, knobs=frozenset({"micro_batch"})) == ()
