"""The marks that make a foreign Trainer's checkpoint one of ours, without ranks waiting."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from autotune.child.probe import marks, moments, settings, state
from autotune.world.checkpoints import BEGUN, SENTINEL, Checkpoint, inspect, remove_broken


@pytest.fixture
def saving(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A training of two ranks at step 4, and the folder it saves into."""
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setattr(settings, "_given", {"attempt": 7, "rescue": {}})
    monkeypatch.setattr(state, "trainer", SimpleNamespace())
    path = tmp_path / "checkpoint-4"
    as_rank(0, monkeypatch)
    marks.begun(step=4, path=str(path))
    return path


def as_rank(number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(state, "rank", lambda: number)


def fill(path: Path, **files: Any) -> None:
    """Write what transformers writes."""
    (path / "trainer_state.json").write_text(json.dumps({"global_step": 4}))
    for name in ("optimizer", "scheduler"):
        (path / f"{name}.pt").write_bytes(b"x")


def test_a_checkpoint_is_whole_when_every_rank_has_written(
    saving: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(saving)
    for rank in (1, 0):
        assert not (saving / SENTINEL).exists()
        as_rank(rank, monkeypatch)
        marks.written(step=4, path=str(saving))
    assert inspect(saving) == Checkpoint(saving, 4, 7)
    assert not [one.name for one in saving.iterdir() if "rank" in one.name or one.name == BEGUN]


def test_one_that_a_rank_did_not_finish_is_half_and_removed_as_ours(saving: Path) -> None:
    fill(saving)
    marks.written(step=4, path=str(saving))
    assert isinstance(inspect(saving), str)
    assert remove_broken(saving.parent, newer_than=0) == ["checkpoint-4"]


def test_a_plain_checkpoint_without_its_optimizer_is_no_start(
    saving: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(saving)
    for rank in (0, 1):
        as_rank(rank, monkeypatch)
        marks.written(step=4, path=str(saving))
    (saving / "optimizer.pt").unlink()
    assert inspect(saving) == "`optimizer.pt` is missing"


def test_a_loop_of_the_programs_own_is_left_to_lay_out_its_saves(
    saving: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(state, "trainer", None)
    marks.written(step=4, path=str(saving / "elsewhere"))
    assert not (saving / "elsewhere").exists()


@pytest.mark.parametrize("given", [{"own_events": True, "rescue": {}}, {"rescue": None}])
def test_the_built_in_trainer_and_a_proof_are_not_marked(
    given: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    heard: list[str] = []
    monkeypatch.setattr(settings, "_given", given)
    monkeypatch.setattr(moments, "on", lambda name, _: heard.append(name))
    marks.listen()
    assert heard == []
