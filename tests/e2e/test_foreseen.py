"""`autotune run` and `plan` with prediction, on a trainer of milliseconds that takes no memory."""

import json
import os
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from autotune.core.failure import Failure
from tests.e2e.fast_job import (
    MODEL,
    PREDICTED,
    make_job,
    run,
    run_folder,
    start,
    story,
    terminal,
    trained_steps,
    until,
)

pytestmark = pytest.mark.e2e

MIB = 2**20
# 30 million parameters over rows of 512 tokens: predicted are 1.74 GiB at micro-batch 8, 1.20 at 4.
MIDDLING = {
    **MODEL, "vocab_size": 8192, "hidden_size": 512, "intermediate_size": 1376,
    "num_hidden_layers": 8, "num_attention_heads": 8, "tie_word_embeddings": True,
}  # fmt: skip
LONG = {"longest": [512, 512], "tokens_mean": 300.0}


def foreseen_job(folder: Path, limit: str, told: dict[str, Any] | None = None, **more: Any) -> Path:
    """Write a job over long rows that begins by prediction under a limit."""
    settings = {"model": dict(MIDDLING), "data": {"train": "train.jsonl", "sequence": 512}}
    settings.update(more.pop("settings", {}))
    devices = {"use": 2, "memory_limit": limit}
    told = {"survey": LONG, **(told or {})}
    return make_job(folder, told, settings=settings, devices=devices, **{**PREDICTED, **more})


def asked(verb: str, place: Path, *options: str) -> "subprocess.CompletedProcess[str]":
    """Run another verb of the command line on a job or a run."""
    env = {**os.environ, "DS_ACCELERATOR": "cpu", "XDG_STATE_HOME": str(place.parent / "state")}
    return subprocess.run(
        [sys.executable, "-m", "autotune.cli.app", verb, str(place), *options],
        capture_output=True, text=True, env=env, timeout=120, check=False,
    )  # fmt: skip


def test_it_begins_at_a_plan_that_fits_and_says_why(tmp_path: Path) -> None:
    job = foreseen_job(tmp_path, "1500MiB", {"fits": {"0": 4}})

    assert run(job) == 0

    (only,) = story(job).attempts
    assert (only.plan.micro_batch, only.plan.accumulation, only.failure) == (4, 2, Failure.NONE)
    foreseen = only.launch.foreseen
    assert foreseen is not None
    assert foreseen.capacity_bytes == 1500 * MIB
    assert foreseen.low_bytes < foreseen.peak_bytes < foreseen.high_bytes < 1500 * MIB
    assert foreseen.p_fit > 0.9
    assert foreseen.considered > 10
    said = terminal(job)
    assert "attempt 1: smaller_micro_batch (micro_batch 8 → 4, accumulation 1 → 2" in said
    assert "the cheapest plan: 1." in said
    assert "GiB predicted (" in said
    assert "of 1.46 GiB, fits with" in said
    assert trained_steps(job) == list(range(1, 13))
    good = (run_folder(job) / "known-good" / "job.yaml").read_text()
    assert "start: as_given" in good
    assert "the cheapest plan: 1." in good


def test_what_fits_as_given_is_left_as_it_is(tmp_path: Path) -> None:
    job = foreseen_job(tmp_path, "4GiB")

    assert run(job) == 0

    (only,) = story(job).attempts
    assert only.launch.remedy is None
    assert only.launch.foreseen is not None
    assert "nothing needs to change: 1." in terminal(job)


def test_a_refusal_that_contradicts_the_prediction_moves_the_next_choice_in_one_leap(
    tmp_path: Path,
) -> None:
    # The process takes 590 MiB more than predicted: 4 is refused, 2 would be, and is not tried.
    base = {"base": [820 * MIB, 820 * MIB]}
    job = foreseen_job(tmp_path, "1500MiB", {"fits": {"0": 1}, "probes": base})

    assert run(job) == 0

    first, second = story(job).attempts
    assert (first.plan.micro_batch, first.failure) == (4, Failure.DEVICE_OOM)
    assert (second.plan.micro_batch, second.failure) == (1, Failure.NONE)
    assert second.launch.remedy is not None
    assert second.launch.remedy.rungs == ("smaller_micro_batch", "smaller_micro_batch")
    said = terminal(job)
    assert "attempt 2: smaller_micro_batch ×2 (micro_batch 4 → 1, accumulation 2 → 8" in said
    assert "the cheapest plan: after what was measured 1." in said
    status = asked("status", run_folder(job))
    assert "attempt 2: smaller_micro_batch ×2" in status.stdout


def test_where_nothing_can_fit_it_gives_up_with_the_figures_before_any_start(
    tmp_path: Path,
) -> None:
    job = foreseen_job(tmp_path, "450MiB")

    assert run(job) == 1

    assert story(job).attempts == ()
    said = terminal(job)
    assert "giving up: each rank has 450.00 MiB, and the smallest of" in said
    assert "needs at least" in said
    assert "what you can do: allow more memory per GPU" in said
    assert not list((run_folder(job) / "attempts").glob("*"))
    assert run(job) == 1  # started again, with nothing changed, it says the same
    for place, shown in ((job, "Nothing fits"), (run_folder(job), "gave_up")):
        found = asked("plan" if place == job else "status", place)
        assert found.returncode == 0, found.stderr
        assert shown in found.stdout


def weights_of(folder: Path, parameters: int) -> None:
    """Write a model folder with the config of MIDDLING and this many bf16 parameters."""
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(MIDDLING))
    header = json.dumps({"w": {"dtype": "BF16", "shape": [parameters], "data_offsets": [0, 2]}})
    with (folder / "model.safetensors").open("wb") as file:
        file.write(struct.pack("<Q", len(header)) + header.encode())
        file.truncate(2 * parameters)


UNSIZED = {key: value for key, value in MIDDLING.items() if key != "hidden_size"}


@pytest.mark.parametrize(
    ("model", "why"),
    [
        (UNSIZED, "does not say the hidden size; rungs"),
        ("lying", "one of the two is not this model's"),
    ],
)
def test_what_cannot_be_predicted_is_said_and_the_rungs_are_taken_in_order(
    tmp_path: Path, model: dict[str, Any] | str, why: str
) -> None:
    weights_of(tmp_path / "lying", 900 * 10**6)
    job = foreseen_job(tmp_path, "1500MiB", {"fits": {"0": 2}}, settings={"model": model})

    assert run(job) == 0, terminal(job)

    assert [one.plan.micro_batch for one in story(job).attempts] == [8, 8, 4, 2]
    assert all(one.launch.foreseen is None for one in story(job).attempts)
    said = terminal(job)
    assert said.count("memory cannot be predicted: ") == 1
    assert why in said
    assert "rungs are tried in order" in said
    found = asked("plan", job)
    assert found.returncode == 0
    assert why.partition(";")[0] in found.stderr


def test_an_unknown_architecture_is_predicted_with_less_trust(tmp_path: Path) -> None:
    strange = {**MIDDLING, "model_type": "phlogiston"}
    job = foreseen_job(tmp_path, "1500MiB", settings={"model": strange})

    assert run(job) == 0

    (only,) = story(job).attempts
    assert only.launch.foreseen is not None
    assert only.launch.foreseen.high_bytes > 1.2 * only.launch.foreseen.peak_bytes
    assert "phlogiston" in terminal(job)
    assert "phlogiston" in asked("plan", job).stdout


@pytest.mark.parametrize("behaviour", ["fails", "floods", []])
def test_without_a_survey_every_row_is_taken_to_be_as_long_as_it_may_be(
    tmp_path: Path, behaviour: object
) -> None:
    job = foreseen_job(tmp_path, "1500MiB", {"survey": behaviour})

    assert run(job) == 0

    (only,) = story(job).attempts
    assert only.plan.micro_batch == 4
    assert "every row is taken to be as long as it may be: the survey of the" in terminal(job)


def test_a_survey_that_hangs_is_left_by_a_stop(tmp_path: Path) -> None:
    job = foreseen_job(tmp_path, "1500MiB", {"survey": "hangs"})
    supervisor = start(job)
    until(lambda: (run_folder(job) / "survey" / "train.json").exists(), "the survey")

    supervisor.terminate()

    assert supervisor.wait(timeout=60) == 4
    assert story(job).attempts == ()


def test_short_rows_allow_a_larger_micro_batch(tmp_path: Path) -> None:
    job = foreseen_job(tmp_path, "1500MiB", {"survey": {"longest": [128], "tokens_mean": 90.0}})

    assert run(job) == 0

    assert [one.plan.micro_batch for one in story(job).attempts] == [8]


def test_a_job_in_order_is_not_predicted_and_says_nothing_of_it(tmp_path: Path) -> None:
    job = foreseen_job(tmp_path, "1500MiB", {"fits": {"0": 4}}, policy="in_order")

    assert run(job) == 0

    assert [one.plan.micro_batch for one in story(job).attempts][-1] == 4
    assert "predicted" not in terminal(job)
    assert not (run_folder(job) / "survey").exists()


@pytest.mark.parametrize("policy", ["default", "in_order"])
@pytest.mark.parametrize("told", [{}, {"survey": "fails"}])
def test_plan_writes_nothing_but_data_to_stdout(
    tmp_path: Path, policy: str, told: dict[str, Any]
) -> None:
    job = foreseen_job(tmp_path, "1500MiB", told, policy=policy)

    found = asked("plan", job, "--json")

    assert found.returncode == 0, found.stderr
    held = json.loads(found.stdout)
    if policy == "default":
        assert held["capacity_bytes"] == 1500 * MIB
        assert held["plans"][held["chosen"]]["settings"]["micro_batch"] == 4
        assert "Chosen: micro-batch 4 × accumulation 2" in asked("plan", job).stdout
    else:
        assert held["chosen"] is None
        assert "climbs in order" in found.stderr
    assert not (tmp_path / "runs").exists()
