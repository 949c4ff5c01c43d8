"""Two nodes of one run, both on this machine: the first leads, the other does as it is told."""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from autotune.core.failure import Failure
from autotune.world.process import marked
from tests.e2e.fast_job import (
    kill_when,
    left_behind,
    make_job,
    run_folder,
    start,
    story,
    terminal,
    trained_steps,
    until,
)

pytestmark = pytest.mark.e2e

TWO = {"nodes": 2, "address": "127.0.0.1"}


def make(folder: Path, told: dict[str, Any] | None = None, **changes: Any) -> Path:
    devices = {"use": 1, "memory_limit": "2GiB"}
    return make_job(folder, told, launcher=TWO, devices=devices, **changes)


def join(job: Path, *options: str) -> "subprocess.Popen[str]":
    with (job.parent / "member").open("a") as said:
        return subprocess.Popen(
            [sys.executable, "-m", "autotune.cli.app", "join", str(run_folder(job)), *options],
            stdout=said,
            stderr=said,
            text=True,
            env={**os.environ, "DS_ACCELERATOR": "cpu"},
        )


@contextmanager
def both(job: Path) -> Iterator[tuple["subprocess.Popen[str]", "subprocess.Popen[str]"]]:
    first, other = start(job), join(job)
    try:
        yield first, other
    finally:
        for process in (first, other):
            process.kill()
            process.wait()
        for node in (*left_behind(job), *on_node_1(job)):
            os.kill(node, signal.SIGKILL)


def on_node_1(job: Path) -> list[int]:
    """Return the processes that node 1 started and that still live."""
    told = story(job).started
    assert told is not None
    folders = (run_folder(job) / "attempts").iterdir()
    return [p.pid for one in folders for p in marked(f"{told.run_id}/{one.name}/node-1")]


def said(job: Path) -> str:
    return f"{terminal(job)}\n{(job.parent / 'member').read_text()}"


def steps_saved(job: Path, attempt: int = 1) -> bool:
    events = run_folder(job) / "attempts" / f"{attempt:03d}" / "events" / "rank0.jsonl"
    return events.exists() and '"checkpoint"' in events.read_text()


def test_two_nodes_train_to_the_end_and_both_go(tmp_path: Path) -> None:
    job = make(tmp_path)
    with both(job) as (first, other):
        assert (first.wait(60), other.wait(60)) == (0, 0), said(job)
    good = run_folder(job) / "known-good"
    assert "--node_rank 0" in (good / "launch.sh").read_text()
    assert "--node_rank 1" in (good / "launch-node-1.sh").read_text()
    assert trained_steps(job) == list(range(1, 13))
    assert not left_behind(job)
    assert not on_node_1(job)


def test_memory_refused_on_the_other_node_is_answered_for_both(tmp_path: Path) -> None:
    slow = {"1:+5": ["until_stopped", 60]}
    job = make(tmp_path, {"refused": [1, 4], "slow_at": slow}, proof=False)
    with both(job) as (first, other):
        assert (first.wait(60), other.wait(60)) == (0, 0), said(job)
    one, two = story(job).attempts
    assert one.diagnosis is not None
    assert one.diagnosis.failure is Failure.DEVICE_OOM
    assert one.diagnosis.rank == 1
    assert (one.launch.plan.micro_batch, two.launch.plan.micro_batch) == (8, 4)
    assert two.launch.checkpoint_step > 0
    assert trained_steps(job) == list(range(1, 13))


def test_a_node_whose_keeper_is_killed_comes_back_and_nothing_is_doubled(tmp_path: Path) -> None:
    job = make(tmp_path, {"slow_at": {"1:+5": ["until_stopped", 60]}}, proof=False)
    with both(job) as (first, other):
        until(lambda: steps_saved(job), "a checkpoint")
        other.kill()
        other.wait()
        again = join(job)
        assert (first.wait(60), again.wait(60)) == (0, 0), said(job)
    one, two = story(job).attempts
    assert one.launch.plan == two.launch.plan
    assert trained_steps(job) == list(range(1, 13))
    assert not left_behind(job)
    assert not on_node_1(job)


def test_a_leader_that_is_killed_goes_on_with_the_same_other_node(tmp_path: Path) -> None:
    job = make(tmp_path, {"slow_at": {"1:+5": ["until_stopped", 60]}}, proof=False)
    with both(job) as (first, other):
        kill_when(first, lambda: steps_saved(job), "a checkpoint")
        again = start(job)
        assert (again.wait(90), other.wait(60)) == (0, 0), said(job)
    assert trained_steps(job) == list(range(1, 13))
    assert not left_behind(job)
    assert not on_node_1(job)


def test_a_signal_to_the_other_node_has_the_run_save_and_stop(tmp_path: Path) -> None:
    job = make(tmp_path, {"slow_at": {"1:+5": ["until_stopped", 60]}})
    with both(job) as (first, other):
        until(lambda: steps_saved(job), "a checkpoint")
        told = [sys.executable, "-m", "autotune.cli.app", "status", str(run_folder(job))]
        shown = subprocess.run(told, capture_output=True, text=True, check=True).stdout
        assert re.search(r"node 1: .+, ranks run", shown), shown
        other.send_signal(signal.SIGTERM)
        assert (first.wait(60), other.wait(60)) == (4, 4), said(job)
    assert "SIGTERM on node 1" in terminal(job)
    (only,) = story(job).attempts
    assert only.evidence is not None
    assert only.evidence.ended_by_us == "stop"
