"""A DeepSpeed configuration is edited key by key, and nothing else in it is touched."""

import copy
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autotune.frameworks import ds_config
from autotune.frameworks.ds_config import DEFAULT_BUCKET
from autotune.frameworks.ds_remark import AUTO
from tests import builders

USERS: dict[str, Any] = {
    "train_micro_batch_size_per_gpu": AUTO,
    "steps_per_print": 50,
    "wall_clock_breakdown": True,
    "comms_logger": {"enabled": True, "prof_ops": ["all_reduce"]},
    "bf16": {"enabled": AUTO, "immediate_grad_update": True},
    "zero_optimization": {
        "stage": 2,
        "overlap_comm": True,
        "contiguous_gradients": False,
        "reduce_bucket_size": AUTO,
        "a_key_of_next_year": [1, 2],
    },
}


def zero(config: dict[str, Any]) -> dict[str, Any]:
    table: dict[str, Any] = config["zero_optimization"]
    return table


def test_keys_we_do_not_know_stay_as_they_are() -> None:
    edited = ds_config.with_plan(USERS, builders.plan())
    for key in ("steps_per_print", "wall_clock_breakdown", "comms_logger"):
        assert edited[key] == USERS[key]
    assert edited["bf16"] == {"enabled": True, "immediate_grad_update": True}
    for key in ("overlap_comm", "contiguous_gradients", "a_key_of_next_year"):
        assert zero(edited)[key] == zero(USERS)[key]


def test_the_users_configuration_itself_is_not_touched() -> None:
    before = copy.deepcopy(USERS)
    edited = ds_config.with_plan(USERS, builders.plan(zero_stage=3, offload_param=True))
    edited["comms_logger"]["enabled"] = False
    assert before == USERS


def test_every_auto_that_a_plan_knows_becomes_a_number() -> None:
    auto = {
        **dict.fromkeys(ds_config.BATCH_KEYS, AUTO),
        "zero_optimization": {
            "stage": AUTO,
            "reduce_bucket_size": AUTO,
            "allgather_bucket_size": AUTO,
            "stage3_prefetch_bucket_size": AUTO,
            "sub_group_size": AUTO,
        },
    }
    edited = ds_config.with_plan(auto, builders.plan(zero_stage=3, reduce_bucket=7_000_000))
    assert (edited["train_batch_size"], edited["train_micro_batch_size_per_gpu"]) == (16, 8)
    assert edited["gradient_accumulation_steps"] == 1
    assert AUTO not in [*edited.values(), *zero(edited).values()]
    assert zero(edited)["stage3_prefetch_bucket_size"] == 7_000_000


def test_the_batch_the_plan_asks_for_is_always_a_whole_triad() -> None:
    plan = builders.plan(world_size=3, micro_batch=5, accumulation=3)
    edited = ds_config.with_plan({"train_batch_size": 8}, plan)
    product = edited["train_micro_batch_size_per_gpu"] * edited["gradient_accumulation_steps"] * 3
    assert product == edited["train_batch_size"] == plan.global_batch == 45


def test_a_prefetch_bucket_the_user_has_set_is_kept() -> None:
    config = {"zero_optimization": {"stage3_prefetch_bucket_size": 123}}
    edited = ds_config.with_plan(config, builders.plan(zero_stage=3))
    assert zero(edited)["stage3_prefetch_bucket_size"] == 123


def test_keys_of_stage_three_are_written_at_stage_three_only() -> None:
    low = zero(ds_config.with_plan({}, builders.plan(zero_stage=2)))
    high = zero(ds_config.with_plan({}, builders.plan(zero_stage=3, gather_on_save=False)))
    assert not [key for key in low if key.startswith("stage3") or key == "sub_group_size"]
    assert high["stage3_gather_16bit_weights_on_model_save"] is False
    assert high["sub_group_size"] == 1_000_000_000


@pytest.mark.parametrize("key", ["offload_optimizer", "offload_param"])
def test_offload_is_put_in_beside_the_users_details_and_taken_out_whole(key: str) -> None:
    config = {"zero_optimization": {key: {"device": "none", "buffer_count": 3}}}
    on = ds_config.with_plan(config, builders.plan(zero_stage=3, **{key: True}))
    assert zero(on)[key] == {"device": "cpu", "buffer_count": 3, "pin_memory": False}
    off = ds_config.with_plan(on, builders.plan(zero_stage=3))
    assert key not in zero(off)


def test_a_device_and_pinning_the_user_has_named_are_kept() -> None:
    config = {"zero_optimization": {"offload_optimizer": {"device": "nvme", "pin_memory": True}}}
    plan = builders.plan(offload_optimizer=True, pinned_memory=True)
    on = ds_config.with_plan(config, plan)
    assert zero(on)["offload_optimizer"] == {"device": "nvme", "pin_memory": True}
    off = ds_config.with_plan(config, plan.but(pinned_memory=False))
    assert zero(off)["offload_optimizer"] == {"device": "nvme", "pin_memory": False}


@pytest.mark.parametrize(
    ("dtype", "expected"),
    [("bf16", (True, False)), ("fp16", (False, True)), ("fp32", (False, False))],
)
def test_one_precision_at_most_is_on(dtype: str, expected: tuple[bool, bool]) -> None:
    both = {"bf16": {"enabled": True}, "fp16": {"enabled": True, "loss_scale": 0}}
    edited = ds_config.with_plan(both, builders.plan(dtype=dtype))
    assert (edited["bf16"]["enabled"], edited["fp16"]["enabled"]) == expected
    assert edited["fp16"]["loss_scale"] == 0


def test_carrying_out_a_plan_twice_is_carrying_it_out_once() -> None:
    plan = builders.plan(zero_stage=3, offload_optimizer=True)
    once = ds_config.with_plan(USERS, plan)
    assert ds_config.with_plan(once, plan) == once


values: st.SearchStrategy[Any] = st.one_of(
    st.just(AUTO), st.integers(-5, 5), st.booleans(), st.none(), st.just({})
)


@given(
    st.dictionaries(st.sampled_from([*ds_config.BATCH_KEYS, "bf16", "fp16"]), values),
    st.dictionaries(
        st.sampled_from(["stage", "offload_optimizer", "offload_param", "sub_group_size"]), values
    ),
)
def test_no_value_a_user_may_leave_there_is_in_the_way(
    top: dict[str, Any], below: dict[str, Any]
) -> None:
    plan = builders.plan(zero_stage=3, offload_param=True)
    edited = ds_config.with_plan({**top, "zero_optimization": below}, plan)
    assert ds_config.stage(edited) == 3
    assert ds_config.offloads(edited, "offload_param")
    assert not ds_config.offloads(edited, "offload_optimizer")


def test_overrides_are_laid_down_by_path_and_make_the_tables_they_need() -> None:
    before: dict[str, Any] = {"zero_optimization": {"stage": 2}}
    edited = ds_config.with_overrides(
        before, [("zero_optimization.sub_group_size", 7), ("zero_force_ds_cpu_optimizer", False)]
    )
    assert edited == {
        "zero_optimization": {"stage": 2, "sub_group_size": 7},
        "zero_force_ds_cpu_optimizer": False,
    }
    assert before == {"zero_optimization": {"stage": 2}}


@pytest.mark.parametrize(
    ("config", "stage"),
    [({}, None), ({"zero_optimization": {"stage": AUTO}}, None), ({"zero_optimization": 7}, None),
     ({"zero_optimization": {"stage": 0}}, 0), ({"zero_optimization": {"stage": True}}, None)],
)  # fmt: skip
def test_a_stage_is_a_number_or_nothing(config: dict[str, Any], stage: int | None) -> None:
    assert ds_config.stage(config) == stage


@pytest.mark.parametrize(
    ("value", "number"),
    [(AUTO, DEFAULT_BUCKET), (5e6, 5_000_000), (0, DEFAULT_BUCKET), (-1, DEFAULT_BUCKET),
     (None, DEFAULT_BUCKET), (float("inf"), DEFAULT_BUCKET), (12, 12), (True, DEFAULT_BUCKET)],
)  # fmt: skip
def test_a_bucket_may_be_written_as_a_fraction_and_is_a_whole_number(
    value: Any, number: int
) -> None:
    config = {"zero_optimization": {"reduce_bucket_size": value}}
    assert ds_config.number(config, "reduce_bucket_size", DEFAULT_BUCKET) == number
    assert ds_config.number({}, "reduce_bucket_size", 9) == 9


TRIAD = {
    "train_batch_size": 16,
    "train_micro_batch_size_per_gpu": 4,
    "gradient_accumulation_steps": 2,
}


def test_a_triad_that_agrees_or_is_left_open_is_no_fault() -> None:
    for config in ({}, TRIAD, dict.fromkeys(TRIAD, AUTO), {"train_batch_size": 16}):
        assert ds_config.batch_faults(config, 2, 4, 16, "here") == []


@pytest.mark.parametrize("key", ds_config.BATCH_KEYS)
def test_each_batch_key_that_disagrees_is_named_with_what_the_job_makes_it(key: str) -> None:
    (fault,) = ds_config.batch_faults({**TRIAD, key: 99}, 2, 4, 16, "here")
    assert f"`{key}` is 99" in fault.what
    assert f"makes it {TRIAD[key]} (2 ranks, micro-batch 4, global batch 16)" in fault.what
    assert (fault.where, "auto" in fault.hint) == ("here", True)


def test_every_disagreement_is_named_at_once() -> None:
    assert len(ds_config.batch_faults(dict.fromkeys(TRIAD, 99), 2, 4, 16, "here")) == 3


@pytest.mark.parametrize(
    ("config", "word"),
    [
        ({"optimizer": {"type": "AdamW"}}, "`optimizer` block"),
        ({"scheduler": {"type": "WarmupLR"}}, "`scheduler` block"),
        ({"autotuning": {"enabled": True}}, "`autotuning`"),
        ({"elasticity": {"enabled": True}}, "`elasticity`"),
        ({"zero_optimization": {"stage": 0}}, "`stage` is 0"),
        ({"zero_optimization": {"stage": "2"}}, "`stage` is '2'"),
    ],
)
def test_what_deepspeed_or_the_trainer_would_refuse_is_said_before(
    config: dict[str, Any], word: str
) -> None:
    (fault,) = ds_config.shape_faults(config, "here")
    assert word in fault.what
    assert fault.hint


def test_an_ordinary_configuration_is_no_fault() -> None:
    for config in ({}, USERS, {"zero_optimization": {"stage": AUTO}}):
        assert ds_config.shape_faults(config, "here") == []
        assert ds_config.precision_faults(config, "fp32", "here") == []


@pytest.mark.parametrize(
    ("config", "dtype", "hint"),
    [
        ({"fp16": {"enabled": True}}, "bf16", "`dtype: fp16`"),
        ({"bf16": {"enabled": False}}, "bf16", "set `dtype`"),
    ],
)
def test_a_precision_that_is_not_the_jobs_is_a_fault(
    config: dict[str, Any], dtype: str, hint: str
) -> None:
    (fault,) = ds_config.precision_faults(config, dtype, "here")
    assert dtype in fault.what
    assert hint in fault.hint


@pytest.mark.parametrize(("value", "clip"), [(AUTO, None), (0.3, 0.3), (1, 1.0)])
def test_clipping_is_a_number_or_left_open(value: Any, clip: float | None) -> None:
    assert ds_config.clipping({"gradient_clipping": value}) == clip
    assert ds_config.clipping({}) is None
