"""Trainings that hang are named, ended and gone on with; slow ones are left alone."""

import json
import stat
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from autotune.core.failure import Failure
from autotune.world.policy_folder import policy_folder
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

# Seconds where the default policy has minutes; a first step starts processes on a busy machine.
QUICK = {
    "silence_start": "30s", "silence_step": "2s", "silence_aside": "30s", "stack_pause": "1s",
    "stop_grace": "3s", "term_grace": "2s", "release": "1s", "rank_grace": "5s",
}  # fmt: skip


def quick_policy(folder: Path, **limits: Any) -> Path:
    """Write the default policy with quick limits."""
    policy = YAML().load((policy_folder() / "default.yaml").read_text())
    policy["limits"].update(QUICK | limits)
    policy["choose"] = "in_order"
    with (folder / "quick.yaml").open("w") as file:
        YAML().dump(policy, file)
    return folder / "quick.yaml"


def hanging_job(folder: Path, told: dict[str, Any], attempts: int = 5, **limits: Any) -> Path:
    """Make a job under the default policy with quick limits."""
    policy = str(quick_policy(folder, **limits))
    return make_job(folder, told, policy=policy, limits={"attempts": attempts})


@pytest.mark.parametrize(
    ("kind", "rank", "words"),
    [
        ("stopped", 1, ["rank 1 (process", "is stopped", "kill -CONT"]),
        ("build_lock", 0, ["fused_adam/lock is the run's own", "rank 1 waits for it"]),
        ("elsewhere", 0, ["rank 0 stands still at `hang` (", "rank 1 waits for it"]),
    ],
)
def test_a_hang_is_named_ended_and_gone_on_with(
    tmp_path: Path, kind: str, rank: int, words: list[str]
) -> None:
    job = hanging_job(tmp_path, {"hang_at": {"1:5": kind}})

    assert run(job) == 0, terminal(job)

    first, second = story(job).attempts
    assert first.diagnosis is not None
    assert first.evidence is not None
    assert (first.failure, first.diagnosis.rank) == (Failure.HANG, rank)
    assert [word for word in words if word not in first.diagnosis.why] == []
    assert first.evidence.ended_by_us == "hang"
    assert first.diagnosis.evidence
    assert (second.failure, second.launch.checkpoint_step) == (Failure.NONE, 3)
    assert trained_steps(job) == list(range(1, 13))
    assert left_behind(job) == []
    taken = run_folder(job) / "attempts" / "001" / "stacks"
    assert "rank 1" in (taken / "stacks.txt").read_text()
    assert {stat.S_IMODE(path.stat().st_mode) & 0o077 for path in taken.iterdir()} == {0}


def test_what_is_slow_for_a_reason_is_never_touched(tmp_path: Path) -> None:
    told = {
        # Ten times as long is explained, once two looks a second apart have seen steps go by.
        "seconds": 0.5,
        "slow_at": {
            "1": ["first_step", 6], "3": ["eval", 3], "4": ["save", 3], "11": ["step", 2.5],
        },
    }  # fmt: skip
    job = hanging_job(tmp_path, told, silence_start="4s")

    assert run(job) == 0, terminal(job)

    (only,) = story(job).attempts
    assert only.evidence is not None
    assert (only.failure, only.evidence.stacks) == (Failure.NONE, ())
    assert "left alone" not in terminal(job)


def test_what_is_silent_and_moves_is_looked_at_and_left_alone(tmp_path: Path) -> None:
    job = hanging_job(tmp_path, {"slow_at": {"4": ["loop", 7]}})

    assert run(job) == 0, terminal(job)

    assert "left alone" in terminal(job)
    (only,) = story(job).attempts
    assert only.failure is Failure.NONE


def test_what_moves_and_gets_nowhere_is_ended_in_the_end(tmp_path: Path) -> None:
    told = {"slow_at": {"4": ["loop", 1000]}}
    job = hanging_job(tmp_path, told, 1, silence_factor=2, silence_step="1s", stall_looks=1)

    assert run(job) == 1

    (only,) = story(job).attempts
    assert only.diagnosis is not None
    assert only.failure is Failure.HANG
    assert "gets nowhere" in only.diagnosis.why


def test_a_stop_ends_a_hanging_training_after_its_grace(tmp_path: Path) -> None:
    job = hanging_job(tmp_path, {"hang_at": {"1:5": "elsewhere"}}, silence_step="1h")
    supervisor = start(job)
    events = run_folder(job) / "attempts" / "001" / "events" / "rank0.jsonl"
    until(lambda: events.exists() and '"step": 4' in events.read_text(), "the last step")

    supervisor.terminate()

    assert supervisor.wait(timeout=60) == 4
    (only,) = story(job).attempts
    assert only.failure is Failure.NONE
    assert only.evidence is not None
    assert [stack.rank for stack in only.evidence.stacks] == [0, 1]
    assert left_behind(job) == []


def test_a_supervisor_that_comes_back_ends_what_hangs_without_a_look(tmp_path: Path) -> None:
    job = hanging_job(tmp_path, {"hang_at": {"1:5": "stopped"}}, silence_step="1h")
    rank_0 = run_folder(job) / "attempts" / "001" / "events" / "rank0.jsonl"
    asked = '"kind": "stop_yourself"'
    kill_when(
        start(job), lambda: rank_0.exists() and asked in rank_0.read_text(), "rank 1 to be stopped"
    )

    assert run(job) == 0, terminal(job)

    first, second = story(job).attempts
    assert first.evidence is not None
    assert first.evidence.ended_by_us == "supervisor_lost"
    assert (second.failure, second.launch.checkpoint_step) == (Failure.NONE, 3)
    assert left_behind(job) == []


def test_a_hanging_proof_ends_unproven(tmp_path: Path) -> None:
    job = hanging_job(tmp_path, {"hang_at": {"0:0": "elsewhere"}}, silence_start="3s")

    assert run(job) == 0

    proof = json.loads((run_folder(job) / "known-good" / "proof.json").read_text())
    assert proof["proven"] is False
    assert "hang" in json.dumps(proof)
    assert left_behind(job) == []


def test_a_training_whose_loss_is_lost_is_ended(tmp_path: Path) -> None:
    told = {"total": 2000, "seconds": 0.02, "lost_from": {"1": 7}}
    job = hanging_job(tmp_path, told)

    assert run(job) == 1

    (only,) = story(job).attempts
    assert only.diagnosis is not None
    assert only.failure is Failure.NUMERIC_DIVERGENCE
    assert "no finite number for" in only.diagnosis.why
    assert left_behind(job) == []
