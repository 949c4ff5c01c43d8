"""The table of settings that cannot go together holds between its versions and nowhere else."""

import pytest

from autotune.core.compatibility import CONFLICTS, conflicts, parse_version
from autotune.core.plan import Device, Plan
from tests import builders

LORA = builders.plan(method="lora")
NEW = {"deepspeed": "0.19.8", "bitsandbytes": "0.50.2", "torch": "2.13.0+cpu"}


def named(plan: Plan, device: Device = "cuda", versions: dict[str, str] | None = None) -> set[str]:
    return {row.name for row in conflicts(plan, device, NEW if versions is None else versions)}


def test_an_ordinary_plan_has_no_conflict() -> None:
    for stage in (1, 2, 3):
        assert named(builders.plan(zero_stage=stage)) == set()
        assert named(LORA.but(zero_stage=stage, activation_checkpointing=True)) == set()


@pytest.mark.parametrize(
    ("plan", "device", "name"),
    [
        (builders.plan(quantization="nf4"), "cuda", "four_bit_full"),
        (builders.plan(offload_param=True), "cuda", "param_offload_below_stage_3"),
        (
            LORA.but(quantization="nf4", zero_stage=3, offload_param=True),
            "cuda",
            "four_bit_param_offload",
        ),
        (builders.plan(dtype="fp16"), "cpu", "fp16_cpu"),
        (builders.plan(activation_offload=True), "cuda", "activation_offload_alone"),
        (builders.plan(optimizer="paged_adamw"), "cpu", "paged_optimizer_cpu"),
        (
            builders.plan(optimizer="adamw_8bit", offload_optimizer=True),
            "cuda",
            "optimizer_under_offload",
        ),
    ],
)
def test_some_settings_go_together_in_no_version(plan: Plan, device: Device, name: str) -> None:
    assert named(plan, device) == {name}
    assert name in named(plan, device, {})


OLD_ROWS = [
    (LORA.but(quantization="nf4", zero_stage=3), "bitsandbytes", "0.43", "four_bit_stage_3"),
    (
        LORA.but(zero_stage=3, dtype="fp32", activation_checkpointing=True),
        "deepspeed",
        "0.19.3",
        "checkpointing_frozen_stage_3",
    ),
    (LORA.but(zero_stage=3), "deepspeed", "0.19.3", "bf16_base_fp32_adapter_stage_3"),
]


@pytest.mark.parametrize(("plan", "package", "mended", "name"), OLD_ROWS)
def test_a_fault_holds_before_the_version_that_mended_it(
    plan: Plan, package: str, mended: str, name: str
) -> None:
    assert name in named(plan, versions={package: "0.19.2" if package == "deepspeed" else "0.42.0"})
    assert name not in named(plan, versions={package: mended})
    assert name not in named(plan, versions={package: f"{mended}.post1"})


def test_a_version_we_do_not_know_breaks_nothing() -> None:
    for plan, *_ in OLD_ROWS:
        assert named(plan, versions={}) == set()


def test_every_row_says_why_and_who_says_so() -> None:
    assert len({row.name for row in CONFLICTS}) == len(CONFLICTS)
    for row in CONFLICTS:
        assert len(row.why.split()) > 5
        assert row.source
        bounded = row.since is not None or row.before is not None or row.absent
        assert (row.package is not None) == bounded


@pytest.mark.parametrize(
    ("text", "version"),
    [
        ("2.13.0+cpu", (2, 13, 0)), ("0.19.3", (0, 19, 3)), ("0.43", (0, 43)),
        ("5.24.0.dev0", (5, 24, 0)), ("2.9.0a0+git1", (2, 9, 0)), ("nightly", ()), ("", ()),
    ],
)  # fmt: skip
def test_a_version_is_its_leading_numbers(text: str, version: tuple[int, ...]) -> None:
    assert parse_version(text) == version


def test_an_optimizer_of_bitsandbytes_needs_bitsandbytes() -> None:
    for optimizer in ("adamw_8bit", "paged_adamw", "paged_adamw_8bit"):
        plan = builders.plan(optimizer=optimizer)
        assert named(plan) == set()
        assert named(plan, versions={"torch": "2.13.0"}) == {"optimizer_without_bitsandbytes"}
