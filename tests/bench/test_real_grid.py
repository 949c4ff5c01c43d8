"""The grid of real jobs asks for what can be asked, and its table says what was measured."""

import json
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from autotune.core.job import Job
from autotune.core.memory.reading import read_shape
from autotune.core.memory.shape import ModelShape
from autotune.frameworks.finetune_parts import FinetuneSettings
from tests.bench.grid_cells import (
    CELLS,
    MIB,
    STEPS,
    Cell,
    Word,
    job_of,
    llama,
    machine_dtype,
    make_rows,
)
from tests.bench.grid_table import Results, best_of, table
from tests.bench.real_grid import read_hf, speed, supervised
from tests.e2e.fast_job import make_job

CELL = Cell("a-cell", llama(256, 2, 4096), "full", 1, 64, 8, ("8", "4", "2c"), ("8", "4"))


def test_a_word_is_a_micro_batch_and_what_is_on() -> None:
    assert Word.of("8") == Word(8)
    assert Word.of("16cqb") == Word(16, checkpointing=True, four_bit=True, small_buckets=True)


def test_a_limit_lies_between_two_plans_or_beside_one() -> None:
    peaks = {"8": 1000, "4": 600}
    assert CELL.limit_bytes(peaks) == 800
    beside = Cell("b", {}, "full", 1, 64, 8, ("8",), ("8", 1.15))
    assert beside.limit_bytes(peaks) == 1150


def test_most_cells_fail_as_given_two_fit_and_two_are_impossible() -> None:
    assert len(CELLS) >= 12
    assert len({cell.name for cell in CELLS}) == len(CELLS)
    shares = [cell.limit[1] for cell in CELLS if isinstance(cell.limit[1], float)]
    assert sorted(share > 1 for share in shares) == [False, False, True, True]


@pytest.mark.parametrize("cell", CELLS, ids=lambda cell: cell.name)
def test_a_cell_is_a_job_that_can_be_checked(cell: Cell, tmp_path: Path) -> None:
    assert len(cell.plans) <= 6
    assert {text for text in cell.limit if isinstance(text, str)} <= set(cell.plans)
    for text in cell.plans:
        word = Word.of(text)
        assert cell.global_ % (word.micro * cell.ranks) == 0
        job = Job.model_validate(job_of(cell, word, tmp_path, 2**30, "as_given"))
        FinetuneSettings.model_validate(job.settings)
    shape = read_shape(cell.model)
    assert isinstance(shape, ModelShape)
    assert 9e6 < shape.parameters < 70e6


def test_a_machine_that_cannot_multiply_bf16_is_not_asked_to() -> None:
    assert machine_dtype("flags : avx2 avx512f avx512bw") == "bf16"
    assert machine_dtype("flags : avx2 avx_vnni") == "fp32"


def test_rows_come_late_where_the_cell_says_so(tmp_path: Path) -> None:
    late = Cell("c", {}, "full", 1, 64, 8, ("8",), ("8", 1.1), late=True)
    for cell, long in ((CELL, STEPS * 8), (late, 8)):
        rows = [json.loads(line) for line in make_rows(cell, tmp_path).read_text().splitlines()]
        lengths = [len(row["text"].split()) + 1 for row in rows]
        assert (len(rows), lengths.count(64)) == (STEPS * 8, long)
    assert lengths.index(64) == 4 * 8


def results(tmp_path: Path, *found: dict[str, Any]) -> Results:
    made = Results(tmp_path / "results.jsonl")
    for one in found:
        made.add({"cell": "a-cell", "plan": "", "finished": True, "attempts": 1, **one})
    return made


def measured(tmp_path: Path, *found: dict[str, Any]) -> Results:
    plans = (("8", 1000, 12.0), ("4", 800, 10.0), ("2c", 500, 6.0))
    given = [
        {"way": "plan", "plan": p, "peak_bytes": mib * MIB, "samples_per_second": rate}
        for p, mib, rate in plans
    ]
    return results(tmp_path, *given, *found)


def test_results_outlive_the_process_and_a_torn_line(tmp_path: Path) -> None:
    measured(tmp_path)
    with (tmp_path / "results.jsonl").open("a") as file:
        file.write('{"cell": "a-cell", "way": "h')
    again = Results(tmp_path / "results.jsonl")
    assert again.peaks("a-cell") == {"8": 1000 * MIB, "4": 800 * MIB, "2c": 500 * MIB}
    assert again.of("a-cell", "hf") is None


def test_the_best_plan_is_the_fastest_that_fits(tmp_path: Path) -> None:
    assert best_of(CELL, measured(tmp_path)) == ("4", 10.0)


def test_the_table_compares_each_way_with_the_best_plan(tmp_path: Path) -> None:
    died = {"died": "RuntimeError: could not create a primitive", "finished": False}
    made = measured(
        tmp_path,
        {"way": "predicted", "first_step_seconds": 20.0, "samples_per_second": 9.5},
        {
            "way": "as_given", "attempts": 3, "first_step_seconds": 61.0,
            "samples_per_second": 5.0,
        },
        {"way": "hf", "seconds": 12.0, **died},
    )  # fmt: skip
    lines = table([CELL], made)
    assert lines[2] == (
        "| a-cell | 900 MiB | 1000 MiB | 1 attempt, 20 s, 95% | 3 attempts, 61 s, 50% "
        "| gave up after 1 attempt, 12 s (could not create a primitive) | 4: 10.00/s |"
    )
    assert lines[4] == (
        "- predicted: stable in 1 of 1 cells that some plan fits, 1 at the first attempt; "
        "on average 1.0 attempts and 20 s to the first stable step, 95% of the best plan's speed"
    )
    assert "stable in 0 of 1" in lines[6]


def test_a_cell_that_was_not_measured_has_no_row(tmp_path: Path) -> None:
    assert len(table([CELL], results(tmp_path))) == 3


def test_speed_leaves_the_first_step_out() -> None:
    assert speed([100.0, 102.0, 104.0, 110.0], 8) == 4.0
    assert speed([100.0, 102.0], 8) is None


def test_the_last_attempt_of_the_other_way_is_the_one_that_counts() -> None:
    said: list[dict[str, Any]] = [
        {"attempt": True},
        {"step": 1, "t": 10.0, "micro": 8},
        {"attempt": True},
        *({"step": n, "t": 20.0 + n, "micro": 7} for n in range(1, 5)),
        {"finished": True},
    ]
    found = read_hf(said, 5.0, CELL)
    assert (found["attempts"], found["first_step_seconds"]) == (2, 16.0)
    # Its global batch is another one now: 7 samples a step, and no longer 8.
    assert found["last_plan"] == {"micro_batch": 7, "global_batch": 7}
    assert found["samples_per_second"] == 7.0
    assert read_hf([{"died": "x"}], 0.0, CELL)["attempts"] == 1


def fast(folder: Path, fits: dict[str, int]) -> dict[str, Any]:
    job: dict[str, Any] = YAML(typ="safe").load(make_job(folder, {"fits": fits}))
    job["settings"]["dtype"] = "fp32"
    return job


@pytest.mark.e2e
def test_a_supervised_run_is_read_from_its_folder(tmp_path: Path) -> None:
    found = supervised(fast(tmp_path, {"0": 4, "6": 2}), tmp_path, "as_given")
    assert (found["exit"], found["finished"], found["attempts"]) == (0, True, 3)
    assert found["last_plan"]["micro_batch"] == 2
    assert 0 < found["first_step_seconds"] <= found["seconds"]
    assert found["samples_per_second"] > 0
    assert (found["limit_bytes"], found["dtype"]) == ("2GiB", "fp32")

    lost = supervised(fast(tmp_path, {"0": 0}), tmp_path, "predicted")
    assert (lost["exit"], lost["finished"], lost["first_step_seconds"]) == (1, False, None)
    assert lost["attempts"] > 1
