"""Every rung on CUDA: what it claims to relieve is smaller in the allocator's own figures.

`pytest -m gpu tests/gpu` on a machine with one CUDA device or more; the stage of ZeRO is tried
where there are two. Asked for without a device these tests fail: nobody should take silence for
proof.
"""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path

import pytest

from autotune.cli.wiring import all_rungs
from autotune.core.allocator import NEW_NAME, merge, parse, show
from autotune.core.plan import BLOCKING, Plan
from tests import builders
from tests.e2e.real_start import VOCABULARY, Outcome, Subject

pytestmark = pytest.mark.gpu

MB = 10**6
ALLOCATED, RESERVED = "peak_allocated_bytes", "peak_reserved_bytes"
LLAMA = {
    "model_type": "llama", "vocab_size": VOCABULARY, "max_position_embeddings": 1024,
    "num_hidden_layers": 8, "hidden_size": 1024, "intermediate_size": 2816,
    "num_attention_heads": 16, "num_key_value_heads": 16, "tie_word_embeddings": True,
}  # fmt: skip


def ranks() -> int:
    """Return how many devices the tests use; fails where there is none."""
    import torch

    count: int = torch.cuda.device_count()
    assert count, "these tests were asked for, and there is no CUDA device"
    return min(2, count)


@pytest.fixture(scope="module")
def subject(tmp_path_factory: pytest.TempPathFactory) -> Subject:
    """About a hundred million parameters, and activations that outweigh them."""
    folder = tmp_path_factory.mktemp("gpu")
    return Subject(folder, LLAMA, sequence=1024, steps=4, every=2, rows=64, device="cuda").prepare()


def base() -> Plan:
    return builders.plan(
        world_size=ranks(), micro_batch=8, eval_micro_batch=32,
        reduce_bucket=5_000_000, allgather_bucket=5_000_000,
    )  # fmt: skip


def up(rung: str, plan: Plan) -> Plan:
    """Return `plan` one rung further on a GPU."""
    scene, chosen = builders.scene(plan), all_rungs()[rung]
    assert chosen.applies(scene) is None
    return chosen.apply(scene)


def shrinks(before: Outcome, after: Outcome, figure: str, at_least: int) -> None:
    one, other = before.peak(figure), after.peak(figure)
    print(f"{figure}: {one / MB:.0f} → {other / MB:.0f} MB")
    assert one - other >= at_least


def same_losses(one: Outcome, other: Outcome) -> None:
    """Half precision: the sums are in another order, and no more than that."""
    assert one.losses == pytest.approx({step: other.losses[step] for step in one.losses}, rel=0.01)


def test_smaller_buckets_reserve_less(subject: Subject) -> None:
    big = base().but(reduce_bucket=500_000_000, allgather_bucket=500_000_000)
    before = subject.start("default_buckets", big)
    after = subject.start("base", up("shrink_buckets", big))
    shrinks(before, after, RESERVED, 500 * MB)
    same_losses(after, before)


@pytest.mark.parametrize("rung", ["smaller_micro_batch", "activation_checkpointing"])
def test_activations_are_fewer(subject: Subject, rung: str) -> None:
    before = subject.start("base", base())
    after = subject.start(rung, up(rung, base()))
    shrinks(before, after, ALLOCATED, 500 * MB)
    same_losses(after, before)


def test_a_loss_in_pieces_holds_no_whole_logits(tmp_path: Path) -> None:
    wordy = {**LLAMA, "vocab_size": 65_536, "num_hidden_layers": 2}
    subject = Subject(tmp_path, wordy, sequence=1024, steps=4, every=4, device="cuda").prepare()
    plan = base().but(sequence=1024)
    before = subject.start("whole", plan)
    after = subject.start("chunked", up("chunked_loss", plan))
    assert after.settings["loss"] == "chunked"
    # 8 rows of 1024 tokens and 65,536 words are 2147 MB of logits in float32 alone.
    shrinks(before, after, ALLOCATED, 2_000 * MB)
    same_losses(after, before)


def test_checkpointed_activations_wait_on_the_host(subject: Subject) -> None:
    plan = up("activation_checkpointing", base())
    before = subject.start("activation_checkpointing", plan)
    after = subject.start("activation_offload", up("activation_offload", plan))
    assert after.settings["activation_offload"] is True
    # One input of 16 MB is kept by each of eight blocks, and all but the last are away at the peak.
    shrinks(before, after, ALLOCATED, 60 * MB)
    same_losses(after, before)


def test_eager_attention_gives_way_to_a_better_one(subject: Subject) -> None:
    plan = base().but(attention="eager")
    before = subject.start("eager", plan)
    after = subject.start("base", up("better_attention", plan))
    shrinks(before, after, ALLOCATED, 500 * MB)
    same_losses(after, before)


@pytest.mark.parametrize(
    ("rung", "optimizer"),
    [("eight_bit_optimizer", "AdamW 8-bit"), ("paged_optimizer", "AdamW 32-bit paged")],
)
def test_moments_take_less_of_the_device(subject: Subject, rung: str, optimizer: str) -> None:
    before = subject.start("base", base())
    after = subject.start(rung, up(rung, base()))
    assert after.settings["optimizer"] == optimizer
    # Eight bytes of moments become two, or lie in memory that the allocator does not count.
    moments = 8 * before.settings["parameters"] // ranks()
    assert before.held("allocated_bytes") - after.held("allocated_bytes") >= moments * 0.5
    assert after.losses == pytest.approx(before.losses, rel=0.05)


def test_an_evaluation_of_one_sample_peaks_lower(subject: Subject) -> None:
    plan = up("activation_checkpointing", base()).but(
        micro_batch=1, accumulation=8, eval_micro_batch=64
    )
    before = subject.start("eval_64", plan)
    after = subject.start("eval_1", up("eval_micro_batch", plan))
    assert before.evaluation_peak(ALLOCATED) - after.evaluation_peak(ALLOCATED) > 100 * MB
    same_losses(after, before)


def test_an_offloaded_optimizer_leaves_the_device(subject: Subject) -> None:
    before = subject.start("base", base())
    after = subject.start("offload_optimizer", up("offload_optimizer", base()), resume=(before, 2))
    assert after.settings["offload_optimizer"] == "cpu"
    # Two moments and a master copy, twelve bytes for each of the rank's parameters.
    state = 12 * before.settings["parameters"] // ranks()
    held = before.held("allocated_bytes") - after.held("allocated_bytes")
    print(f"allocated after a step: {held / MB:.0f} MB less, of {state / MB:.0f} MB of state")
    assert held >= state * 0.7
    same_losses(after, before)


def test_offloaded_parameters_leave_the_device(subject: Subject) -> None:
    plan = base().but(zero_stage=3)
    before = subject.start("stage_3", plan)
    after = subject.start("offload_param", up("offload_param", plan), resume=(before, 2))
    held = before.held("allocated_bytes") - after.held("allocated_bytes")
    assert held >= 2 * before.settings["parameters"] // ranks() * 0.5
    same_losses(after, before)


def test_a_base_in_four_bits_is_a_fraction_of_itself(subject: Subject) -> None:
    plan = base().but(method="lora", micro_batch=1, accumulation=8)
    before = subject.start("lora", plan)
    after = subject.start("nf4", up("four_bit", plan))
    assert after.settings["quantization"] == "nf4"
    assert before.held("allocated_bytes") - after.held("allocated_bytes") > 100 * MB


def test_four_bits_go_on_to_stage_three(subject: Subject) -> None:
    plan = base().but(method="lora", quantization="nf4", micro_batch=1, accumulation=8)
    before = subject.start("nf4", plan)
    after = subject.start("nf4_stage_3", plan.but(zero_stage=3), resume=(before, 2))
    same_losses(after, before)


def test_a_higher_stage_shares_more(subject: Subject) -> None:
    assert ranks() == 2, "sharing needs two CUDA devices"
    plan = base().but(zero_stage=1, micro_batch=1, accumulation=8)
    outcomes = [subject.start(f"zero_{n}", plan.but(zero_stage=n)) for n in (1, 2, 3)]
    held = [outcome.held("allocated_bytes") for outcome in outcomes]
    assert held[0] > held[1] > held[2]
    for outcome in outcomes[1:]:
        same_losses(outcome, outcomes[0])


def test_the_allocators_settings_are_in_force_inside_the_rank(subject: Subject) -> None:
    plan = up("allocator_settings", base().but(allocator=parse("max_split_size_mb:512")))
    after = subject.start("allocator", plan, env={NEW_NAME: show(plan.allocator)})
    assert after.settings["allocator"][NEW_NAME] == (
        "max_split_size_mb:512,expandable_segments:True"
    )


def test_launches_that_block_are_in_force_inside_the_rank(subject: Subject) -> None:
    before = subject.start("base", base())
    after = subject.start("blocking", up("blocking_launches", base()), env={BLOCKING: "1"})
    assert after.settings["blocking_launches"] is True
    same_losses(after, before)


def test_an_offload_that_pinned_host_memory_goes_on_without(subject: Subject) -> None:
    table = {"zero_optimization": {"offload_optimizer": {"pin_memory": True}}}
    pinning = dataclasses.replace(subject, deepspeed=table, started={})
    plan = base().but(offload_optimizer=True, pinned_memory=True)
    before = pinning.start("pinned", plan)
    after = pinning.start("unpinned", up("unpinned_memory", plan), resume=(before, 2))
    assert (before.settings["offload_pins"][0], after.settings["offload_pins"][0]) == (True, False)
    same_losses(after, before)


def test_a_plainer_attention_takes_the_same_steps(subject: Subject) -> None:
    before = subject.start("base", base())
    after = subject.start("eager", up("plainer_attention", base()))
    assert after.settings["attention"] == "eager"
    same_losses(after, before)


def test_the_allocators_cap_really_refuses(subject: Subject) -> None:
    import torch

    total = torch.cuda.get_device_properties(0).total_memory
    cap = 1_000 * MB
    settings = merge((), (("per_process_memory_fraction", f"{cap / total:.6f}"),))
    with pytest.raises(AssertionError, match="ended with"):
        subject.start("capped", base(), env={NEW_NAME: show(settings)})
    events = (subject.folder / "capped" / "events" / "rank0.jsonl").read_text().splitlines()
    failures = [e for e in map(json.loads, events) if e["kind"] == "exception"]
    assert failures
    assert re.search("out of memory", failures[0]["message"])
    assert failures[0]["memory"]["peak_reserved_bytes"] <= cap * 1.02
