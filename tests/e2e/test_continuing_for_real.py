"""Real trainings go on from checkpoints of other runs, with the losses of undisturbed ones."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from autotune.world.checkpoints import newest
from tests.e2e import real_job
from tests.e2e import test_plain_script as script
from tests.e2e.fast_job import until
from tests.world.test_bringing import state_of

pytestmark = [pytest.mark.train, pytest.mark.slow]


def make_job(folder: Path, data: Path, **changes: Any) -> Path:
    """Write a job of the built-in trainer whose steps take no time."""
    rows = {"train": str(data / "short.jsonl"), "sequence": 64, "shuffle": False}
    settings = {"data": rows, "model": {**real_job.MODEL, "hidden_size": 64}}
    return real_job.make_job(folder, data, None, settings=settings, **changes)


def said(job: Path) -> str:
    return (job.parent / "terminal").read_text()


def launched(run: Path) -> tuple[int, str]:
    """Return where the only attempt began, and how it came by its start."""
    (only,) = script.launches(run)
    return only["checkpoint_step"], only["carry"]["kind"]


@pytest.mark.parametrize(("ranks", "carried", "apart"), [(2, "same", 0.0), (1, "staged", 2e-4)])
def test_a_run_that_was_stopped_is_gone_on_with_by_another(
    tmp_path: Path, ranks: int, carried: str, apart: float
) -> None:
    data = real_job.make_data(tmp_path)
    whole = make_job(tmp_path / "whole", data, proof=False)
    assert real_job.begin(whole).wait(timeout=600) == 0, said(whole)
    stopped = make_job(tmp_path / "stopped", data, proof=False)
    first = stopped.parent / "runs" / "real"
    supervisor = real_job.begin(stopped)
    until(lambda: newest(first / "checkpoints"), "a checkpoint", seconds=600)
    supervisor.send_signal(signal.SIGTERM)
    assert supervisor.wait(timeout=300) == 4, said(stopped)
    before = state_of(first / "checkpoints")
    asks = {"every": 1, "keep": 2, "continue_from": "../stopped/runs/real"}
    job = make_job(tmp_path / "second", data, devices={"use": ranks}, checkpoints=asks)

    assert real_job.begin(job).wait(timeout=600) == 0, said(job)

    run = job.parent / "runs" / "real"
    source = newest(first / "checkpoints")
    assert source is not None
    assert launched(run) == (source.step, carried)
    ours, theirs = (real_job.story_of_steps(one.parent / "runs" / "real") for one in (job, whole))
    print({step: (loss, theirs[step][0]) for step, (loss, _) in ours.items()})
    assert sorted(ours) == list(range(source.step + 1, 6))
    for step, (loss, samples) in ours.items():
        assert samples == theirs[step][1], step
        assert loss == pytest.approx(theirs[step][0], rel=apart, abs=0), step
    assert state_of(first / "checkpoints") == before
    proof = json.loads((run / "known-good" / "proof.json").read_text())
    assert proof["proven"], proof["why"]
    assert proof["faithfulness"]["breaches"] == []


def test_what_a_script_saved_by_itself_is_gone_on_from(tmp_path: Path) -> None:
    alone = script.make_job(tmp_path / "alone")
    words = [
        sys.executable, str(script.SCRIPT), "--output_dir", "out", "--config_name", "model.json",
        "--rows", "48", "--per_device_train_batch_size", "8", "--num_train_epochs", "1",
        "--learning_rate", "1e-3", "--train_sampling_strategy", "sequential", "--use_cpu", "true",
        "--save_steps", "3", "--logging_steps", "1", "--report_to", "none",
    ]  # fmt: skip
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    subprocess.run(words, cwd=alone.parent, env=env, check=True, timeout=300, capture_output=True)
    out = alone.parent / "out"
    before = state_of(out)
    history = json.loads((out / "checkpoint-6" / "trainer_state.json").read_text())["log_history"]
    theirs = {one["step"]: one["loss"] for one in history if "loss" in one}
    asks = {"every": 1, "keep": 2, "continue_from": "../alone/out/checkpoint-3"}
    job = script.make_job(tmp_path / "job", checkpoints=asks, devices={"use": 1})

    assert real_job.begin(job).wait(timeout=600) == 0, said(job)

    run = job.parent / "runs" / "plain"
    assert launched(run) == (3, "same")
    ours = script.losses(run, "001")
    print(ours, theirs)
    assert sorted(ours) == [4, 5, 6]
    for step, loss in ours.items():
        assert loss == pytest.approx(theirs[step], rel=1e-4), step
    assert (run / "checkpoints" / "checkpoint-5").exists()  # every step, as the job says
    assert state_of(out) == before
    assert (script.relaunch(run) / "model.safetensors").exists()
