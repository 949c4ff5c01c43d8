"""`autotune run` trying faster plans at checkpoints; the trainer says how long its steps take."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from autotune.core.history import Story
from tests.e2e.fast_job import (
    kill_when,
    left_behind,
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

STEPS = 60
GAIN = {"2": 10.0, "4": 5.0, "8": 4.0}
LOSS = {"2": 10.0, "4": 12.0, "8": 12.0}


def roomy_job(folder: Path, step_seconds: dict[str, float], **more: Any) -> Path:
    """Write a job that begins with a smaller micro-batch than there is room for."""
    told = {
        "total": STEPS, "seconds": 0.1, "step_seconds": step_seconds, **more.pop("story", {})
    }  # fmt: skip
    batch = {"global": 16, "micro": 2}
    ours = {"policy": "default", "proof": False, **more}
    return make_job(folder, told, batch=batch, **ours)


def trials(told: Story) -> list[tuple[int, int | None, str | None]]:
    """Return micro-batch, what it was a trial of and what ended it, attempt by attempt."""
    return [
        (one.plan.micro_batch, one.launch.trial_of, one.evidence.ended_by_us)
        for one in told.attempts
        if one.evidence is not None
    ]


def trained_samples(job: Path) -> list[int]:
    """Return the samples of every step that made it into the weights, in order."""
    found: dict[int, list[int]] = {}
    for attempt in story(job).attempts:
        file = run_folder(job) / "attempts" / f"{attempt.number:03d}" / "events" / "rank0.jsonl"
        lines = file.read_text().splitlines() if file.exists() else []
        events = [one for one in map(json.loads, lines) if one["kind"] == "step"]
        found.update({one["step"]: one["samples"] for one in events})
    return [sample for step in sorted(found) for sample in found[step]]


def each_step_once(job: Path) -> bool:
    """Return whether every step and every sample made it into the weights exactly once."""
    steps = trained_steps(job) == list(range(1, STEPS + 1))
    return steps and trained_samples(job) == list(range(16 * STEPS))


def status(job: Path, *options: str) -> str:
    """Return what `autotune status` prints of the run."""
    return subprocess.run(
        [sys.executable, "-m", "autotune.cli.app", "status", str(run_folder(job)), *options],
        capture_output=True, text=True, timeout=60, check=True,
    ).stdout  # fmt: skip


def test_a_plan_that_is_measured_to_be_faster_is_kept(tmp_path: Path) -> None:
    job = roomy_job(tmp_path, GAIN)
    supervisor = start(job)
    until(lambda: len(story_if_any(job)) > 1, "a trial")
    running = json.loads(status(job, "--json"))
    assert supervisor.wait(timeout=120) == 0

    assert trials(story(job)) == [(2, None, "climb"), (8, 1, None)]
    assert each_step_once(job)
    said = terminal(job)
    assert "a plan predicted to be faster is tried: micro-batch 8 × accumulation 1" in said
    assert "attempt 1 was stopped to try a faster plan" in said
    assert left_behind(job) == []
    for held in (running, json.loads(status(job, "--json"))):
        first, second = held["history"]
        assert (first["changes"], first["trial_of"], second["trial_of"]) == ([], None, 1)
        assert {"setting": "micro_batch", "before": "2", "after": "8"} in second["changes"]
    assert "attempt 2: micro-batch 8" in status(job)
    assert "micro: 8" in (run_folder(job) / "known-good" / "job.yaml").read_text()


def test_one_that_is_slower_is_left_again_and_not_tried_twice(tmp_path: Path) -> None:
    job = roomy_job(tmp_path, LOSS)

    assert run(job) == 0

    assert trials(story(job)) == [(2, None, "climb"), (8, 1, "not_faster"), (2, None, None)]
    assert each_step_once(job)
    assert "the trial takes 1.20 times as long for a token" in terminal(job)
    last = json.loads(status(job, "--json"))["history"][2]["changes"]
    assert {"setting": "micro_batch", "before": "8", "after": "2"} in last


def test_one_that_does_not_fit_costs_a_start_and_nothing_more(tmp_path: Path) -> None:
    job = roomy_job(tmp_path, GAIN, story={"fits": {"10": 2}})

    assert run(job) == 0

    told = trials(story(job))
    assert told[0] == (2, None, "climb")
    assert told[-1][0] == 2
    assert {one[0] for one in told if one[1]} <= {4, 8}
    assert each_step_once(job)


def test_where_none_is_wanted_none_is_tried(tmp_path: Path) -> None:
    job = roomy_job(tmp_path, GAIN, climb_back=0)

    assert run(job) == 0

    assert trials(story(job)) == [(2, None, None)]


def test_a_supervisor_killed_in_the_middle_of_a_trial_goes_on_to_the_same_end(
    tmp_path: Path,
) -> None:
    # The next supervisor finds the trial in its fourth step, before it could be judged.
    job = roomy_job(tmp_path, LOSS, story={"slow_at": {"2:+4": ["until_stopped", 90.0]}})
    kill_when(start(job), lambda: trial_steps(job) >= 3, "three steps of the trial")

    assert run(job) == 0

    assert trials(story(job)) == [
        (2, None, "climb"),
        (8, 1, "supervisor_lost"),
        (8, 1, "not_faster"),
        (2, None, None),
    ]
    assert each_step_once(job)
    assert left_behind(job) == []


def story_if_any(job: Path) -> tuple[object, ...]:
    """Return the attempts so far, none where the journal is not there yet."""
    try:
        return story(job).attempts
    except OSError:
        return ()


def trial_steps(job: Path) -> int:
    """Return how many steps the second attempt has made."""
    try:
        events = run_folder(job) / "attempts" / "002" / "events" / "rank0.jsonl"
        return events.read_text().count('"step"') // 2
    except OSError:
        return 0
