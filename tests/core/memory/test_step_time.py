"""Which of two plans of a job is slower, and by how much."""

from typing import Any

import pytest

from autotune.core.memory.shape import Linear, ModelShape
from autotune.core.memory.step_time import calibrated, step_seconds
from autotune.core.memory.workload import Subject, Workload
from autotune.core.plan import Device, Plan
from tests.builders import plan

H, F = 4096, 11008
LLAMA_7B = ModelShape(
    "llama", 32, H, 32, 32, 128, F, 32000, True, False,
    (
        *(Linear(name, H, H) for name in ("q_proj", "k_proj", "v_proj", "o_proj")),
        Linear("gate_proj", H, F), Linear("up_proj", H, F), Linear("down_proj", F, H),
    ),
    32000 * H, 32000 * H, 65 * H,
)  # fmt: skip
TINY = ModelShape(
    "llama", 8, 512, 8, 8, 64, 1408, 8192, True, True,
    (Linear("q_proj", 512, 512), Linear("gate_proj", 512, 1408)), 8192 * 512, 0, 17 * 512,
)  # fmt: skip


def work(of: Plan, shape: ModelShape = LLAMA_7B, device: Device = "cuda") -> Workload:
    # The rows are those of the subject here, whatever a builder's plan cuts them to.
    subject = Subject(shape, device, 2048 if shape is LLAMA_7B else 512)
    return Workload(subject, of.but(sequence=0))


def ratio(first: dict[str, Any], **changes: Any) -> float:
    start = plan(pinned_memory=True, sequence=0, **first)
    return step_seconds(work(start.but(**changes))) / step_seconds(work(start))


FULL = {"world_size": 4, "micro_batch": 4, "accumulation": 8}
LORA = {**FULL, "method": "lora"}


def test_a_plan_is_as_fast_as_itself() -> None:
    assert ratio(FULL) == 1.0


def test_checkpointing_costs_a_forward_pass_which_weighs_more_under_adapters() -> None:
    assert 1.25 < ratio(FULL, activation_checkpointing=True) < 1.37
    assert 1.4 < ratio(LORA, activation_checkpointing=True) < 1.55


def test_a_smaller_micro_batch_costs_little_while_it_is_large_and_more_when_it_is_small() -> None:
    assert 1.0 < ratio(LORA, micro_batch=2, accumulation=16) < 1.05
    last = ratio({**LORA, "micro_batch": 2, "accumulation": 16}, micro_batch=1, accumulation=32)
    assert ratio(LORA, micro_batch=2, accumulation=16) < last < 1.3


def test_short_passes_leave_a_gpu_idle() -> None:
    assert ratio(FULL, micro_batch=1, accumulation=32) > 1.08


def test_on_the_cpu_the_micro_batch_hardly_matters_and_checkpointing_costs_more() -> None:
    start = plan(micro_batch=8, accumulation=1)
    of = step_seconds(work(start, TINY, "cpu"))
    small = work(start.but(micro_batch=2, accumulation=4), TINY, "cpu")
    assert step_seconds(small) / of == pytest.approx(1.0, abs=0.1)
    again = work(start.but(activation_checkpointing=True), TINY, "cpu")
    assert 1.3 < step_seconds(again) / of < 1.7


def test_offloading_the_optimizer_is_ruinous_for_all_weights_and_nothing_for_adapters() -> None:
    short = {**FULL, "accumulation": 1, "micro_batch": 1}
    assert ratio(short, offload_optimizer=True) > 5
    assert ratio(LORA, offload_optimizer=True) < 1.05


def test_offloaded_parameters_cost_more_than_gathered_ones() -> None:
    gathered = ratio(FULL, zero_stage=3)
    assert 1.0 < gathered < ratio(FULL, zero_stage=3, offload_param=True)


def test_four_bit_costs_more_the_smaller_the_micro_batch() -> None:
    small = {**LORA, "micro_batch": 1, "accumulation": 32}
    assert 1.0 < ratio(LORA, quantization="nf4") < ratio(small, quantization="nf4") < 1.6


def test_a_chunked_loss_costs_a_little() -> None:
    assert 1.0 < ratio(FULL, loss="chunked") < 1.03


def test_offloading_activations_is_cheaper_where_only_inputs_are_kept() -> None:
    under = ratio({**FULL, "activation_checkpointing": True}, activation_offload=True)
    assert 1.0 < under < 1.1
    assert ratio(FULL, activation_offload=True) > under


def test_eager_attention_is_slower_and_flash_as_fast_as_sdpa() -> None:
    assert ratio(FULL, attention="eager") > 1.1
    assert ratio(FULL, attention="flash_attention_2") == 1.0


def test_an_eight_bit_optimizer_costs_as_published() -> None:
    assert ratio({**FULL, "accumulation": 32}, optimizer="adamw_8bit") == pytest.approx(
        1.067, abs=0.01
    )


def test_of_experts_only_those_a_token_is_sent_to_are_counted() -> None:
    def of(experts: int) -> float:
        linears = (Linear("gate_proj", 2048, 4096, per_layer=experts),)
        shape = ModelShape(
            "mixtral", 16, 2048, 16, 16, 128, 0, 32000, True, True, linears, 32000 * 2048, 0, 0,
            experts=experts, experts_per_token=2, expert_inner=4096,
        )  # fmt: skip
        return step_seconds(Workload(Subject(shape, "cuda", 4096), plan(world_size=1, sequence=0)))

    assert of(16) < 1.5 * of(2)


def test_a_measured_plan_takes_what_it_took_and_neighbours_lean_towards_it() -> None:
    start = plan(**FULL)
    again = start.but(activation_checkpointing=True)

    def predicted(one: Plan) -> float:
        return step_seconds(work(one))

    time_of = calibrated(predicted, {start: 10.0, again: 30.0})
    assert time_of(start) == 10.0
    assert time_of(again) == 30.0
    near_start = start.but(micro_batch=2, accumulation=16)
    near_again = near_start.but(activation_checkpointing=True)
    guess = predicted(near_again) / predicted(near_start)
    assert time_of(near_again) / time_of(near_start) > 1.1 * guess
    assert 10 < time_of(near_start) < time_of(near_again) < 30 * 1.1


def test_one_measurement_changes_no_order() -> None:
    start = plan(**FULL)
    time_of = calibrated(lambda one: float(one.accumulation), {start: 80.0})
    assert time_of(start.but(accumulation=16)) == pytest.approx(160.0)
    assert calibrated(lambda _: 2.0, {})(start) == 2.0
