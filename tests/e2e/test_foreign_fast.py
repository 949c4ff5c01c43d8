"""A user's own script under the real `autotune run`: refused, resumed, stopped, relaunched."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from tests.child.probed import FAKE_STACK
from tests.e2e.fast_job import until
from tests.e2e.test_plain_script import launches

pytestmark = pytest.mark.e2e

SCRIPT = Path(__file__).parent / "fast_script.py"


def make_job(folder: Path, *more: str, **changes: Any) -> Path:
    """Write a job whose script trains for real files in no time, and return its file."""
    command = [
        "python", str(SCRIPT), "--output_dir", "out", "--per_device_train_batch_size", "8",
        "--gradient_accumulation_steps", "2", *more,
    ]  # fmt: skip
    job: dict[str, Any] = {
        "name": "own", "framework": "hf", "settings": {"command": command}, "start": "as_given",
        "policy": "in_order", "checkpoints": {"every": 1}, "env": {"PYTHONPATH": FAKE_STACK},
    }  # fmt: skip
    with (folder / "job.yaml").open("w") as file:
        YAML().dump({**job, **changes}, file)
    return folder / "job.yaml"


def begin(job: Path) -> "subprocess.Popen[bytes]":
    with (job.parent / "terminal").open("a") as terminal:
        return subprocess.Popen(
            [sys.executable, "-m", "autotune.cli.app", "run", str(job)],
            stdout=terminal,
            stderr=terminal,
            env={
                **os.environ,
                "DS_ACCELERATOR": "cpu",
                "XDG_STATE_HOME": str(job.parent / "state"),
            },
        )


def ended(job: Path) -> int:
    return begin(job).wait(timeout=120)


def said(job: Path) -> str:
    return (job.parent / "terminal").read_text()


def test_a_refused_script_goes_on_from_its_checkpoint_and_its_known_good_relaunches(
    tmp_path: Path,
) -> None:
    job = make_job(tmp_path, "--fits", "4@4")
    assert ended(job) == 0, said(job)
    run = tmp_path / "runs" / "own"
    first, second = launches(run)
    assert (first["plan"]["micro_batch"], first["plan"]["accumulation"]) == (8, 2)
    assert (second["plan"]["micro_batch"], second["plan"]["accumulation"]) == (4, 4)
    assert (second["checkpoint_step"], second["carry"]["kind"]) == (3, "same")
    assert json.loads((run / "known-good" / "proof.json").read_text())["proven"]
    assert not (tmp_path / "out").exists()
    script = run / "known-good" / "launch.sh"
    done = subprocess.run(["sh", script], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    assert (run / "known-good" / "output" / "checkpoint-6" / "trainer_state.json").exists()


def test_the_known_good_is_a_job_that_starts_where_the_run_ended(tmp_path: Path) -> None:
    job = make_job(tmp_path, "--fits", "2@1", proof=False)
    assert ended(job) == 0, said(job)
    again = tmp_path / "runs" / "own" / "known-good" / "job.yaml"
    assert ended(again) == 0, said(again)
    (only,) = launches(again.parent / "runs" / "own")
    assert (only["plan"]["micro_batch"], only["plan"]["accumulation"]) == (2, 8)


def test_a_stop_saves_at_the_next_step_and_the_same_command_goes_on(tmp_path: Path) -> None:
    job = make_job(tmp_path, "--seconds", "0.2", proof=False, checkpoints={"every": 100})
    events = tmp_path / "runs" / "own" / "attempts" / "001" / "events" / "rank0.jsonl"
    begun = begin(job)
    until(lambda: events.exists() and '"kind": "step"' in events.read_text(), "its first step")
    begun.send_signal(signal.SIGTERM)
    assert begun.wait(timeout=60) == 4, said(job)
    assert ended(job) == 0, said(job)
    first, second = launches(tmp_path / "runs" / "own")
    assert (first["checkpoint_step"], second["checkpoint_step"] > 0) == (0, True)


def test_a_failure_after_the_last_step_is_no_good_end_and_is_gone_on_from(tmp_path: Path) -> None:
    job = make_job(tmp_path, "--fails_after", str(tmp_path / "failed"), proof=False)
    assert ended(job) == 1, said(job)
    assert "the final model has no name" in said(job)
    assert ended(job) == 0, said(job)
    run = tmp_path / "runs" / "own"
    assert [one["checkpoint_step"] for one in launches(run)] == [0, 6]
    assert (run / "checkpoints" / "final").exists()


def test_a_mistake_in_the_users_script_is_told_as_such(tmp_path: Path) -> None:
    job = make_job(tmp_path, "--no_such_option", "1", proof=False)
    assert ended(job) == 1
    assert len(launches(tmp_path / "runs" / "own")) == 1, said(job)
