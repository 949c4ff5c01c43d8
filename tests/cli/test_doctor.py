"""`autotune doctor` looks at this machine for real, with a job and without."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from autotune.cli.job_needs import asked_of
from autotune.core.doctor.facts import Needs
from autotune.core.fault import InputError
from tests.e2e.fast_job import make_job

pytestmark = pytest.mark.long


def doctor(*arguments: str, **env: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "autotune.cli.app", "doctor", *arguments],
        capture_output=True, text=True, timeout=300, check=False,
        env={**os.environ, "DS_ACCELERATOR": "cpu", **env},
    )  # fmt: skip


@pytest.mark.train
def test_the_machine_that_runs_these_tests_is_looked_at_for_real() -> None:
    done = doctor("--json")
    told = json.loads(done.stdout)
    assert done.returncode == (0 if told["fit"] else 2)
    assert told["schema"] == 1
    found = {one["name"]: one for one in told["findings"]}
    # These tests train here, so what they rest on was found to work.
    assert found["torch.build"]["what"].startswith("torch ")
    assert {"deepspeed.ops", "bitsandbytes.backend", "build.compiler", "disk.speed"} <= set(found)
    assert all(one["cost"] and one["do"] for one in found.values() if one["severity"] != "ok")


def test_a_python_without_the_stack_is_unfit_and_said_so_in_words(tmp_path: Path) -> None:
    job = make_job(tmp_path)
    wrapper = tmp_path / "python"
    wrapper.write_text(f'#!/bin/sh\nexec "{sys.executable}" -E -S "$@"\n')
    done = doctor(str(job))
    assert done.returncode == 2, done.stderr
    assert done.stdout.startswith("problem  torch ")
    assert "not fit: " in done.stdout
    assert str(wrapper) in done.stderr
    assert not (tmp_path / "runs").exists()


def test_a_job_file_that_is_wrong_is_told_as_everywhere(tmp_path: Path) -> None:
    job = make_job(tmp_path, bath={})
    done = doctor(str(job))
    assert (done.returncode, done.stdout) == (2, "")
    assert "`bath` is not a key autotune knows" in done.stderr


def test_what_a_job_asks_of_the_machine_is_read_from_its_settings(tmp_path: Path) -> None:
    nvme = {"device": "nvme", "nvme_path": "/nvme"}
    job = make_job(
        tmp_path,
        devices={"use": [0, 2, 3], "memory_limit": "2GiB", "host_memory_limit": "8GiB"},
        settings={
            "optimizer": "adamw_8bit",
            "deepspeed": {"zero_optimization": {"stage": 3, "offload_param": nvme},
                          "optimizer": {"type": "AdamW", "params": {"lr": 1e-3}}},
        },
    )  # fmt: skip
    asked = asked_of(job)
    assert asked.run_folder == tmp_path / "runs" / "fast"
    assert asked.python == str(tmp_path / "python")
    needs = asked.needs
    assert (needs.device, needs.ranks) == ("cuda", 3)
    assert needs.ops == ("cpu_adam", "async_io")
    assert (needs.eight_bit, needs.quantized, needs.pinned) == (True, False, True)
    assert (needs.host_memory_limit, needs.memory_limit_bytes) == (True, 2 * 2**30)
    assert needs.checkpoint_bytes


def test_without_a_job_nothing_is_asked_of_the_machine() -> None:
    assert asked_of(None).needs == Needs()


def test_a_job_that_is_not_there_is_an_error_of_input(tmp_path: Path) -> None:
    with pytest.raises(InputError):
        asked_of(tmp_path / "none.yaml")
