"""Two nodes of one real training, both on this machine, from a refusal to a known-good of both."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests import environments
from tests.e2e import real_job, test_llamafactory
from tests.e2e.real_job import begin, nobody_left, steps

pytestmark = pytest.mark.slow

TWO = {"nodes": 2, "address": "127.0.0.1"}
MIB = 2**20


def train(job: Path, name: str) -> Path:
    """Run the job on two nodes to its end and return its run folder."""
    run = job.parent / "runs" / name
    with (job.parent / "member").open("w") as said:
        other = subprocess.Popen(
            [sys.executable, "-m", "autotune.cli.app", "join", str(run)],
            stdout=said,
            stderr=said,
            env={**os.environ, "DS_ACCELERATOR": "cpu"},
        )
        ended = begin(job).wait()
    told = (job.parent / "terminal").read_text() + (job.parent / "member").read_text()
    assert (ended, other.wait(60)) == (0, 0), told
    assert nobody_left(run)
    return run


def relaunch(good: Path) -> None:
    """Start both nodes of the known-good without autotune."""
    nodes = [
        subprocess.Popen(["sh", str(good / name)], stdout=subprocess.DEVNULL)
        for name in ("launch.sh", "launch-node-1.sh")
    ]
    assert [node.wait(600) for node in nodes] == [0, 0]


def launches(run: Path) -> list[dict[str, Any]]:
    """Return the launches that were decided."""
    told = test_llamafactory.journal(run)
    return [e for e in told if e["event"] == "decided" and e["step"] == "launch"]


def failures(run: Path) -> list[str]:
    """Return what each attempt was diagnosed with."""
    told = test_llamafactory.journal(run)
    return [e["diagnosis"]["failure"] for e in told if e["event"] == "attempt_ended"]


def test_a_refusal_on_two_nodes_leaves_a_known_good_that_both_start_from(tmp_path: Path) -> None:
    data = real_job.make_data(tmp_path)
    limit = {"use": 1, "memory_limit": 640 * MIB}
    job = real_job.make_job(tmp_path / "job", data, None, devices=limit, launcher=TWO)
    run = train(job, "real")
    first, *others = launches(run)
    assert failures(run) == ["device_oom"] * len(others) + ["none"]
    assert others[-1]["plan"]["micro_batch"] < first["plan"]["micro_batch"]
    assert {event["rank"] for event in steps(run, "001", all_ranks=True)} <= {0, 1}
    relaunch(run / "known-good")


def test_llamafactory_on_two_nodes_goes_on_from_its_checkpoint(tmp_path: Path) -> None:
    python = str(environments.python("llamafactory"))
    (tmp_path / "work").mkdir()
    work = test_llamafactory.prepare(tmp_path / "work")
    free = test_llamafactory.job_at(
        work, python, "free", None, launcher=TWO, devices={"use": 1}, proof=False
    )
    undisturbed = train(free, "free")
    held = min(int(one["memory"]["data_bytes"]) for one in steps(undisturbed, "001"))
    limit = {"use": 1, "memory_limit": held + test_llamafactory.ROOM}
    job = test_llamafactory.job_at(work, python, "limited", None, launcher=TWO, devices=limit)
    run = train(job, "limited")
    assert failures(run)[0] == "device_oom"
    assert launches(run)[-1]["checkpoint_step"] > 0, "it went on and did not begin anew"
    ours, theirs = (
        test_llamafactory.losses(test_llamafactory.final_state(one / "checkpoints"))
        for one in (run, undisturbed)
    )
    assert ours == pytest.approx(theirs, rel=2e-3)
    relaunch(run / "known-good")
