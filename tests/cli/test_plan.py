"""`autotune plan` shows the choice first, what it buys, and what else there is, to people."""

import dataclasses
import json

import pytest

from autotune.cli.parts import parts_table
from autotune.cli.plan import as_text, show_plan
from autotune.core.allowing import Allowing
from tests.builders import plan
from tests.core.test_outlined import FOUND, outline, prospect
from tests.outcomes import MIB


def text(width: int = 100, **changes: object) -> str:
    return "\n".join(as_text(outline(**changes), width))


@pytest.mark.parametrize("width", [80, 100, 120])
def test_every_line_fits_the_terminal(width: int) -> None:
    long = "a sentence that goes on for longer than a terminal is wide, again and again, " * 3
    for changes in ({}, {"chosen": 4}, {"chosen": None, "proof": long}, {"why": long}):
        assert (
            max(len(line) for line in as_text(outline(doubts=(long,), **changes), width)) <= width
        )


def test_the_choice_comes_first_with_what_it_buys_and_costs() -> None:
    said = text(width=120)
    order = [
        "a-job on the cpu, 1.50 GiB for each rank",
        "The job as given: 2.15 GiB predicted (1.93 to 2.36 GiB), fits with 0%",
        "Chosen: micro-batch 2 × accumulation 4 × 2 ranks",
        "a step takes ×1.10 that of the job as given; result: same",
        "the cheapest plan that fits",
        "Where its 1.37 GiB go, at their highest (in the second backward)",
        "What each change saves, and what it costs",
        "smaller_micro_batch ×2  −800.00 MiB  step ×1.10  micro_batch 8 → 2",
        "Others, of 6 plans in all; 4 likely to fit",
        "What could not be predicted exactly",
        "- the loop is unknown",
    ]
    places = [said.index(words) for words in order]
    assert places == sorted(places)


def test_a_job_that_fits_is_told_so_in_one_line() -> None:
    fits = prospect(1000, (), plan(), 0.995)
    said = text(prospects=(fits, *FOUND[1:]), chosen=0, why="nothing needs to change")
    assert "The job as given fits: 1000.00 MiB predicted" in said
    assert "fits with >99%" in said
    assert "What each change saves" not in said


def test_where_nothing_fits_the_proof_and_the_smallest_plan_are_shown() -> None:
    never = tuple(prospect(3000 + i, one.rungs, one.plan, 0.0) for i, one in enumerate(FOUND))
    proof = "the smallest of 6 plans needs at least 2.6 GiB of 1.5 GiB"
    said = text(prospects=never, chosen=None, why="", proof=proof)
    assert "Nothing fits: of 6 plans none does." in said
    assert proof in said
    assert "The smallest: micro-batch 8" in said
    assert "Where its 2.93 GiB go" in said
    assert "none likely to fit" in said
    assert "Chosen" not in said


def test_what_the_owner_could_allow_is_said_before_all_else_that_is_no_choice() -> None:
    allowing = Allowing(("eight_bit_optimizer",), FOUND[2])
    for changes in ({"chosen": None, "proof": "it is too large"}, {"chosen": 1}):
        said = text(width=120, allowing=allowing, **changes)
        words = "What you can do: put `allow: [eight_bit_optimizer]` into the job"
        assert said.index(words) < said.index("Where its")
    assert "What you can do" not in text()


def test_beside_json_it_is_said_to_people(capsys: pytest.CaptureFixture[str]) -> None:
    show_plan(outline(allowing=Allowing(("eight_bit_optimizer",), FOUND[2])), as_json=True)
    said = capsys.readouterr()
    assert "eight_bit_optimizer" not in said.out
    assert said.err.startswith("What you can do: put `allow: [eight_bit_optimizer]`")


def test_what_would_not_be_launched_is_not_counted_as_likely_to_fit() -> None:
    found = (*FOUND[:4], dataclasses.replace(FOUND[4], refused=True), FOUND[5])
    assert "3 likely to fit" in text(prospects=found)


def test_a_plan_that_may_fit_is_not_said_to_fit() -> None:
    said = text(chosen=1, why="no plan fits with a probability of 90%; this is the likeliest")
    assert "fits with 10%" in said
    assert "this is the likeliest" in said


def test_json_goes_to_stdout_and_is_the_contract(capsys: pytest.CaptureFixture[str]) -> None:
    show_plan(outline(), as_json=True)
    assert json.loads(capsys.readouterr().out)["chosen"] == 2
    show_plan(outline(), as_json=False)
    assert capsys.readouterr().out.startswith("a-job on the cpu")


def test_parts_are_shown_from_the_largest_with_their_share() -> None:
    lines = parts_table({"weights": 300 * MIB, "second_moments": 700 * MIB, "none": 0, "k": 1})
    assert [line.split()[0] for line in lines] == ["second", "weights", "k"]
    assert "700.00 MiB   70%" in lines[0]
    assert lines[2].endswith("<1%")
    assert parts_table({}) == []
