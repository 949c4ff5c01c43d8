"""What is predicted adds up, grows with what is asked for, and matches traced and measured runs."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as some

from autotune.core.memory.activations import Activations, Point, activations_of
from autotune.core.memory.counts import count, nf4_bytes
from autotune.core.memory.forecast import Moment
from autotune.core.memory.plain import OPTIMIZERS
from autotune.core.memory.predict import forecast
from autotune.core.memory.reading import read_shape
from autotune.core.memory.shape import ModelShape
from autotune.core.memory.traced import Traced
from autotune.core.memory.workload import Subject, Tile, Workload
from autotune.core.plan import Plan
from tests.core.memory.configs import CONFIGS

START = Plan(
    world_size=1,
    micro_batch=2,
    accumulation=1,
    eval_micro_batch=2,
    method="full",
    quantization="none",
    dtype="bf16",
    activation_checkpointing=False,
    zero_stage=0,
    offload_optimizer=False,
    offload_param=False,
    reduce_bucket=500_000_000,
    allgather_bucket=500_000_000,
    gather_on_save=False,
)


def workload(name: str = "llama-2-7b", sequence: int = 512, **changes: Any) -> Workload:
    config = dict(CONFIGS[name])
    subject = {key: changes.pop(key) for key in [*changes] if key in Subject.__dataclass_fields__}
    config |= changes.pop("config", {})
    shape = read_shape(config)
    assert isinstance(shape, ModelShape)
    device = subject.pop("device", "cpu")
    return Workload(Subject(shape, device, sequence, **subject), START.but(**changes))


PLANS = some.fixed_dictionaries(
    {
        "name": some.sampled_from([*CONFIGS]),
        "sequence": some.integers(1, 8192),
        "micro_batch": some.integers(1, 64),
        "accumulation": some.integers(1, 3),
        "method": some.sampled_from(["full", "lora"]),
        "dtype": some.sampled_from(["bf16", "fp16", "fp32"]),
        "activation_checkpointing": some.booleans(),
        "attention": some.sampled_from(["sdpa", "eager", "flash_attention_2"]),
        "loss": some.sampled_from(["whole", "chunked"]),
        "optimizer": some.sampled_from(["adamw", "adamw_8bit", "paged_adamw_8bit"]),
        "activation_offload": some.booleans(),
        "lora_rank": some.integers(1, 128),
        "lora_dropout": some.sampled_from([0.0, 0.1]),
        "adapter_dtype": some.sampled_from(["plan", "fp32"]),
        "padded": some.booleans(),
        "keeps_outputs": some.booleans(),
        "evaluates": some.booleans(),
        "device": some.sampled_from(["cpu", "cuda"]),
    }
)


@given(PLANS)
def test_the_parts_add_up_to_the_peak(asked: dict[str, Any]) -> None:
    found = forecast(workload(**asked))
    assert sum(found.parts.values()) == found.peak
    assert all(isinstance(size, int) and size >= 0 for size in found.parts.values())
    assert found.peak == found.tensors + found.overhead + found.outside


@given(PLANS, some.sampled_from(["micro_batch", "sequence", "lora_rank"]))
def test_more_of_anything_never_takes_less(asked: dict[str, Any], what: str) -> None:
    more = {**asked, what: asked[what] * 2}
    assert forecast(workload(**more)).peak >= forecast(workload(**asked)).peak


@given(PLANS)
def test_no_point_of_a_pass_is_below_nothing(asked: dict[str, Any]) -> None:
    given_ = workload(**asked)
    found = activations_of(given_)
    assert min(found.forward, found.evaluation, found.loss, found.host) >= 0
    for point in found.backward:
        assert 0 <= point.gradients <= count(given_).trainable


# Bytes of the highest point of the backward pass above the weights, in traces of four blocks of
# transformers 5.23 over 2 x 512 tokens and 2000 words of vocabulary, on the CPU.
TRACED = {
    ("llama-2-7b", "full", False): 1_744_512_000,
    ("llama-2-7b", "full", True): 1_753_691_136,
    ("llama-2-7b", "lora", False): 785_609_728,
    ("llama-2-7b", "lora", True): 263_414_784,
    ("gemma-2b", "full", False): 994_464_768,
    ("gemma-2b", "full", True): 999_187_456,
    ("gemma-2b", "lora", False): 743_871_488,
    ("gemma-2b", "lora", True): 259_453_952,
}


@pytest.mark.parametrize(("name", "method", "checkpointing"), TRACED)
def test_a_backward_pass_takes_what_a_trace_of_it_shows(
    name: str, method: str, checkpointing: bool
) -> None:
    asked = workload(
        name,
        config={"num_hidden_layers": 4, "vocab_size": 2000},
        method=method,
        activation_checkpointing=checkpointing,
    )
    found = max(one.activations + 2 * one.gradients for one in activations_of(asked).backward)
    assert found == pytest.approx(TRACED[name, method, checkpointing], rel=0.02)


def test_checkpointing_keeps_two_bytes_of_the_hidden_size_per_token_and_layer() -> None:
    def kept(layers: int) -> int:
        asked = workload(config={"num_hidden_layers": layers}, activation_checkpointing=True)
        return activations_of(asked).forward

    assert kept(9) - kept(8) == 2 * 4096 * 1024


def test_the_whole_loss_takes_twelve_bytes_of_each_word_and_token_in_the_backward_pass() -> None:
    tokens = 1024
    small, large = (
        activations_of(workload(config={"vocab_size": size, "num_hidden_layers": 1}))
        for size in (500_000, 500_001)
    )
    assert large.backward[0].activations - small.backward[0].activations == 12 * tokens


def test_a_loss_in_pieces_does_not_grow_with_the_vocabulary_times_the_tokens() -> None:
    whole = activations_of(workload("qwen2.5-0.5b", sequence=8192))
    pieces = activations_of(workload("qwen2.5-0.5b", sequence=8192, loss="chunked"))
    assert pieces.loss < whole.loss / 10


@pytest.mark.parametrize(("dtype", "each"), [("bf16", 6), ("fp32", 4)])
def test_of_a_piece_of_the_loss_the_logits_and_one_float32_copy_live(dtype: str, each: int) -> None:
    small, large = (
        activations_of(
            workload(config={"vocab_size": size}, method="lora", loss="chunked", dtype=dtype)
        ).loss
        for size in (500_000, 500_001)
    )
    assert large - small == each * 512


TILE = Tile(tokens=4096, words=32768)


@pytest.mark.parametrize(("tokens", "rows"), [(1024, 1024), (4096, 4096), (65536, 4096)])
def test_a_tile_of_a_loss_is_reserved_whole_and_once(tokens: int, rows: int) -> None:
    tiled, pieces = (
        activations_of(
            workload(sequence=tokens, micro_batch=1, loss="chunked", device="cuda", tile=tile)
        )
        for tile in (TILE, None)
    )
    states = 2 * 4096 * tokens  # the vocabulary of 32000 counts for nothing
    assert tiled.loss == 2 * rows * 32768 + states
    head = 4 * (32000 * 4096 + 4096 * tokens)  # gradients in fp32, of the head and of the states
    grown = tiled.backward[0].activations - pieces.backward[0].activations
    assert grown == tiled.loss + head - states


def test_without_a_gpus_kernel_a_tile_is_folded_in_copies_of_itself() -> None:
    """Measured of TRL 1.16's own function: 4096 tokens, 8192 words, fp32, beside the tile."""
    small = {"vocab_size": 8192, "hidden_size": 64}
    small |= {"num_attention_heads": 1, "num_key_value_heads": 1}
    asked = workload(
        config=small, sequence=4096, micro_batch=1, loss="chunked", tile=TILE, dtype="fp32"
    )
    found, mib = activations_of(asked).loss, 2**20
    assert found - 512 * mib - 4 * 64 * 4096 == pytest.approx(432 * mib, rel=0.05)


def test_a_tile_leaves_the_allocator_nothing_but_the_heads_gradient_to_lose() -> None:
    tiled, pieces = (
        forecast(workload(device="cuda", method="lora", loss="chunked", tile=tile)).overhead
        for tile in (TILE, None)
    )
    assert (tiled, pieces > 0) == (0, True)


def test_double_quantization_takes_half_a_byte_and_an_eighth_of_a_bit_more() -> None:
    plain, double = nf4_bytes(1 << 30, 1, False), nf4_bytes(1 << 30, 1, True)
    assert plain == pytest.approx((1 << 30) * (0.5 + 4 / 64), rel=1e-5)
    assert double == pytest.approx((1 << 30) * (0.5 + 1 / 64 + 4 / 64 / 256), rel=1e-5)


def test_no_adapter_and_no_4_bit_reach_experts_stacked_in_one_tensor() -> None:
    found = count(workload("mixtral-8x7b", method="lora", quantization="nf4"))
    assert found.four_bit == 32 * (2 * 4096 * 4096 + 2 * 4096 * 1024)


def test_full_training_keeps_weights_gradients_and_two_states_in_the_step() -> None:
    asked = workload()
    found = forecast(asked).moments[Moment.SECOND_STEP].peak
    assert found == 4 * 2 * asked.subject.shape.parameters


def test_an_optimizer_of_8_bit_keeps_two_bytes_per_parameter_and_its_scales() -> None:
    eight, full = (
        forecast(workload(optimizer=name)).moments[Moment.SAVE].peak
        for name in ("adamw_8bit", "adamw")
    )
    parameters = workload().subject.shape.parameters
    assert full - eight == pytest.approx(parameters * (2 - 8 / 256), rel=1e-6)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_every_named_optimizer_is_predicted(optimizer: str) -> None:
    assert forecast(workload(), optimizer=optimizer).peak > 0


def test_a_loss_in_pieces_leaves_the_allocator_pieces_to_lose() -> None:
    few, many = (
        forecast(workload(device="cuda", loss="chunked", micro_batch=1, sequence=n))
        for n in (2048, 8192)
    )
    assert few.overhead == many.overhead
    whole = forecast(workload(device="cuda", micro_batch=1, sequence=8192))
    assert whole.overhead > 2 * few.overhead > 0


def test_segments_that_grow_leave_the_allocator_less_to_lose() -> None:
    grown = (("expandable_segments", "True"),)
    for loss in ("whole", "chunked"):
        plain, growing = (
            forecast(workload(device="cuda", loss=loss, allocator=allocator)).overhead
            for allocator in ((), grown)
        )
        assert plain > growing > 0


def test_the_more_the_allocator_may_lose_the_wider_the_interval() -> None:
    short, long = (
        forecast(workload(device="cuda", method="lora", sequence=n)) for n in (128, 8192)
    )
    assert long.overhead / long.tensors > short.overhead / short.tensors
    assert long.spread > short.spread


def test_a_doubted_shape_gets_a_wider_interval() -> None:
    known = forecast(workload())
    doubted = forecast(workload(config={"model_type": "novel"}))
    assert doubted.spread > known.spread
    assert doubted.doubts


def traced(bytes_: int) -> Traced:
    found = Activations(bytes_, (Point(bytes_, 0),), bytes_, 0)
    return Traced(found, overhead_bytes=70, overhead_expandable_bytes=40, seconds=1)


def test_a_trace_says_what_the_allocator_of_a_gpu_reserves_as_the_plan_sets_it() -> None:
    asked = workload(device="cuda")
    growing = workload(device="cuda", allocator=(("expandable_segments", "True"),))
    assert forecast(asked, traced(5)).overhead == 70
    assert forecast(growing, traced(5)).overhead == 40
    assert forecast(workload(), traced(5)).overhead == 0
    assert forecast(asked, traced(5)).spread < forecast(asked).spread


def test_adapters_on_stacked_experts_are_doubted_unless_they_are_left_out() -> None:
    assert forecast(workload("mixtral-8x7b", method="lora")).doubts
    assert not forecast(workload("mixtral-8x7b", method="lora", lora_targets=("q_proj",))).doubts
    assert not forecast(workload("mixtral-8x7b")).doubts


def test_on_the_cpu_the_base_is_told_before_the_libraries_are_all_there() -> None:
    found = forecast(workload(base_bytes=200 << 20))
    assert found.outside + found.moments[Moment.BASE].held == 200 << 20
    assert Moment.BASE not in forecast(workload(device="cuda")).moments
