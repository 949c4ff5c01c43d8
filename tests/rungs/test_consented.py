"""The rungs that change what is learned for the sake of memory, each only where it can."""

import dataclasses

import pytest

from autotune.core.plan import Plan
from autotune.core.rung import Result, Rung, Scene
from autotune.rungs import eight_bit_optimizer, lower_lora_rank, paged_optimizer, shorten_sequence
from tests import builders

EIGHT, PAGED = eight_bit_optimizer.RUNG, paged_optimizer.RUNG
SHORTER, LOWER = shorten_sequence.RUNG, lower_lora_rank.RUNG
ADAPTERS = builders.plan(method="lora", lora_rank=8)


def after_saving(plan: Plan) -> Scene:
    return dataclasses.replace(builders.scene(plan), checkpoints=(5,))


def why_not(rung: Rung, scene: Scene) -> str:
    return str(rung.applies(scene))


@pytest.mark.parametrize("rung", [EIGHT, PAGED, SHORTER, LOWER], ids=lambda rung: rung.name)
def test_it_needs_its_name_under_allow(rung: Rung) -> None:
    assert rung.result is Result.CHANGED


def test_eight_bits_and_pages_are_taken_one_after_the_other() -> None:
    scene = builders.scene(builders.plan())
    eight = EIGHT.apply(scene)
    assert (eight.optimizer, PAGED.apply(scene).optimizer) == ("adamw_8bit", "paged_adamw")
    assert PAGED.apply(builders.scene(eight)).optimizer == "paged_adamw_8bit"
    assert EIGHT.apply(builders.scene(PAGED.apply(scene))).optimizer == "paged_adamw_8bit"


@pytest.mark.parametrize("rung", [EIGHT, PAGED], ids=lambda rung: rung.name)
def test_an_optimizer_with_little_state_or_on_the_host_is_left_alone(rung: Rung) -> None:
    assert "too few moments" in why_not(rung, builders.scene(ADAPTERS))
    offloaded = builders.scene(builders.plan(offload_optimizer=True))
    assert "the optimizer is on the host" in why_not(rung, offloaded)


def test_nothing_is_paged_on_the_cpu_or_after_a_checkpoint() -> None:
    on_cpu = builders.scene(where=builders.around(device="cpu"))
    assert "trains on the CPU" in why_not(PAGED, on_cpu)
    assert "are not paged" in why_not(PAGED, after_saving(builders.plan()))
    assert EIGHT.applies(after_saving(builders.plan())) is None


@pytest.mark.parametrize(("before", "after"), [(2048, 1024), (513, 256), (512, 256)])
def test_samples_are_cut_to_half(before: int, after: int) -> None:
    scene = builders.scene(builders.plan(sequence=before))
    assert SHORTER.applies(scene) is None
    assert SHORTER.apply(scene) == builders.plan(sequence=after)


def test_samples_are_not_cut_below_the_floor_nor_where_they_are_packed() -> None:
    assert "less than 256" in why_not(SHORTER, builders.scene(builders.plan(sequence=511)))
    assert "does not say" in why_not(SHORTER, builders.scene(builders.plan(sequence=0)))
    packed = builders.scene(builders.plan(sequence=4096), where=builders.around(packing=True))
    assert "other samples" in why_not(SHORTER, packed)


def test_adapters_lose_rank_only_before_they_are_saved() -> None:
    assert LOWER.applies(builders.scene(ADAPTERS)) is None
    assert LOWER.apply(builders.scene(ADAPTERS)).lora_rank == 4
    assert "less than 4" in why_not(LOWER, builders.scene(ADAPTERS.but(lora_rank=7)))
    assert "begin anew" in why_not(LOWER, after_saving(ADAPTERS))
    assert "no adapters" in why_not(LOWER, builders.scene())
