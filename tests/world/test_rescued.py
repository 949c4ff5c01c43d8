"""What ranks wrote of their last step is a checkpoint only if all of it is there and sound."""

import json
from pathlib import Path
from typing import Any

import pytest

from autotune.core.rescue import Parts
from autotune.world import checkpoints
from autotune.world.rescued import RescueFolder
from tests.rescue_part import part as write_part

STEP = 7


def part(place: Path, rank: int, ranks: int, **changes: Any) -> None:
    write_part(place, rank, ranks, STEP, **changes)


def parts(place: Path, ranks: int) -> None:
    for rank in range(ranks):
        part(place, rank, ranks)


def after_a_while(folder: RescueFolder, step: int = STEP) -> Parts:
    seen = Parts()
    for _ in range(100):
        seen = folder.look(step)
        if seen.whole or seen.why:
            break
    return seen


def test_a_part_that_is_missing_is_waited_for(tmp_path: Path) -> None:
    folder = RescueFolder(tmp_path, 2)
    assert folder.look(STEP) == Parts()
    part(tmp_path, 0, 2)
    seen = folder.look(STEP)
    assert not seen.whole
    assert not seen.why
    assert seen.bytes > 0


@pytest.mark.parametrize("ranks", [1, 2])
def test_a_whole_set_becomes_an_ordinary_checkpoint(tmp_path: Path, ranks: int) -> None:
    place, into = tmp_path / "rescue", tmp_path / "checkpoints"
    into.mkdir()
    parts(place, ranks)
    folder = RescueFolder(place, ranks)
    assert after_a_while(folder).whole
    published = folder.publish(3, into)
    found = checkpoints.inspect(published)
    assert found == checkpoints.Checkpoint(into / "checkpoint-7", STEP, 3)
    assert checkpoints.newest(into) == found


def spoil_a_byte(place: Path) -> None:
    path = place / "checkpoint-7" / "global_step7" / "mp_rank_00_model_states.pt"
    path.write_bytes(b"W" + path.read_bytes()[1:])


def cut_a_file_short(place: Path) -> None:
    path = place / "checkpoint-7" / "rng_state_1.pth"
    path.write_bytes(path.read_bytes()[:-1])


def lose_a_file(place: Path) -> None:
    (place / "checkpoint-7" / "latest").unlink()


def save_another_step(place: Path) -> None:
    part(place, 1, 2, step=8)


def save_for_other_ranks(place: Path) -> None:
    part(place, 1, 2, world_size=4)


def leave_out_a_shard(place: Path) -> None:
    part(place, 1, 2, files=[])


def write_elsewhere(place: Path) -> None:
    part(place, 1, 2, files=[{"name": "../../journal.jsonl", "bytes": 0, "sha256": ""}])


def write_the_same_file(place: Path) -> None:
    told = json.loads((place / "rank0.json").read_text())
    part(place, 1, 2, files=told["files"])


@pytest.mark.parametrize(
    "harm",
    [
        spoil_a_byte,
        cut_a_file_short,
        lose_a_file,
        save_another_step,
        save_for_other_ranks,
        leave_out_a_shard,
        write_elsewhere,
        write_the_same_file,
    ],
)
def test_what_is_not_sound_is_never_a_checkpoint(tmp_path: Path, harm: Any) -> None:
    parts(tmp_path, 2)
    harm(tmp_path)
    folder = RescueFolder(tmp_path, 2)
    seen = after_a_while(folder)
    assert seen.why
    assert not seen.whole
    assert folder.whole is None
    assert RescueFolder(tmp_path, 2).look_again() is None


def test_a_rank_that_says_why_it_could_not_is_heard(tmp_path: Path) -> None:
    part(tmp_path, 0, 2)
    (tmp_path / "rank1.json").write_text(json.dumps({"rank": 1, "why": "inside a step"}))
    assert "inside a step" in after_a_while(RescueFolder(tmp_path, 2)).why


def test_a_half_written_checkpoint_of_that_step_makes_way(tmp_path: Path) -> None:
    place, into = tmp_path / "rescue", tmp_path / "checkpoints"
    (into / "checkpoint-7").mkdir(parents=True)
    (into / "checkpoint-7" / "latest").write_text("global_step7")
    (into / "checkpoint-7" / checkpoints.BEGUN).write_text("{}")
    parts(place, 1)
    folder = RescueFolder(place, 1)
    assert after_a_while(folder).whole
    assert isinstance(checkpoints.inspect(folder.publish(1, into)), checkpoints.Checkpoint)
    assert not (into / checkpoints.ASIDE).exists()


def test_a_folder_that_nobody_of_ours_began_is_set_aside_and_kept(tmp_path: Path) -> None:
    place, into = tmp_path / "rescue", tmp_path / "checkpoints"
    (into / "checkpoint-7").mkdir(parents=True)
    (into / "checkpoint-7" / "notes").write_text("of a person")
    parts(place, 1)
    folder = RescueFolder(place, 1)
    assert after_a_while(folder).whole
    assert isinstance(checkpoints.inspect(folder.publish(1, into)), checkpoints.Checkpoint)
    assert (into / checkpoints.ASIDE / "checkpoint-7-by-rescue-001" / "notes").exists()


def test_a_whole_checkpoint_of_that_step_stays(tmp_path: Path) -> None:
    place, into = tmp_path / "rescue", tmp_path / "checkpoints"
    into.mkdir()
    for _ in range(2):
        parts(place, 1)
        folder = RescueFolder(place, 1)
        assert after_a_while(folder).whole
        folder.publish(1, into)
    assert (place / "checkpoint-7").is_dir()
    assert checkpoints.newest(into) is not None


def test_what_a_dead_supervisor_left_whole_is_found(tmp_path: Path) -> None:
    parts(tmp_path, 2)
    found = RescueFolder(tmp_path, 2).look_again()
    assert found is not None
    assert found.step == STEP


def test_what_a_dead_supervisor_left_half_is_not(tmp_path: Path) -> None:
    part(tmp_path, 0, 2)
    assert RescueFolder(tmp_path, 2).look_again() is None
    assert RescueFolder(tmp_path / "nothing", 1).look_again() is None
