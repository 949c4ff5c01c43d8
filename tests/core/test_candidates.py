"""The plans that the rungs of a policy make of one plan."""

from typing import Any

import pytest

from autotune.cli.wiring import all_rungs
from autotune.core.candidates import Candidate, candidates
from autotune.core.plan import KNOBS, Plan
from autotune.core.rung import Result, Rung, out_of_reach
from tests.builders import around, plan, scene

LADDER = (
    "shrink_buckets", "allocator_settings", "smaller_micro_batch", "activation_checkpointing",
    "four_bit", "zero_up", "offload_optimizer", "offload_param",
)  # fmt: skip
RUNGS = all_rungs()


def allowed(_: Rung, __: Plan) -> str | None:
    return None


def made(of: Plan, names: tuple[str, ...] = LADDER, **more: Any) -> list[Candidate]:
    return candidates(scene(of), names, RUNGS, more.pop("refused", allowed), **more)


def test_the_plan_itself_is_first_and_each_other_comes_once() -> None:
    found = made(plan())
    assert found[0] == Candidate(plan(), (), Result.SAME)
    assert len({one.plan for one in found}) == len(found)
    # Buckets, allocator, micro-batch 8 4 2 1, checkpointing; ZeRO 2 3, offload and, at 3, of both.
    assert len(found) == 2 * 2 * 4 * 2 * (2 + 2 * 2)


def test_fewer_rungs_come_first_and_the_path_leads_to_the_plan() -> None:
    found = made(plan())
    assert [len(one.rungs) for one in found] == sorted(len(one.rungs) for one in found)
    for one in found[::7]:
        here = scene(plan())
        for name in one.rungs:
            assert RUNGS[name].applies(here) is None
            here = scene(RUNGS[name].apply(here))
        assert here.plan == one.plan


def test_every_plan_keeps_the_global_batch() -> None:
    assert {one.plan.global_batch for one in made(plan(micro_batch=6, accumulation=5))} == {60}


def test_four_bit_is_close_and_never_met_with_all_weights_trained() -> None:
    assert {one.result for one in made(plan())} == {Result.SAME}
    found = made(plan(method="lora"))
    for one in found:
        close = one.plan.quantization == "nf4"
        assert one.result is (Result.CLOSE if close else Result.SAME)
    assert not [one for one in found if one.plan.quantization == "nf4" and one.plan.offload_param]


def test_a_forbidden_rung_is_never_taken() -> None:
    found = made(plan(), forbidden=lambda rung: "no" if rung.name == "zero_up" else None)
    assert {one.plan.zero_stage for one in found} == {2}


def test_a_plan_that_failed_before_is_left_out_and_smaller_ones_are_reached_through_it() -> None:
    found = made(
        plan(),
        ("smaller_micro_batch",),
        refused=lambda _, one: "it failed" if one.micro_batch == 4 else None,
    )
    assert [one.plan.micro_batch for one in found] == [8, 2, 1]


def test_rungs_that_keep_the_plan_or_do_a_deed_make_no_candidate() -> None:
    names = ("retry_unchanged", "rebuild_ops", "previous_checkpoint", "wait_for_neighbour")
    assert len(made(plan(), names)) == 1


def test_a_framework_without_the_knob_makes_no_candidate_of_it() -> None:
    bare = scene(plan(), where=around(knobs=frozenset({"activation_checkpointing"})))
    found = candidates(bare, LADDER, RUNGS, allowed)
    assert [one.rungs for one in found] == [(), ("activation_checkpointing",)]


def test_rungs_that_undo_each_other_come_to_an_end() -> None:
    found = made(plan(), ("offload_optimizer", "drop_offload"))
    assert [one.plan.offload_optimizer for one in found] == [False, True]


def test_beyond_the_limit_the_smallest_plan_is_still_there() -> None:
    found = made(plan(), limit=20)
    assert 20 <= len(found) <= 40
    deepest = found[-1].plan
    assert deepest.micro_batch == 1
    assert deepest.offload_param
    assert deepest.zero_stage == 3
    assert made(plan(), limit=20) == found


OFFLOADED = {"zero_stage": 3, "offload_optimizer": True, "activation_checkpointing": True}


@pytest.mark.parametrize(
    ("more", "lacking", "made_of_it"),
    [
        ({}, "activation_offload", True),  # it would not be changed
        ({"activation_offload": True}, "activation_offload", False),
        ({}, "offload_optimizer", False),
    ],
)
def test_a_rung_needs_a_knob_for_what_it_changes_and_no_other(
    more: dict[str, bool], lacking: str, made_of_it: bool
) -> None:
    start = plan(**OFFLOADED, **more)
    where = around(knobs=KNOBS - {lacking})
    here = scene(start, where=where)
    found = candidates(here, ("drop_offload",), RUNGS, allowed)
    assert (len(found) > 1) is made_of_it
    # The ladder, which takes one rung, asks the same.
    assert (out_of_reach(RUNGS["drop_offload"], here) == []) is made_of_it


def test_what_goes_together_is_asked_of_the_versions_that_a_plan_pins() -> None:
    pins = ("bitsandbytes==0.42",)
    old = {"bitsandbytes": "0.42"}
    where = around(versions={"bitsandbytes": "0.50.2"}, pinned={pins: old})

    def stages(of: Plan) -> set[int]:
        found = candidates(scene(of, where=where), ("zero_up",), RUNGS, allowed)
        return {one.plan.zero_stage for one in found}

    quantized = plan(method="lora", quantization="nf4")
    assert stages(quantized) == {2, 3}
    assert stages(quantized.but(pins=pins)) == {2}  # 4-bit at stage 3 came with 0.43
