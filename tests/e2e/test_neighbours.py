"""Of supervisors on the same GPUs the second waits, says for whom, and starts in its turn."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from autotune.core.record import Waited
from autotune.world.journal import read_journal
from autotune.world.process import marked
from tests.e2e.fast_job import make_job, run_folder, story, terminal, trained_steps, until
from tests.e2e.test_deeds import ON_FAKE_GPUS, included

pytestmark = pytest.mark.e2e

SLOW = {"seconds": 0.2, "total": 500}
ONE_RANK: dict[str, Any] = {"batch": {"global": 8, "micro": 8}, "proof": False}


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """Return where the jobs of a test meet, and nobody else's."""
    folder = tmp_path / "place"
    folder.mkdir()
    folder.chmod(0o1777)
    return folder


@pytest.fixture
def running() -> Iterator[list[subprocess.Popen[bytes]]]:
    """Collect supervisors that are ended with the test."""
    ours: list[subprocess.Popen[bytes]] = []
    yield ours
    for one in ours:
        one.terminate()
        one.terminate()
        one.wait(timeout=60)


def begin(job: Path, place: Path, *words: str, gpus: str = "0,1") -> subprocess.Popen[bytes]:
    """Start the command line on fake GPUs."""
    given = {
        "FAKE_GPUS": gpus, "FAKE_PLACE": str(place), "FAST_TORCH": "2.13.0",
        "PYTHONPATH": os.pathsep.join(sys.path), "XDG_STATE_HOME": str(job.parent / "state"),
    }  # fmt: skip
    hidden = ("DS_ACCELERATOR", "CUDA_VISIBLE_DEVICES")
    env = {**{k: v for k, v in os.environ.items() if k not in hidden}, **given}
    with (job.parent / "terminal").open("a") as said:
        return subprocess.Popen(
            [sys.executable, str(ON_FAKE_GPUS), *(words or ("run", str(job)))],
            env=env, stdout=subprocess.PIPE if words else said, stderr=said,
        )  # fmt: skip


def status(job: Path, place: Path) -> dict[str, Any]:
    """Return what `autotune status --json` says."""
    asked = begin(job, place, "status", str(run_folder(job)), "--json")
    said, _ = asked.communicate(timeout=60)
    return dict(json.loads(said))


def stepped(job: Path) -> bool:
    """Return whether the first attempt of a job has taken a step."""
    events = run_folder(job) / "attempts/001/events/rank0.jsonl"
    return events.exists() and '"step"' in events.read_text()


def rank_of(job: Path) -> int:
    """Return the process of the first attempt's rank 0."""
    events = run_folder(job) / "attempts/001/events/rank0.jsonl"
    lines = (json.loads(line) for line in events.read_text().splitlines())
    return int(next(line["pid"] for line in lines if line["kind"] == "start"))


def waits(job: Path) -> bool:
    """Return whether a job has said that it waits for devices."""
    return "waiting for devices" in terminal(job)


@pytest.mark.parametrize("how", ["stopped", "killed"])
def test_the_second_waits_for_the_first_says_for_whom_and_starts_when_it_has_ended(
    how: str, tmp_path: Path, place: Path, running: list[subprocess.Popen[bytes]]
) -> None:
    first = make_job(tmp_path / "first", SLOW, devices={"use": [0]}, **ONE_RANK)
    second = make_job(tmp_path / "second", {}, devices={"use": [0]}, **ONE_RANK)
    running.append(begin(first, place))
    until(lambda: stepped(first), "the first trains")
    running.append(begin(second, place))
    until(lambda: waits(second), "the second waits")

    said = status(second, place)
    assert said["state"] == "waiting"
    assert "GPU 0 is leased to" in said["waiting_for"]
    assert f"job fast (process {running[0].pid})" in said["waiting_for"]
    assert not (run_folder(second) / "attempts/001").exists()

    if how == "stopped":
        begin(first, place, "stop", str(run_folder(first))).communicate(timeout=60)
        assert running[0].wait(timeout=60) == 4
    else:
        running[0].kill()
        for process in marked(f"{story(first).started.run_id}/001"):  # type: ignore[union-attr]
            process.kill()
    assert running[1].wait(timeout=120) == 0, terminal(second)
    assert trained_steps(second) == list(range(1, 13))
    assert any(isinstance(e, Waited) for e in read_journal(run_folder(second) / "journal.jsonl"))
    assert story(second).spent == 1


def test_what_a_killed_supervisor_left_on_the_gpu_is_seen_without_its_lease(
    tmp_path: Path, place: Path, running: list[subprocess.Popen[bytes]]
) -> None:
    first = make_job(tmp_path / "first", SLOW, devices={"use": [0]}, **ONE_RANK)
    limited = {"use": [0], "memory_limit": "24GiB"}
    second = make_job(tmp_path / "second", {}, devices=limited, **ONE_RANK)
    running.append(begin(first, place))
    until(lambda: stepped(first), "the first trains")
    (place / "held.json").write_text(json.dumps({"0": [[rank_of(first), 60]]}))
    running[0].kill()
    running[0].wait()
    running.append(begin(second, place))
    until(lambda: waits(second), "the second waits")

    said = status(second, place)["waiting_for"]
    assert "GPU 0 has 20.00 GiB free and 24.00 GiB are needed" in said
    assert "60.00 GiB" in said

    for process in marked(f"{story(first).started.run_id}/001"):  # type: ignore[union-attr]
        process.kill()
    assert running[1].wait(timeout=120) == 0, terminal(second)
    assert story(second).spent == 1


def test_auto_takes_the_gpu_that_nobody_has(
    tmp_path: Path, place: Path, running: list[subprocess.Popen[bytes]]
) -> None:
    first = make_job(tmp_path / "first", SLOW, devices={"use": [0]}, **ONE_RANK)
    running.append(begin(first, place))
    until(lambda: stepped(first), "the first trains")
    # GPU 2 is leased to nobody, and somebody without autotune is on it.
    (place / "held.json").write_text(json.dumps({"2": [[os.getpid(), 30]]}))
    second = make_job(tmp_path / "second", {}, devices={"use": "auto"}, **ONE_RANK)

    running.append(begin(second, place, gpus="0,1,2"))

    assert running[1].wait(timeout=120) == 0, terminal(second)
    assert included(second, 1) == "localhost:1"
    assert "attempt 1 on GPU 1" in terminal(second)
    assert not waits(second)
    good = (run_folder(second) / "known-good" / "job.yaml").read_text()
    assert "use: 1" in good
