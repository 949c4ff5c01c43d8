"""A full fine-tune of 7 billion parameters on one card and on four, under ZeRO 1, 2 and 3.

Held against arithmetic done here: in mixed precision AdamW keeps 2 bytes of weights, 2 of gradients
and 12 of fp32 copy and moments for each parameter, and a stage divides by the ranks what it shards.
"""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.stories.at_size import CONFIGS, GIB, describe, python_in, rungs, told_of

JOBS = CONFIGS / "llama2_7b_full"
PARAMETERS = 6_738_415_616
TOKENS, LAYERS, HIDDEN, VOCABULARY = 8 * 4096, 32, 4096, 32000
# Beside the states in the backward pass: each layer's input in 16 bits, and of the loss the logits
# in 16 bits, in 32, and their gradients in both and in 16 once more (14 bytes each).
PASS = TOKENS * (2 * LAYERS * HIDDEN + 14 * VOCABULARY)
# What the bucket of 5e8 gradients, the weights that stage 3 gathers ahead, the allocator and CUDA
# take besides; none of it depends on the number of ranks.
ELSE = 6 * GIB

Planned = Callable[..., dict[str, Any]]


def states(stage: int, ranks: int) -> float:
    """Return the bytes of weights, gradients, fp32 copies and moments of one rank."""
    whole = {1: 4, 2: 2, 3: 0}[stage]  # bytes of each parameter that no rank shares
    return PARAMETERS * (whole + (16 - whole) / ranks)


@pytest.fixture
def planned(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Planned:
    """Return what tells what `autotune plan` says of one of the jobs under a stage."""

    def told(
        job: str, stage: int, *cards: int, host: int = 60, more: str = "", command: str = ""
    ) -> dict[str, Any]:
        describe(monkeypatch, *cards, host=host)
        monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
        shutil.copytree(JOBS, tmp_path, dirs_exist_ok=True)
        (tmp_path / "run_clm.py").write_text("")
        text = (JOBS / job).read_text().replace("ds_zero2", f"ds_zero{stage}")
        text = text.replace("79GiB", f"{cards[0] - 1}GiB")
        text = text.replace("--bf16=true", f"--bf16=true\n    - {command or '--seed=1'}")
        (tmp_path / job).write_text(f"{text}python: {python_in(tmp_path)}\n{more}")
        return told_of(tmp_path / job, capsys)

    return told


def chosen(told: dict[str, Any]) -> dict[str, Any]:
    one: dict[str, Any] = told["plans"][told["chosen"]]
    return one


@pytest.mark.parametrize("stage", [1, 2, 3])
def test_four_cards_of_80_gib_hold_it_as_written_and_each_stage_takes_what_the_formula_says(
    planned: Planned, stage: int
) -> None:
    told = planned("four_cards.yaml", stage, 80, 80, 80, 80)
    given = told["plans"][0]
    beside = given["predicted_peak_bytes"] - states(stage, 4)
    assert given["settings"]["zero_stage"] == stage
    assert PASS < beside < PASS + ELSE
    assert states(stage, 4) + PASS + ELSE < told["capacity_bytes"]
    assert chosen(told) == given
    assert "allow" not in told["talk"]


@pytest.mark.parametrize("stage", [1, 2, 3])
def test_four_cards_of_40_gib_need_stage_3_and_a_smaller_micro_batch(
    planned: Planned, stage: int
) -> None:
    assert states(1, 4) > 39 * GIB
    assert states(2, 4) + PASS / 8 < 39 * GIB < states(2, 4) + PASS / 2
    assert states(3, 4) + PASS > 39 * GIB > states(3, 4) + PASS / 4 + ELSE / 2
    told = planned("four_cards.yaml", stage, 40, 40, 40, 40)
    one = chosen(told)
    assert one["settings"]["zero_stage"] == 3
    assert one["settings"]["micro_batch"] < 8
    assert set(rungs(one)) == {"smaller_micro_batch", *(["zero_up"] if stage < 3 else [])}
    assert (one["result"], one["p_fit"] >= 0.9) == ("same", True)
    cheaper = [
        other
        for other in told["plans"]
        if other["p_fit"] >= 0.9 and other["step_time_factor"] < one["step_time_factor"] - 0.01
    ]
    assert cheaper == []


@pytest.mark.parametrize("stage", [1, 2, 3])
def test_one_card_of_80_gib_cannot_hold_it_and_is_told_what_to_allow(
    planned: Planned, stage: int
) -> None:
    told = planned("one_card.yaml", stage, 80)
    assert states(stage, 1) == 16 * PARAMETERS > told["capacity_bytes"]
    given = told["plans"][0]
    assert given["low_bytes"] > states(stage, 1)
    # Moments in 8 bits save 6 bytes of the 16; weights on the host save 2, which is not enough.
    assert 10 * PARAMETERS < told["capacity_bytes"] < 14 * PARAMETERS
    assert max(one["p_fit"] for one in told["plans"] if not one["why"]) < 0.05
    assert "put `allow: [eight_bit_optimizer]` into the job: 7" in told["talk"]


@pytest.mark.parametrize("stage", [1, 2, 3])
def test_what_it_was_told_to_allow_fits_one_card(planned: Planned, stage: int) -> None:
    told = planned("one_card.yaml", stage, 80, more="allow: [eight_bit_optimizer]\n")
    one = chosen(told)
    assert (one["result"], one["p_fit"] >= 0.9) == ("changed", True)
    assert one["settings"]["optimizer"] == "adamw_8bit"
    assert one["predicted_peak_bytes"] > 10 * PARAMETERS
    assert "allow" not in told["talk"]


def test_an_optimizer_that_no_plan_can_say_is_not_taken_for_adamw(planned: Planned) -> None:
    told = planned("one_card.yaml", 2, 80, command="--optim=adafactor")
    assert (told["chosen"], told["plans"]) == (None, [])
    assert "it steps with adafactor, whose state was never measured" in told["talk"]


@pytest.mark.parametrize("stage", [1, 2, 3])
def test_one_card_with_a_large_host_holds_it_without_another_result(
    planned: Planned, stage: int
) -> None:
    told = planned("one_card.yaml", stage, 80, host=140)
    one = chosen(told)
    assert rungs(one) == ["offload_optimizer"]
    assert (one["result"], one["settings"]["micro_batch"]) == ("same", 8)
    refused = planned("one_card.yaml", stage, 80, host=100)["plans"]
    whys = [other["why"] for other in refused if other["settings"]["offload_optimizer"]]
    assert whys
    assert all("of the host's memory per rank, and 100.00 GiB are there" in why for why in whys)
