"""A rank of a real DeepSpeed training is stopped, named, and the run goes on to its end."""

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.fast_job import until
from tests.e2e.real_job import begin, make_data, make_job, nobody_left, steps, story_of_steps
from tests.e2e.test_hangs import quick_policy

pytestmark = [pytest.mark.train, pytest.mark.slow]


def test_a_stopped_rank_of_a_real_training_is_named_and_survived(tmp_path: Path) -> None:
    policy = quick_policy(tmp_path, silence_start="5m", silence_step="10s", silence_aside="15s")
    job = make_job(tmp_path, make_data(tmp_path), None, policy=str(policy), proof=False)
    run = job.parent / "runs" / "real"
    supervisor = begin(job)
    until(lambda: len(steps(run, "001")) >= 2, "two steps", seconds=300)

    os.kill(pid_of(run, rank=1), signal.SIGSTOP)

    assert supervisor.wait(timeout=400) == 0, (tmp_path / "terminal").read_text()
    journal = [json.loads(line) for line in (run / "journal.jsonl").read_text().splitlines()]
    first, second = (event for event in journal if event["event"] == "attempt_ended")
    assert (first["diagnosis"]["failure"], first["diagnosis"]["rank"]) == ("hang", 1)
    assert "is stopped" in first["diagnosis"]["why"]
    assert second["diagnosis"]["failure"] == "none"
    waiting = first["evidence"]["stacks"][0]
    assert waiting["source"] == "faulthandler"
    assert waiting["waiting"]["signature"] == "waits_in_collective"
    assert any("finetune.py" in frame["file"] for frame in waiting["frames"])
    assert list(story_of_steps(run)) == [1, 2, 3, 4, 5]
    assert nobody_left(run)


def pid_of(run: Path, rank: int) -> int:
    """Return the process id that a rank of the first attempt reported."""
    lines = (run / "attempts" / "001" / "events" / f"rank{rank}.jsonl").read_text().splitlines()
    events: list[dict[str, Any]] = [json.loads(line) for line in lines]
    return next(int(event["pid"]) for event in events if event["kind"] == "start")
