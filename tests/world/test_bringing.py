"""A checkpoint of another run is copied whole or not at all, and its source stays as it is."""

import json
from pathlib import Path

import pytest

from autotune.world.bringing import bring
from autotune.world.checkpoints import BEGUN, SENTINEL, Checkpoint, inspect
from autotune.world.files import make_folder
from tests.world.checkpoint_layouts import plain, sharded

MARK = {"step": 4, "world_size": 2, "attempt": None, "plain": False, "from": "/elsewhere"}


def state_of(folder: Path) -> dict[str, tuple[int, int, int, bytes]]:
    """Return everything that could be changed of a folder's files."""
    found = {}
    for path in sorted(folder.rglob("*")):
        seen = path.stat()
        held = path.read_bytes() if path.is_file() else b""
        found[str(path)] = (seen.st_mode, seen.st_nlink, seen.st_mtime_ns, held)
    return found


def names_in(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir()]


@pytest.fixture
def into(tmp_path: Path) -> Path:
    made = tmp_path / "run" / "checkpoints"
    make_folder(made)
    return made


def go_on() -> bool:
    return False


def test_the_copy_is_a_whole_checkpoint_and_the_source_is_as_it_was(
    tmp_path: Path, into: Path
) -> None:
    source = sharded(tmp_path / "old", 4)
    (source / SENTINEL).write_text(json.dumps({"step": 4, "world_size": 2, "attempt": 3}))
    before = state_of(source)

    assert bring(source, into, {SENTINEL: MARK}, go_on)

    found = inspect(into / "checkpoint-4")
    assert found == Checkpoint(into / "checkpoint-4", 4, None)
    assert state_of(source) == before
    assert names_in(into) == ["checkpoint-4"]
    for path in (into / "checkpoint-4").rglob("*"):
        assert path.stat().st_mode & 0o077 == 0, path
        same = source / path.relative_to(into / "checkpoint-4")
        if path.is_file() and path.name != SENTINEL:
            assert path.read_bytes() == same.read_bytes()
            assert path.stat().st_ino != same.stat().st_ino  # what writes to it reaches no other


def test_files_that_say_something_else_take_the_place_of_the_sources(
    tmp_path: Path, into: Path
) -> None:
    source = plain(tmp_path / "old", 4, save_steps=500)
    state = {"global_step": 4, "save_steps": 10}
    mark = {**MARK, "plain": True}
    assert bring(source, into, {SENTINEL: mark, "trainer_state.json": state}, go_on)
    copy = into / "checkpoint-4" / "trainer_state.json"
    assert json.loads(copy.read_text()) == state
    assert json.loads((source / "trainer_state.json").read_text())["save_steps"] == 500


def test_cut_short_it_leaves_nothing_and_can_be_done_again(tmp_path: Path, into: Path) -> None:
    source = sharded(tmp_path / "old", 4)
    assert bring(source, into, {SENTINEL: MARK}, lambda: True) is False
    assert names_in(into) == []
    (into / ".arriving" / "checkpoint-4").mkdir(parents=True)  # of a supervisor that died at it
    assert bring(source, into, {SENTINEL: MARK}, go_on)
    assert names_in(into) == ["checkpoint-4"]


def test_done_before_it_is_left_alone(tmp_path: Path, into: Path) -> None:
    source = sharded(tmp_path / "old", 4)
    bring(source, into, {SENTINEL: MARK}, go_on)
    before = state_of(into)
    assert bring(source, into, {SENTINEL: MARK}, go_on)
    assert state_of(into) == before


def test_nothing_is_copied_through_a_link(tmp_path: Path, into: Path) -> None:
    source = sharded(tmp_path / "old", 4)
    (source / "extra.pt").symlink_to("/etc/passwd")
    with pytest.raises(OSError, match="no ordinary file"):
        bring(source, into, {SENTINEL: MARK}, go_on)
    (source / "extra.pt").unlink()
    into.rmdir()
    into.symlink_to(tmp_path / "old")
    with pytest.raises(OSError, match="a link"):
        bring(source, into, {SENTINEL: MARK}, go_on)


def test_the_mark_of_a_save_that_began_is_not_taken_along(tmp_path: Path, into: Path) -> None:
    source = sharded(tmp_path / "old", 4)
    (source / SENTINEL).write_text(json.dumps({"step": 4, "world_size": 2}))
    (source / BEGUN).write_text("{}")
    assert bring(source, into, {SENTINEL: MARK}, go_on)
    assert not (into / "checkpoint-4" / BEGUN).exists()
