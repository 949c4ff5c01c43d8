"""`autotune estimate` prints what it predicts, as a table and as data."""

import json
import math
from pathlib import Path

import pytest
from typer.testing import CliRunner

from autotune.cli.app import app
from autotune.core.memory.belief import FLOOR
from autotune.core.memory.predict import LOST_SPREAD, RESERVED
from autotune.core.memory.student import quantile
from tests.core.memory.configs import CONFIGS


def run(tmp_path: Path, *options: str) -> tuple[int, str, str]:
    config = tmp_path / "config.json"
    config.write_text(json.dumps(CONFIGS["llama-2-7b"]))
    words = ["estimate", "--model", str(config), "--seq", "512", "--micro-batch", "1", *options]
    result = CliRunner().invoke(app, words)
    return result.exit_code, result.stdout, result.stderr


def test_the_data_name_the_peak_its_interval_and_its_parts(tmp_path: Path) -> None:
    code, out, _ = run(tmp_path, "--method", "full", "--json")
    found = json.loads(out)
    assert code == 0
    assert found["low_bytes"] < found["peak_bytes"] < found["high_bytes"]
    tensors = found["parts"].pop("tensors")
    assert sum(found["parts"].values()) == found["peak_bytes"]
    assert tensors > 4 * 2 * 6_738_415_616
    assert found["method"] == "closed form"


def test_the_interval_is_the_one_that_the_planner_goes_by(tmp_path: Path) -> None:
    found = json.loads(run(tmp_path, "--method", "full", "--json")[1])
    tensors = found["peak_bytes"] - found["parts"]["outside"] - found["parts"]["overhead"]
    spread = math.hypot(RESERVED, LOST_SPREAD * found["parts"]["overhead"] / tensors)
    spread *= (tensors + found["parts"]["outside"]) / tensors
    above = tensors * (math.exp(math.hypot(spread, FLOOR) * quantile(0.95)) - 1)
    assert found["high_bytes"] == pytest.approx(found["peak_bytes"] + above, rel=1e-6)


def test_more_ranks_take_less_of_each(tmp_path: Path) -> None:
    one, four = (
        json.loads(run(tmp_path, "--method", "full", "--zero", "3", "--ranks", n, "--json")[1])
        for n in ("1", "4")
    )
    assert four["peak_bytes"] < one["peak_bytes"]


def test_the_table_names_the_moment_of_the_peak(tmp_path: Path) -> None:
    code, out, _ = run(tmp_path, "--method", "qlora", "--checkpointing")
    assert code == 0
    assert "second backward" in out
    assert "weights" in out


def test_an_optimizer_nobody_knows_is_refused_with_its_neighbour(tmp_path: Path) -> None:
    code, _, errors = run(tmp_path, "--method", "full", "--optimizer", "adamm")
    assert code == 2
    assert "did you mean `adamw`?" in errors


def test_offload_without_zero_is_refused(tmp_path: Path) -> None:
    code, _, errors = run(tmp_path, "--method", "full", "--offload", "optimizer")
    assert code == 2
    assert "--zero" in errors
