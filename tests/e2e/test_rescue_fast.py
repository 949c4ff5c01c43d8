"""Ranks that hold because memory was refused: saved, let go, or left by a supervisor that died."""

import json
import random
from pathlib import Path

import pytest

from autotune.cli.stop import stop
from autotune.core.failure import Failure
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

REFUSED = {"fits": {"4": 4, "9": 2}, "total": 12}


def job_of(folder: Path, holds: str, **changes: object) -> Path:
    """Write a job that saves nothing by itself before its end."""
    checkpoints = {"every": 100, "keep": 3}
    return make_job(folder, {**REFUSED, "holds": holds}, checkpoints=checkpoints, **changes)


def control(job: Path) -> str:
    path = run_folder(job) / "control.json"
    return path.read_text() if path.exists() else ""


def resumed_at(job: Path) -> list[int]:
    return [attempt.launch.checkpoint_step for attempt in story(job).attempts]


def test_the_last_step_before_a_refusal_is_what_the_next_attempt_starts_from(
    tmp_path: Path,
) -> None:
    job = job_of(tmp_path, "well")
    assert run(job) == 0, terminal(job)
    told = story(job)
    assert [a.plan.micro_batch for a in told.attempts] == [8, 4, 2]
    assert [a.failure for a in told.attempts[:2]] == [Failure.DEVICE_OOM] * 2
    assert resumed_at(job) == [0, 4, 9]
    assert [a.evidence.rescued.ok for a in told.attempts[:2] if a.evidence and a.evidence.rescued] \
        == [True, True]  # fmt: skip
    assert trained_steps(job) == list(range(1, 13))
    assert "step 4 was saved before it ended" in terminal(job)
    mark = run_folder(job) / "checkpoints" / "checkpoint-9" / "autotune-complete.json"
    assert json.loads(mark.read_text())["rescued"] is True
    assert not list(run_folder(job).glob("attempts/*/rescue"))
    assert left_behind(job) == []


def test_a_stop_asked_for_while_ranks_hold_is_seen_to_after_their_step_is_saved(
    tmp_path: Path,
) -> None:
    job = job_of(tmp_path, "late")
    supervisor = start(job)
    until(lambda: '"save"' in control(job), "the ranks be told to save")
    assert stop(run_folder(job)) == 0
    until(lambda: '"save"' in control(job), "the ranks be told again")
    (run_folder(job) / "save-now").touch()
    assert supervisor.wait(timeout=60) == 4, terminal(job)
    (only,) = story(job).attempts
    assert only.evidence is not None
    assert only.evidence.rescued is not None
    assert only.evidence.rescued.ok
    assert run(job) == 0
    assert resumed_at(job)[:2] == [0, 4]
    assert trained_steps(job) == list(range(1, 13))


@pytest.mark.parametrize(
    ("holds", "why"),
    [("spoiled", "is not what its rank wrote"), ("elsewhere", "saved step")],
)
def test_what_is_not_sound_is_no_checkpoint_and_the_ranks_are_let_go(
    holds: str, why: str, tmp_path: Path
) -> None:
    job = job_of(tmp_path, holds)
    assert run(job) == 0, terminal(job)
    assert resumed_at(job) == [0, 0, 0]
    assert why in terminal(job)
    assert left_behind(job) == []


def test_a_rank_that_writes_nothing_is_waited_for_only_so_long(tmp_path: Path) -> None:
    policies = Path(__file__).parents[2] / "policies"
    text = (policies / "in_order.yaml").read_text()
    base = (policies / "default.yaml").read_text()
    assert "extends: default" in text
    short = base.replace("rescue_grace: 60s", "rescue_grace: 1s").replace(
        "name: default", "name: short\nchoose: in_order"
    )
    (tmp_path / "short.yaml").write_text(short)
    job = job_of(tmp_path, "alone", policy="short.yaml")
    assert run(job) == 0, terminal(job)
    assert resumed_at(job) == [0, 0, 0]
    assert "nothing more was written for 1 s" in terminal(job)


def test_supervisors_killed_while_ranks_hold_never_take_half_for_whole(tmp_path: Path) -> None:
    chance = random.Random(4)
    job = job_of(tmp_path, "well")
    for _ in range(4):
        wanted = chance.choice(["save", "release", "run"])
        control = run_folder(job) / "control.json"
        supervisor = start(job)

        def spoken(word: str = wanted, path: Path = control) -> bool:
            return path.exists() and json.loads(path.read_text()).get("command") == word

        kill_when(supervisor, spoken, f"the word {wanted}")
    assert run(job) == 0, terminal(job)
    assert trained_steps(job) == list(range(1, 13))
    assert left_behind(job) == []
