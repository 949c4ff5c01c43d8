"""How a checkpoint of one plan becomes the start of another."""

from __future__ import annotations

import ast
from dataclasses import replace
from pathlib import Path

import pytest

from autotune.core import carry
from autotune.core.carry import CarryKind, SavedShape, WantedShape, decide_carry

FULL = {"zero_stage": 2, "world_size": 2}


def saved(**changes: object) -> SavedShape:
    return SavedShape(**{**FULL, **changes})  # type: ignore[arg-type]


def wanted(**changes: object) -> WantedShape:
    return WantedShape(**{**FULL, **changes})  # type: ignore[arg-type]


def test_nothing_saved_is_a_fresh_start() -> None:
    assert decide_carry(None, wanted()).kind is CarryKind.FRESH
    assert decide_carry(None, wanted(zero_stage=0)).kind is CarryKind.FRESH


def test_without_zero_whole_tensors_resume_under_any_number_of_ranks() -> None:
    answer = decide_carry(saved(zero_stage=0), wanted(zero_stage=0, world_size=4))
    assert (answer.kind, answer.ds_overrides) == (CarryKind.SAME, ())


def test_a_plan_that_changes_no_shape_resumes_from_the_checkpoint_as_it_lies() -> None:
    answer = decide_carry(saved(), wanted())
    assert (answer.kind, answer.conversions, answer.load_universal) == (CarryKind.SAME, (), False)
    assert answer.usable


@pytest.mark.parametrize(("before", "after"), [(1, 2), (2, 1)])
def test_stages_one_and_two_share_their_checkpoints(before: int, after: int) -> None:
    answer = decide_carry(saved(zero_stage=before), wanted(zero_stage=after))
    assert answer.kind is CarryKind.SAME


@pytest.mark.parametrize("stage", [1, 2])
def test_going_to_stage_three_stages_ordinary_shards_and_no_universal_load(stage: int) -> None:
    answer = decide_carry(saved(zero_stage=stage), wanted(zero_stage=3))
    assert answer.kind is CarryKind.STAGED
    assert answer.conversions == ("universal", "shards_of_3")
    assert not answer.load_universal


@pytest.mark.parametrize("stage", [1, 2])
def test_leaving_stage_three_stages_a_universal_tree_of_the_other_family(stage: int) -> None:
    answer = decide_carry(saved(zero_stage=3), wanted(zero_stage=stage))
    assert answer.conversions == ("universal", "family_3_to_2")
    assert answer.load_universal


@pytest.mark.parametrize(
    ("stage", "conversions"), [(2, ("universal",)), (3, ("universal", "shards_of_3"))]
)
def test_another_world_size_is_staged(stage: int, conversions: tuple[str, ...]) -> None:
    answer = decide_carry(saved(zero_stage=stage), wanted(zero_stage=stage, world_size=1))
    assert (answer.kind, answer.conversions) == (CarryKind.STAGED, conversions)
    assert "world size 2 -> 1" in answer.why
    assert "Dropout" in answer.why
    assert "Dropout" not in decide_carry(saved(), wanted(zero_stage=3)).why


@pytest.mark.parametrize("stage", [2, 3])
def test_offload_of_the_optimizer_goes_on_directly_with_torchs_own_adamw(stage: int) -> None:
    answer = decide_carry(
        saved(zero_stage=stage), wanted(zero_stage=stage, offload_optimizer="cpu")
    )
    assert answer.kind is CarryKind.SAME
    assert ("zero_force_ds_cpu_optimizer", False) in answer.ds_overrides


@pytest.mark.parametrize("stage", [2, 3])
def test_offload_with_deepspeeds_cpu_adam_needs_a_staged_copy(stage: int) -> None:
    answer = decide_carry(
        saved(zero_stage=stage),
        wanted(zero_stage=stage, offload_optimizer="cpu", optimizer=carry.CPU_ADAM),
    )
    assert answer.kind is CarryKind.STAGED
    assert ("zero_force_ds_cpu_optimizer", True) in answer.ds_overrides


@pytest.mark.parametrize("optimizer", ["adamw_torch", carry.CPU_ADAM])
def test_dropping_the_offload_needs_nothing(optimizer: str) -> None:
    answer = decide_carry(saved(offload_optimizer="cpu", optimizer=optimizer), wanted())
    assert answer.kind is CarryKind.SAME


def test_offload_of_parameters_changes_no_file_at_stage_three() -> None:
    three = {"zero_stage": 3, "offload_optimizer": "cpu"}
    on = decide_carry(saved(**three), wanted(**three, offload_param="cpu"))
    off = decide_carry(saved(**three, offload_param="cpu"), wanted(**three))
    assert on.kind is off.kind is CarryKind.SAME


def test_adapters_keep_their_moments_when_their_frozen_base_is_quantised() -> None:
    answer = decide_carry(saved(method="lora"), wanted(method="lora", quantization="nf4"))
    assert answer.kind is CarryKind.SAME
    assert "moments" in answer.why


def test_fused_and_plain_adamw_are_one_optimizer() -> None:
    assert decide_carry(saved(), wanted(optimizer="adamw_torch_fused")).kind is CarryKind.SAME


def test_another_optimizer_loses_the_moments_and_only_with_consent() -> None:
    asked = decide_carry(saved(), wanted(optimizer="adamw_8bit"))
    assert asked.kind is CarryKind.STAGED_WITHOUT_MOMENTS
    assert asked.needs_consent == "reset_optimizer_state"
    assert not asked.usable
    agreed = decide_carry(
        saved(), wanted(optimizer="adamw_8bit"), frozenset({"reset_optimizer_state"})
    )
    assert agreed == replace(asked, needs_consent=None)
    assert agreed.usable


@pytest.mark.parametrize("optimizer", ["paged_adamw_32bit", "paged_adamw_8bit"])
def test_a_paged_optimizer_begins_anew_and_is_not_paged_after_a_resume(optimizer: str) -> None:
    asked = decide_carry(saved(), wanted(optimizer=optimizer))
    assert asked.needs_consent == "reset_optimizer_state"
    again = decide_carry(saved(optimizer=optimizer), wanted(optimizer=optimizer))
    assert again.kind is CarryKind.SAME
    assert "paged no more" in again.why


def test_another_precision_is_staged_and_only_with_consent() -> None:
    asked = decide_carry(saved(), wanted(dtype="fp32"))
    assert (asked.kind, asked.needs_consent) == (CarryKind.STAGED, "change_dtype")
    agreed = decide_carry(saved(), wanted(dtype="fp32"), frozenset({"change_dtype"}))
    assert agreed.usable


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (saved(), wanted(dtype="fp16")),
        (saved(offload_optimizer="nvme"), wanted(offload_optimizer="cpu")),
        (
            saved(zero_stage=3, offload_optimizer="nvme"),
            wanted(zero_stage=3, offload_optimizer="nvme", world_size=1),
        ),
        (saved(), wanted(zero_stage=3, optimizer="adamw_8bit")),
        (saved(), wanted(optimizer="adafactor")),
        (saved(optimizer="adamw_8bit"), wanted(optimizer="adamw_8bit", zero_stage=3)),
        (saved(optimizer="adamw_8bit"), wanted(optimizer="adamw_8bit", world_size=1)),
    ],
)
def test_what_no_one_tried_keeps_only_the_weights_and_asks(
    before: SavedShape, after: WantedShape
) -> None:
    answer = decide_carry(before, after)
    assert (answer.kind, answer.needs_consent) == (CarryKind.WEIGHTS_ONLY, "restart_from_weights")


@pytest.mark.parametrize(
    ("before", "after", "words"),
    [
        (saved(), wanted(method="lora"), "another run"),
        (saved(method="lora"), wanted(), "another run"),
        (saved(), wanted(quantization="nf4"), "cannot be quantised"),
        (
            saved(method="lora"),
            wanted(method="lora", zero_stage=3, quantization="nf4"),
            "never shown",
        ),
        (saved(), wanted(zero_stage=0), "nothing here converts"),
        (saved(zero_stage=0), wanted(), "nothing here converts"),
        (saved(), wanted(zero_stage=4), "no ZeRO stage 4"),
        (saved(), wanted(zero_stage=0, offload_optimizer="cpu"), "use stage 1"),
        (
            saved(method="lora", lora_rank=8),
            wanted(method="lora", lora_rank=4),
            "keep rank 8, or begin a new run",
        ),
        (saved(), wanted(offload_param="cpu"), "stage 3"),
        (saved(), wanted(optimizer=carry.CPU_ADAM), "needs offload_optimizer"),
        (saved(), wanted(optimizer="adamw_8bit", offload_optimizer="cpu"), "keep AdamW"),
        (saved(), wanted(round_robin_gradients=True), "keep the checkpoint's false"),
        (
            saved(zero_stage=3, sub_group_size=5),
            wanted(zero_stage=3, sub_group_size=6),
            "keep the checkpoint's 5",
        ),
    ],
)
def test_what_cannot_be_carried_is_refused_in_a_sentence(
    before: SavedShape, after: WantedShape, words: str
) -> None:
    answer = decide_carry(before, after, frozenset({"reset_optimizer_state", "change_dtype"}))
    assert answer.kind is CarryKind.IMPOSSIBLE
    assert not answer.usable
    assert words in answer.why
    assert answer.why.endswith(".")


def test_a_setting_of_the_other_family_is_no_reason_to_refuse() -> None:
    assert decide_carry(saved(), wanted(zero_stage=3, round_robin_gradients=True)).usable
    assert decide_carry(saved(zero_stage=3), wanted(sub_group_size=7)).usable
    assert decide_carry(saved(), wanted(sub_group_size=7)).kind is CarryKind.SAME


def test_what_binds_the_next_checkpoint_is_always_stated() -> None:
    low = dict(decide_carry(None, wanted(round_robin_gradients=True)).ds_overrides)
    high = dict(decide_carry(saved(), wanted(zero_stage=3, sub_group_size=9)).ds_overrides)
    assert low == {"zero_optimization.round_robin_gradients": True}
    assert high == {"zero_optimization.sub_group_size": 9}


def test_every_conversion_named_is_one_the_converter_knows() -> None:
    # Read, not imported: the converter belongs to the job's Python.
    source = Path(carry.__file__).parents[1] / "child" / "convert.py"
    orders = next(
        ast.literal_eval(node.value)
        for node in ast.parse(source.read_text()).body
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "ORDERS"
    )
    shapes = [
        {"zero_stage": stage, "world_size": world, "dtype": dtype, **offload}
        for stage in (1, 2, 3)
        for world in (1, 2)
        for dtype in ("bf16", "fp32")
        for offload in ({}, {"offload_optimizer": "cpu", "optimizer": carry.CPU_ADAM})
    ]
    answers = [decide_carry(saved(**a), wanted(**b)) for a in shapes for b in shapes]
    assert {a.conversions for a in answers if a.conversions} <= set(orders)
    # A universal tree is loaded only where stage 3 is not: there it would change the training.
    assert not any(a.load_universal and "shards_of_3" in a.conversions for a in answers)
