"""Every rung under real DeepSpeed: in force inside the rank, smaller where it says, loss kept.

Two ranks on the CPU in single precision, each subject started once for its base plan and once for
every rung. Memory is VmData as the ranks themselves report it, which is what the limit counts.
Offload relieves nothing on a CPU (the memory is the same): there it must start, go on from a
checkpoint written without it, and keep the loss; tests/gpu shows that it moves memory.

`pytest tests/e2e/test_rungs_for_real.py -m "train or slow" -rP` prints each figure.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from autotune.cli.wiring import all_rungs
from autotune.core.allocator import NEW_NAME, show
from autotune.core.carry import CarryKind
from autotune.core.failure import Failure
from autotune.core.plan import Plan
from tests import builders
from tests.e2e.real_start import VOCABULARY, Outcome, Subject

MB = 10**6
LLAMA = {"model_type": "llama", "vocab_size": VOCABULARY, "max_position_embeddings": 512}
DEFAULT_BUCKETS = builders.plan(dtype="fp32", micro_batch=8, eval_micro_batch=32, sequence=512)
SMALL_BUCKETS = DEFAULT_BUCKETS.but(reduce_bucket=5_000_000, allgather_bucket=5_000_000)
ONE_SAMPLE = SMALL_BUCKETS.but(micro_batch=1, eval_micro_batch=1, sequence=16)
ADAPTERS = ONE_SAMPLE.but(method="lora", lora_rank=8)
# Without these a small model stays gathered whole, and stage 3 could not be seen to share it.
LIVE_PARAMETERS = {
    "stage3_max_live_parameters": 1_000_000,
    "stage3_max_reuse_distance": 1_000_000,
    "stage3_param_persistence_threshold": 10_000,
}


@pytest.fixture(scope="module")
def deep(tmp_path_factory: pytest.TempPathFactory) -> Subject:
    """A model whose activations outweigh its weights."""
    shape = {"num_hidden_layers": 4, "hidden_size": 256, "intermediate_size": 688}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 4}
    folder = tmp_path_factory.mktemp("deep")
    return Subject(folder, {**LLAMA, **shape, **heads}, sequence=512, steps=4, every=1).prepare()


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> Subject:
    """A model whose weights, 72 million in a few large matrices, outweigh everything else."""
    shape = {"num_hidden_layers": 1, "hidden_size": 2048, "intermediate_size": 8192}
    heads = {"num_attention_heads": 16, "num_key_value_heads": 16, "tie_word_embeddings": True}
    return Subject(
        tmp_path_factory.mktemp("wide"),
        {**LLAMA, **shape, **heads},
        sequence=16,
        steps=2,
        every=1,
        rows=8,
        deepspeed={"zero_optimization": LIVE_PARAMETERS},
    ).prepare()


def up(rung: str, plan: Plan) -> Plan:
    """Return `plan` one rung further on the CPU."""
    scene = builders.scene(plan, where=builders.around(device="cpu"))
    chosen = all_rungs()[rung]
    assert chosen.applies(scene) is None
    return chosen.apply(scene)


def with_default_buckets(deep: Subject) -> Outcome:
    return deep.start("default_buckets", DEFAULT_BUCKETS)


def with_small_buckets(deep: Subject) -> Outcome:
    return deep.start("small_buckets", up("shrink_buckets", DEFAULT_BUCKETS))


def checkpointing(deep: Subject) -> Outcome:
    return deep.start("checkpointing", up("activation_checkpointing", SMALL_BUCKETS))


def offloading(deep: Subject) -> Outcome:
    """Return the optimizer on the host, from step 2 of a training without."""
    plan = SMALL_BUCKETS.but(offload_optimizer=True, allocator=(("expandable_segments", "True"),))
    env = {NEW_NAME: show(plan.allocator)}
    return deep.start("offloading", plan, resume=(with_small_buckets(deep), 2), env=env)


def shrinks(what: str, before: int, after: int, at_least: int) -> None:
    print(f"{what}: {before / MB:.0f} → {after / MB:.0f} MB, {(before - after) / MB:.0f} less")
    assert before - after >= at_least


def same_steps(one: Outcome, other: Outcome) -> None:
    """The steps of `one` took the samples that `other` took and came to the same losses."""
    assert one.losses
    assert one.losses == pytest.approx({step: other.losses[step] for step in one.losses}, rel=1e-4)
    assert one.samples == {step: other.samples[step] for step in one.samples}
    assert len(one.events("eval")) == 1  # at the last step, and not once more at its epoch's end


def differing(one: Outcome, other: Outcome) -> dict[str, tuple[Any, Any]]:
    """Return what is in force in the one and not in the other, both as the ranks read it."""
    pairs = {key: (one.settings[key], other.settings[key]) for key in one.settings}
    return {key: pair for key, pair in pairs.items() if pair[0] != pair[1]}


@pytest.mark.train
def test_smaller_buckets_give_back_what_they_held(deep: Subject) -> None:
    before, after = with_default_buckets(deep), with_small_buckets(deep)
    assert differing(before, after) == {
        "reduce_bucket_elements": (500_000_000, 5_000_000),
        "allgather_bucket_elements": (500_000_000, 5_000_000),
    }
    # Half a billion elements of four bytes are 2 GB; something is kept in the small bucket.
    shrinks("shrink_buckets, peak", before.peak(), after.peak(), 1500 * MB)
    same_steps(after, before)


@pytest.mark.slow
def test_a_smaller_micro_batch_holds_fewer_activations(deep: Subject) -> None:
    before = with_small_buckets(deep)
    after = deep.start("micro_batch_4", up("smaller_micro_batch", SMALL_BUCKETS))
    assert differing(before, after) == {
        "micro_batch": (8, 4), "accumulation": (1, 2), "eval_micro_batch": (32, 4),
    }  # fmt: skip
    shrinks("smaller_micro_batch, peak", before.peak(), after.peak(), 100 * MB)
    same_steps(after, before)


@pytest.mark.train
def test_checkpointed_activations_are_not_held(deep: Subject) -> None:
    before, after = with_small_buckets(deep), checkpointing(deep)
    assert differing(before, after) == {"activation_checkpointing": (False, True)}
    shrinks("activation_checkpointing, peak", before.peak(), after.peak(), 100 * MB)
    same_steps(after, before)


@pytest.fixture(scope="module")
def wordy(tmp_path_factory: pytest.TempPathFactory) -> Subject:
    """A small model of many words, whose logits outweigh everything else."""
    shape = {"num_hidden_layers": 1, "hidden_size": 64, "intermediate_size": 128}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 4, "tie_word_embeddings": True}
    many = {**LLAMA, **shape, **heads, "vocab_size": 16_384}
    folder = tmp_path_factory.mktemp("wordy")
    return Subject(folder, many, sequence=512, steps=2, every=2).prepare()


def in_pieces(subject: Subject, before: Outcome) -> Outcome:
    """Return the same training with its loss taken in pieces, which is shown to be the same."""
    after = subject.start(f"chunked_{before.plan.zero_stage}", up("chunked_loss", before.plan))
    assert differing(before, after) == {"loss": ("whole", "chunked")}
    same_steps(after, before)
    (one,), (other,) = before.events("eval"), after.events("eval")
    assert one["loss"] == pytest.approx(other["loss"], rel=1e-4)
    return after


@pytest.mark.slow
def test_a_loss_in_pieces_takes_the_same_steps_and_holds_no_whole_logits(wordy: Subject) -> None:
    before = wordy.start("whole", SMALL_BUCKETS)
    # The logits of 8 rows of 512 tokens are 268 MB, and held three times in the backward pass.
    shrinks("chunked_loss, peak", before.peak(), in_pieces(wordy, before).peak(), 500 * MB)


@pytest.mark.slow
def test_a_loss_in_pieces_takes_the_same_steps_at_stage_three(deep: Subject) -> None:
    in_pieces(deep, deep.start("stage_3", SMALL_BUCKETS.but(zero_stage=3)))


@pytest.mark.slow
def test_activations_on_the_host_take_the_same_steps(deep: Subject) -> None:
    """On a CPU nothing moves; what is in force and the loss are all that can be shown here."""
    before = checkpointing(deep)
    after = deep.start("activation_offload", before.plan.but(activation_offload=True))
    assert differing(before, after) == {"activation_offload": (False, True)}
    same_steps(after, before)


@pytest.mark.slow
def test_eager_attention_gives_way_to_a_better_one(deep: Subject) -> None:
    before = deep.start("eager", SMALL_BUCKETS.but(attention="eager"))
    after = deep.start("small_buckets", up("better_attention", before.plan))
    assert differing(before, after) == {"attention": ("eager", "sdpa")}
    same_steps(after, before)


@pytest.mark.slow
def test_moments_in_eight_bits_begin_anew_from_a_checkpoint(deep: Subject) -> None:
    before = with_small_buckets(deep)
    after = deep.start("eight_bits", up("eight_bit_optimizer", before.plan), resume=(before, 2))
    assert after.began_from.kind is CarryKind.STAGED_WITHOUT_MOMENTS
    assert after.settings["optimizer"] == "AdamW 8-bit"
    rates = {event["step"]: event["lr"] for event in before.events("step")}
    assert all(event["lr"] == pytest.approx(rates[event["step"]]) for event in after.events("step"))
    assert after.samples == {step: before.samples[step] for step in (3, 4)}
    assert after.losses == pytest.approx({s: before.losses[s] for s in (3, 4)}, rel=0.05)
    again = deep.start("eight_bits_again", after.plan, resume=(after, 3))
    assert again.began_from.kind is CarryKind.SAME
    assert again.losses == pytest.approx({4: after.losses[4]}, rel=1e-3)


@pytest.mark.slow
def test_shorter_samples_are_the_same_samples(deep: Subject) -> None:
    before = with_small_buckets(deep)
    after = deep.start("shorter", up("shorten_sequence", before.plan), resume=(before, 2))
    assert after.began_from.kind is CarryKind.SAME
    assert after.settings["sequence"] == 256
    assert {event["max_length"] for event in after.events("step")} == {256}
    assert after.samples == {step: before.samples[step] for step in (3, 4)}


@pytest.mark.slow
def test_adapters_of_half_the_rank_hold_half_the_parameters(wide: Subject) -> None:
    before = wide.start("adapters", ADAPTERS)
    after = wide.start("adapters_rank_4", up("lower_lora_rank", before.plan))
    assert (before.settings["lora_rank"], after.settings["lora_rank"]) == (8, 4)
    trained = "trainable_parameters"
    assert after.settings[trained] * 2 == before.settings[trained]
    assert after.samples == before.samples


@pytest.mark.slow
def test_an_evaluation_of_one_sample_at_a_time_peaks_lower(deep: Subject) -> None:
    before = checkpointing(deep)
    after = deep.start("eval_1", up("eval_micro_batch", before.plan))
    assert differing(before, after) == {"eval_micro_batch": (32, 1)}
    shrinks(
        "eval_micro_batch, evaluation's peak",
        before.evaluation_peak(), after.evaluation_peak(), 60 * MB,
    )  # fmt: skip
    same_steps(after, before)
    (one,), (other,) = before.events("eval"), after.events("eval")
    assert one["loss"] == pytest.approx(other["loss"], rel=1e-4)


@pytest.mark.slow
def test_an_optimizer_on_the_host_goes_on_from_a_checkpoint_written_without(deep: Subject) -> None:
    before, after = with_small_buckets(deep), offloading(deep)
    assert after.began_from.kind is CarryKind.SAME
    assert differing(before, after) == {
        "offload_optimizer": ("none", "cpu"),
        "allocator": (before.settings["allocator"], after.settings["allocator"]),
    }
    assert min(after.losses) == 3
    same_steps(after, before)


@pytest.mark.slow
def test_the_allocators_settings_are_seen_inside_the_rank(deep: Subject) -> None:
    for rank in range(2):
        (settings,) = offloading(deep).events("settings", rank)
        assert settings["allocator"][NEW_NAME] == "expandable_segments:True"


@pytest.mark.slow
def test_a_training_comes_back_from_the_host(deep: Subject) -> None:
    base, before = with_small_buckets(deep), offloading(deep)
    plan = up("drop_offload", before.plan.but(allocator=()))
    after = deep.start("dropped", plan, resume=(before, 3))
    assert after.began_from.kind is CarryKind.SAME
    assert differing(base, after) == {}
    assert min(after.losses) == 4
    same_steps(after, base)


def at_stage(wide: Subject, stage: int) -> Outcome:
    """Return the wide model trained in full at a ZeRO stage, reached rung by rung."""
    plan = ONE_SAMPLE.but(zero_stage=1)
    while plan.zero_stage < stage:
        plan = up("zero_up", plan)
    return wide.start(f"stage_{stage}", plan)


@pytest.mark.slow
def test_stage_two_takes_the_same_steps(wide: Subject) -> None:
    """Its relief is not asserted: the CPU's heap hides it in one start and shows it in another.

    Gradients are gone again when a step is over, so only the peak can show them; in three starts
    it went from 1792 to 1716, from 1889 to 1700 and from 1800 to 1799 MB. tests/gpu measures it.
    """
    before, after = at_stage(wide, 1), at_stage(wide, 2)
    assert differing(before, after) == {"zero_stage": (1, 2)}
    same_steps(after, before)


@pytest.mark.slow
def test_stage_three_takes_the_same_steps(wide: Subject) -> None:
    """Two ranks on a CPU do not show that it relieves anything, so no figure is asserted.

    In full, half of the parameters goes (143 MB) and two permanent partitions of the gradients
    come (143 MB each), which stage 2 holds during the backward pass only: the peak went from 1700
    to 1889 MB. Under adapters of four such layers a rank stood at 1228 to 1819 MB before the first
    step, differently from start to start as loading leaves more or less behind, against 1664 MB at
    stage 2, and higher than there once a step had gathered weights. tests/gpu measures it.
    """
    before, after = at_stage(wide, 2), at_stage(wide, 3)
    assert (before.settings["zero_stage"], after.settings["zero_stage"]) == (2, 3)
    same_steps(after, before)


@pytest.mark.slow
def test_stage_three_takes_the_same_steps_under_adapters(wide: Subject) -> None:
    before = wide.start("adapters", ADAPTERS)
    after = wide.start("adapters_stage_3", up("zero_up", ADAPTERS))
    assert (before.settings["zero_stage"], after.settings["zero_stage"]) == (2, 3)
    same_steps(after, before)


@pytest.mark.slow
def test_a_stage_higher_goes_on_from_a_converted_checkpoint(wide: Subject) -> None:
    before = at_stage(wide, 2)
    after = wide.start("stage_3_resumed", up("zero_up", before.plan), resume=(before, 1))
    assert after.began_from.kind is CarryKind.STAGED
    assert min(after.losses) == 2
    same_steps(after, before)


@pytest.mark.slow
def test_shards_saved_without_gathering_are_enough_to_go_on_from(wide: Subject) -> None:
    gathered = at_stage(wide, 3)
    plan = up("save_without_gather", gathered.plan)
    shards = wide.start("shards_only", plan)
    assert differing(gathered, shards) == {"gather_on_save": (True, False)}
    assert model_files(gathered.checkpoint(2))
    assert not model_files(shards.checkpoint(2))
    assert list(shards.checkpoint(2).glob("global_step*/*optim_states.pt"))
    resumed = wide.start("shards_resumed", plan, resume=(shards, 1))
    assert min(resumed.losses) == 2
    same_steps(resumed, shards)


def model_files(checkpoint: Path) -> list[Path]:
    """Return the files of whole weights, however large transformers found them."""
    return [
        path
        for path in (*checkpoint.glob("model*.safetensors"), *checkpoint.glob("pytorch_model*.bin"))
        if path.stat().st_size > MB
    ]


@pytest.mark.slow
def test_a_base_in_four_bits_is_a_fraction_of_itself(wide: Subject) -> None:
    before = wide.start("adapters", ADAPTERS)
    after = wide.start("adapters_nf4", up("four_bit", ADAPTERS))
    in_force = differing(before, after)
    assert in_force.pop("quantization") == ("none", "nf4")
    assert in_force.pop("four_bit_compute") == (None, "float32")
    in_force.pop("parameters", None)  # two 4-bit weights are packed into one number
    assert in_force == {}
    # 67 million of the weights of four bytes become half a byte each: 235 MB less.
    shrinks("four_bit, held after a step", before.held(), after.held(), 120 * MB)
    assert after.losses == pytest.approx(before.losses, rel=0.05)
    assert after.samples == before.samples


@pytest.mark.slow
def test_adapters_on_four_bits_go_on_to_stage_three(wide: Subject) -> None:
    below = wide.start("adapters_nf4", up("four_bit", ADAPTERS))
    above = wide.start("adapters_nf4_stage_3", up("zero_up", below.plan), resume=(below, 1))
    assert (above.settings["zero_stage"], above.settings["quantization"]) == (3, "nf4")
    assert above.began_from.kind is CarryKind.STAGED
    assert above.losses == pytest.approx({2: below.losses[2]}, rel=1e-3)


@pytest.mark.slow
def test_parameters_on_the_host_go_on_from_a_checkpoint_written_without(wide: Subject) -> None:
    before = at_stage(wide, 3)
    plan = before.plan.but(offload_param=True, offload_optimizer=True)
    after = wide.start("offloaded_parameters", plan, resume=(before, 1))
    assert after.began_from.kind is CarryKind.SAME
    assert (after.settings["offload_param"], after.settings["offload_optimizer"]) == ("cpu", "cpu")
    same_steps(after, before)


@pytest.mark.slow
def test_samples_come_in_the_same_order_with_and_without_loader_workers(deep: Subject) -> None:
    before = deep.start("two_workers", SMALL_BUCKETS.but(loader_workers=2))
    after = deep.start("small_buckets", up("no_loader_workers", before.plan))
    assert differing(before, after) == {"loader_workers": (2, 0)}
    same_steps(after, before)


@pytest.mark.slow
def test_a_plainer_attention_takes_the_same_steps(deep: Subject) -> None:
    before = with_small_buckets(deep)
    after = deep.start("eager", up("plainer_attention", before.plan))
    assert differing(before, after) == {"attention": ("sdpa", "eager")}
    same_steps(after, before)


@pytest.mark.slow
def test_half_precision_goes_on_in_single_from_a_converted_checkpoint(deep: Subject) -> None:
    before = deep.start("bf16", SMALL_BUCKETS.but(dtype="bf16"))
    after = deep.start("fp32", up("change_dtype", before.plan), resume=(before, 2))
    assert after.began_from.kind is CarryKind.STAGED
    assert differing(before, after) == {"dtype": ("bfloat16", "float32")}
    assert min(after.losses) == 3
    assert after.losses == pytest.approx({s: before.losses[s] for s in after.losses}, rel=0.01)
    assert after.samples == {step: before.samples[step] for step in after.samples}


@pytest.mark.slow
def test_one_rank_goes_on_from_what_two_have_saved(deep: Subject) -> None:
    before = with_small_buckets(deep)
    where = builders.around(gpus=(0, 1))
    broken = builders.diagnosis(Failure.GPU_HARDWARE, rank=1)
    plan = all_rungs()["exclude_device"].apply(builders.scene(before.plan, broken, where))
    assert (plan.world_size, plan.excluded, plan.accumulation) == (1, (1,), 2)
    after = deep.start("one_rank", plan, resume=(before, 2))
    assert after.began_from.kind is CarryKind.STAGED
    assert (after.settings["world_size"], after.settings["global_batch"]) == (1, 16)
    assert min(after.losses) == 3
    same_steps(after, before)


@pytest.mark.slow
def test_four_bit_layers_multiply_in_single_precision(wide: Subject) -> None:
    plan = up("four_bit", ADAPTERS.but(dtype="bf16"))
    before = wide.start("adapters_nf4_bf16", plan)
    after = wide.start("adapters_nf4_in_fp32", up("four_bit_compute", plan), resume=(before, 1))
    assert after.began_from.kind is CarryKind.SAME
    assert differing(before, after) == {"four_bit_compute": ("bfloat16", "float32")}
    assert after.losses == pytest.approx({2: before.losses[2]}, rel=0.02)


@pytest.mark.slow
def test_adapters_on_four_bits_come_back_from_stage_three(wide: Subject) -> None:
    high = wide.start("nf4_stage_3_afresh", up("zero_up", up("four_bit", ADAPTERS)))
    after = wide.start("nf4_stage_2_after_3", up("zero_down", high.plan), resume=(high, 1))
    assert (after.settings["zero_stage"], after.settings["quantization"]) == (2, "nf4")
    assert after.began_from.kind is CarryKind.STAGED
    assert after.losses == pytest.approx({2: high.losses[2]}, rel=1e-3)


@pytest.mark.slow
def test_adapters_go_on_over_a_base_that_is_not_quantized_any_more(wide: Subject) -> None:
    before = wide.start("adapters_nf4", up("four_bit", ADAPTERS))
    after = wide.start("adapters_again", up("unquantize", before.plan), resume=(before, 1))
    assert after.settings["quantization"] == "none"
    assert after.losses == pytest.approx({2: before.losses[2]}, rel=0.05)


def test_every_rung_of_the_folder_is_tried_for_real_here() -> None:
    text = Path(__file__).read_text()
    unproven = {name for name, rung in all_rungs().items() if f'"{name}"' not in text}
    # On a CPU these say that they do not apply. The first three are put into the plan by hand.
    need_a_gpu = {"offload_optimizer", "offload_param", "allocator_settings"}
    need_a_gpu |= {"unpinned_memory", "blocking_launches", "paged_optimizer", "activation_offload"}
    # These change no setting that a rank could report; tests/e2e/test_deeds.py tries what they do.
    keep_the_plan = {name for name, rung in all_rungs().items() if rung.keeps_plan}
    # tests/e2e/test_overlay.py lays other versions over a Python; this trainer has none to swap.
    assert unproven <= need_a_gpu | keep_the_plan | {"pin_packages"}
