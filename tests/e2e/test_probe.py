"""What the probe adds to a run: a plan that was not followed is told, and blindness is a gap."""

import json
from pathlib import Path

import pytest

from autotune.world.channel import NOT_INSIDE
from tests.e2e.fast_job import make_job, run, run_folder, story, terminal

pytestmark = pytest.mark.e2e


def test_a_plan_that_the_framework_ignored_is_told_at_once_and_kept(tmp_path: Path) -> None:
    job = make_job(tmp_path, {"in_force": {"micro_batch": 16, "zero_stage": 2}}, proof=False)
    assert run(job) == 0
    said = "micro_batch is 16 in force and 8 in the plan"
    assert terminal(job).count(f"attempt 1 does not train by its plan: {said}") == 1
    evidence = story(job).attempts[0].evidence
    assert evidence is not None
    assert evidence.ignored == (said,)
    # The stand-in imports no torch, so nothing was seen from inside of it.
    assert NOT_INSIDE in evidence.gaps


def test_a_snapshot_is_asked_of_the_ranks_where_the_job_says_how_large(tmp_path: Path) -> None:
    job = make_job(tmp_path / "seen", snapshot="1MiB", proof=False)
    assert run(job) == 0
    given = (run_folder(job) / "attempts" / "001" / "probe" / "probe.json").read_text()
    assert json.loads(given)["snapshot_bytes"] == 2**20
    assert run(make_job(tmp_path / "blind", snapshot="1MiB", probe="off")) == 2
    assert "made by the probe" in terminal(tmp_path / "blind" / "job.yaml")


def test_a_job_may_do_without_the_probe(tmp_path: Path) -> None:
    job = make_job(tmp_path, probe="off", proof=False)
    assert run(job) == 0
    folder = run_folder(job) / "attempts" / "001"
    assert not (folder / "probe").exists()
    assert "PYTHONPATH" not in json.loads((folder / "command.json").read_text())["env"]
    evidence = story(job).attempts[0].evidence
    assert evidence is not None
    assert NOT_INSIDE not in evidence.gaps
