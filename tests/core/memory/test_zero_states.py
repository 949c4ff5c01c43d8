"""The states of ZeRO, as DeepSpeed was seen to allocate them and as it must never cost more."""

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autotune.core.memory import zero
from autotune.core.memory.activations import Activations, Point, activations_of
from autotune.core.memory.counts import Counts, count
from autotune.core.memory.forecast import Moment
from autotune.core.memory.host import host
from autotune.core.memory.loading import resume
from autotune.core.memory.outside import BARE_RANK, THREAD, in_training, outside
from autotune.core.memory.plain import Stage
from autotune.core.memory.predict import forecast
from autotune.core.memory.reading import read_shape
from autotune.core.memory.shape import ModelShape
from autotune.core.memory.workload import Subject, Workload
from autotune.core.plan import Plan

SHAPE = read_shape(
    {
        "model_type": "llama",
        "vocab_size": 8192,
        "hidden_size": 512,
        "intermediate_size": 1376,
        "num_hidden_layers": 10,
        "num_attention_heads": 8,
        "num_key_value_heads": 8,
        "tie_word_embeddings": False,
    }
)
assert isinstance(SHAPE, ModelShape)
PLAN = Plan(
    world_size=2,
    micro_batch=1,
    accumulation=1,
    eval_micro_batch=1,
    method="full",
    quantization="none",
    dtype="bf16",
    activation_checkpointing=False,
    zero_stage=2,
    offload_optimizer=False,
    offload_param=False,
    reduce_bucket=6_000_000,
    allgather_bucket=6_000_000,
    gather_on_save=True,
)
NOTHING = Activations(0, (Point(0, 0), Point(0, 40_000_000)), 0, 0)


def workload(device: str = "cuda", **changes: object) -> Workload:
    assert isinstance(SHAPE, ModelShape)
    subject = Subject(SHAPE, device, 128, evaluates=True)  # type: ignore[arg-type]
    return Workload(subject, PLAN.but(**changes))


def stages(of: Workload) -> dict[Moment, Stage]:
    return zero.moments(of, count(of), NOTHING)


def peak(of: Workload, moment: Moment) -> int:
    return sum(stages(of)[moment].parts.values())


def parameters(of: Workload) -> int:
    return count(of).trainable


@pytest.mark.parametrize(
    ("stage", "ranks", "held", "step"),
    [
        # Bytes a parameter, as measured of DeepSpeed 0.19.8 in bf16 with fused Adam:
        # 2 + 12/N and 2 + 20/N at stages 1 and 2, 16/N and 22/N and a bucket at stage 3.
        (1, 1, 14, 22),
        (1, 2, 8, 12),
        (2, 2, 8, 12),
        (2, 4, 5, 7),
        (3, 2, 8, 11),
        (3, 4, 4, 5.5),
    ],
)
def test_the_states_are_those_that_were_measured(
    stage: int, ranks: int, held: float, step: float
) -> None:
    of = workload(zero_stage=stage, world_size=ranks)
    size, small = parameters(of), of.subject.shape.other_parameters * 2
    bucket = 2 * of.plan.reduce_bucket + small if stage == 3 else 0
    found = stages(of)[Moment.SECOND_STEP]
    assert found.held == pytest.approx(held * size + bucket, rel=1e-3)
    assert sum(found.parts.values()) == pytest.approx(step * size + bucket, rel=1e-3)


def test_a_backward_pass_adds_what_was_measured() -> None:
    one, two = workload(zero_stage=1), workload(zero_stage=2)
    size, bucket = parameters(one), 2 * PLAN.reduce_bucket
    # 2P + 2P/N at stage 1; 2P/N and a bucket at stage 2.
    assert peak(one, Moment.SECOND_BACKWARD) - 8 * size == pytest.approx(3 * size, rel=1e-3)
    assert peak(two, Moment.SECOND_BACKWARD) - 8 * size == pytest.approx(size + bucket, rel=1e-3)


def test_a_card_need_not_hold_the_weights_twice_while_the_optimizer_is_made() -> None:
    offloaded = workload(offload_optimizer=True)
    assert peak(offloaded, Moment.OPTIMIZER_CREATION) < 3.5 * parameters(offloaded)
    on_cpu = workload("cpu", offload_optimizer=True)
    assert peak(on_cpu, Moment.OPTIMIZER_CREATION) >= 4 * parameters(on_cpu)


def test_the_second_step_is_higher_than_the_first() -> None:
    for stage in (1, 2):
        of = workload(zero_stage=stage)
        assert peak(of, Moment.SECOND_STEP) > peak(of, Moment.STEP)


def test_the_bucket_is_there_when_the_first_adapter_of_the_last_block_has_its_gradient() -> None:
    of = workload(method="lora", activation_checkpointing=True, loss="chunked", micro_batch=64)
    found = zero.moments(of, count(of), activations_of(of))[Moment.SECOND_BACKWARD]
    assert found.parts["buckets"] == 2 * PLAN.reduce_bucket


def test_overlapped_reduction_takes_two_buckets() -> None:
    plain = workload()
    overlapped = Workload(Subject(plain.subject.shape, "cuda", 128, overlap_comm=True), plain.plan)
    more = peak(overlapped, Moment.BACKWARD) - peak(plain, Moment.BACKWARD)
    assert more == 2 * PLAN.reduce_bucket


@pytest.mark.parametrize("stage", [1, 2, 3])
def test_weights_of_fp32_have_masters_too(stage: int) -> None:
    found = stages(workload(dtype="fp32", zero_stage=stage))[Moment.STEP].parts
    assert found["master"] == 4 * parameters(workload()) // 2


def test_the_first_step_still_holds_the_gradients_beside_the_new_states() -> None:
    first, second = (
        peak(workload(dtype="fp32"), moment) for moment in (Moment.STEP, Moment.SECOND_STEP)
    )
    assert first == second


def test_on_the_cpu_weights_are_copied_to_be_saved() -> None:
    saving = [
        stages(workload(device=device))[Moment.SAVE].parts.get("saving", 0)
        for device in ("cpu", "cuda")
    ]
    assert saving == [2 * parameters(workload()), 0]


def test_one_rank_gathers_nothing_and_two_gather_the_model_once_its_order_is_known() -> None:
    one = stages(workload(zero_stage=3, world_size=1))
    assert one[Moment.FORWARD].parts["gathered"] == 0
    two = stages(workload(zero_stage=3))
    assert two[Moment.FORWARD].parts["gathered"] == 2 * 8192 * 512
    assert two[Moment.SECOND_FORWARD].parts["gathered"] == 2 * parameters(workload())


def test_shards_of_offloaded_parameters_are_put_together_on_the_host() -> None:
    away = workload(zero_stage=3, offload_optimizer=True, offload_param=True)
    here = away.plan.but(offload_param=False)
    low, high = (
        stages(of)[Moment.OPTIMIZER_CREATION].parts["creation"]
        for of in (away, Workload(away.subject, here))
    )
    assert high - low == 2 * parameters(away) // 2 - 2 * 6_000_000


def test_a_sub_group_caps_the_gradients_of_a_step_at_stage_3() -> None:
    whole, parted = workload(zero_stage=3), workload(zero_stage=3, sub_group_size=1_000_000)
    assert stages(parted)[Moment.SECOND_STEP].parts["step"] == 6_000_000
    assert peak(parted, Moment.SECOND_STEP) < peak(whole, Moment.SECOND_STEP)


def test_an_unknown_stage_is_refused() -> None:
    of = workload(zero_stage=0)
    with pytest.raises(ValueError, match="the stages are 1, 2 and 3"):
        stages(of)


@pytest.mark.parametrize("stage", [1, 2, 3])
def test_an_offloaded_optimizer_moves_from_the_device_to_the_host(stage: int) -> None:
    here = workload(zero_stage=stage)
    there = workload(zero_stage=stage, offload_optimizer=True, pinned_memory=True)
    assert peak(there, Moment.SECOND_STEP) < peak(here, Moment.SECOND_STEP)
    own = parameters(here) // 2
    before, _ = host(here, count(here), NOTHING)
    after, pinned = host(there, count(there), NOTHING)
    assert after > before
    assert 16 * own <= pinned < after
    assert host(here, count(here), NOTHING)[1] == 0


def test_on_the_cpu_nothing_is_on_another_host() -> None:
    of = workload(device="cpu", offload_optimizer=True)
    assert host(of, count(of), NOTHING) == (0, 0)
    assert peak(of, Moment.SECOND_STEP) > peak(workload(), Moment.SECOND_FORWARD)


def test_a_resume_brings_the_states_before_the_first_forward_pass() -> None:
    of = workload(device="cpu")
    held = stages(of)[Moment.OPTIMIZER_CREATION].held
    moment, on_host = resume(of, count(of), held)
    assert moment.held == held + 8 * parameters(of) // 2
    assert sum(moment.parts.values()) > moment.held
    assert on_host == 0


def test_what_was_measured_of_the_bare_rank_replaces_the_constant() -> None:
    of = workload(device="cpu")
    assert outside(of) == in_training(BARE_RANK)
    measured = Workload(Subject(of.subject.shape, "cpu", 128, base_bytes=5), of.plan)
    assert outside(measured) == in_training(5)


plans = st.fixed_dictionaries(
    {
        "zero_stage": st.sampled_from([1, 2, 3]),
        "world_size": st.sampled_from([1, 2, 3, 8]),
        "dtype": st.sampled_from(["bf16", "fp16", "fp32"]),
        "method": st.sampled_from(["full", "lora"]),
        "accumulation": st.sampled_from([1, 4]),
        "offload_optimizer": st.booleans(),
        "reduce_bucket": st.sampled_from([1000, 5_000_000, 500_000_000]),
        "sub_group_size": st.sampled_from([1_000_000, 1_000_000_000]),
        "optimizer": st.sampled_from(["adamw", "adamw_8bit", "paged_adamw", "paged_adamw_8bit"]),
    }
)


@given(plans, st.sampled_from(["cpu", "cuda"]))
def test_nothing_is_negative_and_nothing_held_is_above_its_peak(
    plan: dict[str, object], device: str
) -> None:
    for stage in stages(workload(device, **plan)).values():
        assert all(size >= 0 for size in stage.parts.values())
        assert 0 <= stage.held <= sum(stage.parts.values())


@given(plans, st.sampled_from(["cpu", "cuda"]))
def test_more_ranks_never_hold_more_states(plan: dict[str, object], device: str) -> None:
    few = stages(workload(device, **plan | {"world_size": 2}))
    many = stages(workload(device, **plan | {"world_size": 4}))
    for moment, stage in few.items():
        assert many[moment].held <= stage.held + 64


@given(plans, st.sampled_from(["cpu", "cuda"]))
def test_a_larger_bucket_never_takes_less(plan: dict[str, object], device: str) -> None:
    small = workload(device, **plan | {"reduce_bucket": 1_000_000})
    large = workload(device, **plan | {"reduce_bucket": 50_000_000})
    for moment, stage in stages(small).items():
        if moment in (Moment.BACKWARD, Moment.SECOND_BACKWARD):
            # A gradient that fits in no bucket lies beside it, and may take what a bucket would.
            largest = 4 * counts_of(small).largest_tensor
            assert peak(large, moment) + largest >= sum(stage.parts.values())
        else:
            assert peak(large, moment) >= sum(stage.parts.values())


def counts_of(of: Workload) -> Counts:
    return count(of)


def test_each_further_thread_of_a_rank_takes_two_stacks_and_one_was_there_at_the_base() -> None:
    one = workload(device="cpu")
    four = Workload(dataclasses.replace(one.subject, threads=4), one.plan)
    assert outside(four) - outside(one) == 3 * THREAD
    before, after = forecast(one), forecast(four)
    grown = after.moments[Moment.BASE].held - before.moments[Moment.BASE].held
    assert after.outside - before.outside + grown == pytest.approx(3 * THREAD / 2, abs=2)
