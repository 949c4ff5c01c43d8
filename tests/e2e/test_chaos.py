"""What injected faults have brought to light (tests/bench/chaos.py), each as a run met it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.e2e.fast_job import make_job, trained_steps

pytestmark = pytest.mark.e2e


def run_unheard(job: Path) -> int:
    """Run a job whose words go to a disk that is full."""
    env = {**os.environ, "DS_ACCELERATOR": "cpu", "XDG_STATE_HOME": str(job.parent / "state")}
    command = [sys.executable, "-m", "autotune.cli.app", "run", str(job)]
    with Path("/dev/full").open("w") as full:
        return subprocess.run(
            command, stdout=full, stderr=full, env=env, timeout=120, check=False
        ).returncode


def test_what_nobody_hears_still_ends_with_the_exit_code_it_deserves(tmp_path: Path) -> None:
    assert run_unheard(tmp_path / "none.yaml") == 2
    job = make_job(tmp_path / "job", {"total": 3, "seconds": 0.0})
    assert run_unheard(job) == 0
    assert trained_steps(job) == [1, 2, 3]
