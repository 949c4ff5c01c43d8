"""A run goes on from the checkpoint of another one, which it never touches."""

import json
import os
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest

from autotune.world.checkpoints import newest
from autotune.world.yaml_files import read_document
from tests.e2e import test_foreign_fast as foreign
from tests.e2e.fast_job import (
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
from tests.e2e.test_plain_script import launches
from tests.world.test_bringing import state_of

pytestmark = pytest.mark.e2e


@pytest.fixture(scope="module")
def stopped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the run folder of a run that was stopped in its middle."""
    job = make_job(tmp_path_factory.mktemp("first"), {"seconds": 0.2})
    checkpoints = run_folder(job) / "checkpoints"
    supervisor = start(job)
    until(lambda: newest(checkpoints), "a checkpoint")
    supervisor.send_signal(signal.SIGTERM)
    assert supervisor.wait(timeout=60) == 4, terminal(job)
    return run_folder(job)


@pytest.fixture
def source(stopped: Path, tmp_path: Path) -> Path:
    """Return the newest checkpoint of such a run."""
    shutil.copytree(stopped, tmp_path / "first")
    found = newest(tmp_path / "first" / "checkpoints")
    assert found is not None
    return found.path


def asking(folder: Path, path: Path, tale: dict[str, Any] | None = None, **changes: Any) -> Path:
    checkpoints = {"every": 3, "keep": 3, "continue_from": str(path)}
    return make_job(folder, tale, checkpoints=checkpoints, **changes)


def test_the_steps_after_it_are_trained_and_the_source_is_as_it_was(
    tmp_path: Path, source: Path
) -> None:
    before, step = state_of(source.parent), int(source.name.split("-")[1])
    job = asking(tmp_path / "second", source.parents[1])

    assert run(job) == 0, terminal(job)

    first = story(job).attempts[0].launch
    assert (first.checkpoint_step, first.carry.kind.value) == (step, "same")
    assert trained_steps(job) == list(range(step + 1, 13))
    assert state_of(source.parent) == before
    assert f"from step {step} of {source}" in terminal(job)
    proof = json.loads((run_folder(job) / "known-good" / "proof.json").read_text())
    assert proof["proven"]
    assert proof["faithfulness"]["breaches"] == []
    assert f"steps 1 to {step} were trained by another run" in proof["faithfulness"]["unknown"]
    good = read_document(run_folder(job) / "known-good" / "job.yaml").value
    assert good["checkpoints"]["continue_from"] == str(source)


def test_refused_memory_it_climbs_as_from_a_checkpoint_of_its_own(
    tmp_path: Path, source: Path
) -> None:
    step = int(source.name.split("-")[1])
    job = asking(tmp_path / "second", source, {"fits": {"0": 4}})

    assert run(job) == 0, terminal(job)

    launches = [one.launch for one in story(job).attempts]
    assert [one.checkpoint_step for one in launches] == [step, step]
    assert [one.plan.micro_batch for one in launches] == [8, 4]
    assert trained_steps(job) == list(range(step + 1, 13))


def test_for_another_number_of_ranks_it_is_converted(tmp_path: Path, source: Path) -> None:
    job = asking(tmp_path / "second", source, devices={"use": 1, "memory_limit": "2GiB"})
    assert run(job) == 0, terminal(job)
    told = story(job).attempts[0]
    assert told.launch.carry.kind.value == "staged"
    assert told.prepared is not None
    assert told.prepared.ok


def test_killed_while_it_copies_it_begins_with_the_copy_all_the_same(
    tmp_path: Path, source: Path
) -> None:
    job = asking(tmp_path / "second", source)
    large = source / "large.bin"
    with large.open("wb") as file:
        file.write(b"\x80")
        file.truncate(2**31)  # nothing but a hole: it takes a while, and no room
    draft = run_folder(job) / "checkpoints" / ".arriving"
    supervisor = start(job)
    until(draft.exists, "the copy has begun")
    supervisor.kill()
    supervisor.wait()
    os.truncate(large, 2**20)

    assert run(job) == 0, terminal(job)

    assert story(job).attempts[0].launch.checkpoint_step > 0
    assert not draft.exists()
    assert left_behind(job) == []


def test_started_again_it_needs_the_source_no_more(tmp_path: Path, source: Path) -> None:
    job = asking(tmp_path / "second", source, {"seconds": 0.2})
    supervisor = start(job)
    until(lambda: newest(run_folder(job) / "checkpoints"), "the copy")
    until(lambda: (run_folder(job) / "attempts" / "001" / "output.log").exists(), "an attempt")
    supervisor.send_signal(signal.SIGTERM)
    assert supervisor.wait(timeout=60) == 4, terminal(job)
    source.rename(source.with_name("gone"))
    assert run(job) == 0, terminal(job)


def test_the_folder_that_a_tool_saved_into_by_itself_is_gone_on_from(tmp_path: Path) -> None:
    (tmp_path / "first").mkdir()
    (tmp_path / "second").mkdir()
    first = foreign.make_job(tmp_path / "first", "--max_steps", "4", proof=False)
    assert foreign.ended(first) == 0, foreign.said(first)
    source = tmp_path / "first" / "runs" / "own" / "checkpoints" / "checkpoint-4"
    for mark in source.glob("autotune-*"):
        mark.unlink()  # as the script by itself leaves it
    aside = source.rename(tmp_path / "checkpoint-4")
    asks = {"every": 1, "continue_from": "../checkpoint-4"}
    second = foreign.make_job(tmp_path / "second", proof=False, checkpoints=asks)

    assert foreign.ended(second) == 0, foreign.said(second)

    (only,) = launches(tmp_path / "second" / "runs" / "own")
    assert (only["checkpoint_step"], only["carry"]["kind"]) == (4, "same")
    assert "is the owner's to know" in foreign.said(second)
    assert sorted(path.name for path in aside.iterdir()) == [
        "model.safetensors", "optimizer.pt", "scheduler.pt", "trainer_state.json",
    ]  # fmt: skip
