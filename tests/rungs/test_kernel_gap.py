"""Attention becomes plainer, 4-bit layers multiply in fp32, and precision changes last."""

import pytest

from autotune.cli.wiring import all_rungs
from autotune.core.compatibility import conflicts
from autotune.core.failure import Failure
from autotune.core.plan import Plan
from tests import builders

RUNGS = all_rungs()


def after(rung: str, plan: Plan, failure: Failure = Failure.DTYPE_KERNEL_GAP) -> Plan:
    """Return the plan one rung further."""
    scene = builders.scene(plan, builders.diagnosis(failure))
    assert RUNGS[rung].applies(scene) is None
    return RUNGS[rung].apply(scene)


def test_attention_becomes_plainer_until_it_is_eager() -> None:
    plan = builders.plan(attention="flash_attention_2")
    plan = after("plainer_attention", plan)
    assert plan.attention == "sdpa"
    plan = after("plainer_attention", plan)
    assert plan.attention == "eager"
    assert RUNGS["plainer_attention"].applies(builders.scene(plan)) is not None


def test_a_plan_of_an_older_journal_does_not_say_how_attention_is_computed() -> None:
    scene = builders.scene(builders.plan(attention="given"))
    assert RUNGS["plainer_attention"].applies(scene) == (
        "the plan does not say how attention is computed"
    )


@pytest.mark.parametrize("dtype", ["bf16", "fp16"])
def test_single_precision_takes_flash_attention_along_which_has_none(dtype: str) -> None:
    plan = after("change_dtype", builders.plan(dtype=dtype, attention="flash_attention_2"))
    assert (plan.dtype, plan.attention) == ("fp32", "sdpa")
    assert conflicts(plan, "cuda", {}) == []


def test_a_loss_that_left_the_range_of_fp16_goes_to_bf16_and_no_further_by_itself() -> None:
    plan = after("change_dtype", builders.plan(dtype="fp16"), Failure.NUMERIC_DIVERGENCE)
    assert plan.dtype == "bf16"
    assert after("change_dtype", plan).dtype == "fp32"


def test_four_bit_layers_in_fp32_leave_the_rest_of_the_plan_as_it_is() -> None:
    plan = builders.plan(method="lora", quantization="nf4")
    assert after("four_bit_compute", plan) == plan.but(four_bit_compute="fp32")
    for other in (builders.plan(), plan.but(dtype="fp32"), plan.but(four_bit_compute="fp32")):
        assert RUNGS["four_bit_compute"].applies(builders.scene(other)) is not None


@pytest.mark.parametrize(("dtype", "device"), [("fp32", "cuda"), ("bf16", "cpu")])
def test_flash_attention_without_a_kernel_is_a_conflict(dtype: str, device: str) -> None:
    plan = builders.plan(attention="flash_attention_2", dtype=dtype)
    assert [row.name for row in conflicts(plan, device, {})]  # type: ignore[arg-type]
