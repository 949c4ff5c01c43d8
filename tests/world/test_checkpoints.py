"""Only a whole checkpoint is started from, and only broken ones of ours are removed."""

import json
from pathlib import Path

import pytest

from autotune.child.finetune import keep_newest, make_way
from autotune.world.checkpoints import (
    BEGUN,
    SENTINEL,
    Checkpoint,
    inspect,
    newest,
    remove_broken,
    set_aside,
)
from autotune.world.checkpoints import whole as all_whole


def whole(folder: Path, step: int, world_size: int = 2) -> Path:
    """Make a folder with the files of a whole checkpoint."""
    path = folder / f"checkpoint-{step}"
    shards = path / f"global_step{step}"
    shards.mkdir(parents=True)
    for rank in range(world_size):
        name = f"bf16_zero_pp_rank_{rank}_mp_rank_00_optim_states.pt"
        (shards / name).write_bytes(b"x")
    (path / "latest").write_text(f"global_step{step}")
    (path / "trainer_state.json").write_text(json.dumps({"global_step": step}))
    mark = {"step": step, "world_size": world_size, "attempt": 4}
    (path / SENTINEL).write_text(json.dumps(mark))
    return path


def test_the_newest_whole_checkpoint_is_found_by_number(tmp_path: Path) -> None:
    for step in (9, 10, 100):
        whole(tmp_path, step)

    found = newest(tmp_path)

    assert found == Checkpoint(tmp_path / "checkpoint-100", 100, 4)


@pytest.mark.parametrize(
    "damage",
    [
        SENTINEL,
        "trainer_state.json",
        "latest",
        "global_step20/bf16_zero_pp_rank_1_mp_rank_00_optim_states.pt",
    ],
)
def test_a_checkpoint_that_lacks_a_file_is_passed_over_for_the_one_before(
    tmp_path: Path, damage: str
) -> None:
    whole(tmp_path, 10)
    (whole(tmp_path, 20) / damage).unlink()

    assert isinstance(inspect(tmp_path / "checkpoint-20"), str)
    found = newest(tmp_path)
    assert found is not None
    assert found.step == 10


@pytest.mark.parametrize("name", ["latest", "trainer_state.json", SENTINEL])
@pytest.mark.parametrize("junk", [b"", b"\xff\x00", b"../../etc", b"[1]", b'{"global_step": 7}'])
def test_junk_in_any_file_is_no_checkpoint(tmp_path: Path, name: str, junk: bytes) -> None:
    (whole(tmp_path, 20) / name).write_bytes(junk)

    assert newest(tmp_path) is None


def test_an_empty_shard_is_not_whole(tmp_path: Path) -> None:
    path = whole(tmp_path, 20)
    shard = path / "global_step20" / "bf16_zero_pp_rank_0_mp_rank_00_optim_states.pt"
    shard.write_bytes(b"")

    assert inspect(path) == "1 of 2 optimizer shards are there"


def test_a_link_is_no_checkpoint_and_is_never_removed(tmp_path: Path) -> None:
    elsewhere = whole(tmp_path / "elsewhere", 30)
    (elsewhere / SENTINEL).unlink()
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "checkpoint-30").symlink_to(elsewhere)

    assert newest(tmp_path / "runs") is None
    assert remove_broken(tmp_path / "runs", 0) == []
    assert elsewhere.is_dir()


def test_half_written_checkpoints_after_the_start_are_removed_and_nothing_else(
    tmp_path: Path,
) -> None:
    whole(tmp_path, 10)
    for step in (5, 20, 30):
        begun = whole(tmp_path, step)
        (begun / SENTINEL).unlink()
        if step != 30:  # that one is somebody else's
            (begun / BEGUN).touch()
    (tmp_path / "checkpoint-best").mkdir()

    assert remove_broken(tmp_path, newer_than=10) == ["checkpoint-20"]

    names = sorted(f.name for f in tmp_path.iterdir())
    assert names == ["checkpoint-10", "checkpoint-30", "checkpoint-5", "checkpoint-best"]


def test_a_checkpoint_that_was_whole_and_lost_a_file_is_not_removed(tmp_path: Path) -> None:
    (whole(tmp_path, 20) / "latest").unlink()

    assert remove_broken(tmp_path, newer_than=10) == []
    assert newest(tmp_path) is None


def test_the_checkpoint_just_written_stays_beside_damaged_ones_of_later_steps(
    tmp_path: Path,
) -> None:
    for step in (10, 12, 20, 30, 40):
        whole(tmp_path, step)
    for step in (20, 30, 40):
        (tmp_path / f"checkpoint-{step}" / "latest").unlink()

    keep_newest(tmp_path, 12, 2)

    assert [found.step for found in all_whole(tmp_path)] == [12, 10]


def test_what_is_no_checkpoint_of_ours_is_neither_counted_nor_removed(tmp_path: Path) -> None:
    elsewhere = whole(tmp_path / "elsewhere", 1)
    runs = tmp_path / "runs"
    for step in (10, 20):
        whole(runs, step)
    (whole(runs, 5) / SENTINEL).unlink()
    (whole(runs, 8) / SENTINEL).rename(runs / "mark")
    (runs / "checkpoint-1").symlink_to(elsewhere)
    best = runs / "checkpoint-best"
    best.mkdir()
    (best / SENTINEL).touch()

    keep_newest(runs, 20, 1)

    left = sorted(f.name for f in runs.glob("checkpoint-*"))
    assert left == ["checkpoint-1", "checkpoint-20", "checkpoint-5", "checkpoint-8", best.name]
    assert (elsewhere / SENTINEL).is_file()


def test_a_save_makes_way_without_losing_what_is_not_its_own(tmp_path: Path) -> None:
    (whole(tmp_path, 10) / SENTINEL).unlink()
    assert make_way(tmp_path / "checkpoint-10") is None
    assert (tmp_path / "set-aside" / "checkpoint-10-found" / "latest").is_file()
    assert [f.name for f in (tmp_path / "checkpoint-10").iterdir()] == [BEGUN]

    # A save of ours that broke off is begun anew, and leaves nothing behind.
    (tmp_path / "checkpoint-10" / "model.safetensors").touch()
    assert make_way(tmp_path / "checkpoint-10") is None
    assert [f.name for f in (tmp_path / "checkpoint-10").iterdir()] == [BEGUN]

    # A whole one is kept until the new one is whole as well.
    replaced = make_way(whole(tmp_path, 20))
    assert replaced == tmp_path / "set-aside" / "checkpoint-20-replaced"
    assert (replaced / SENTINEL).is_file()


def test_a_link_in_the_way_of_a_save_is_moved_and_what_it_names_stays(tmp_path: Path) -> None:
    elsewhere = whole(tmp_path / "elsewhere", 10)
    (tmp_path / "checkpoint-10").symlink_to(elsewhere)

    assert make_way(tmp_path / "checkpoint-10") is None

    assert not (tmp_path / "checkpoint-10").is_symlink()
    assert (elsewhere / SENTINEL).is_file()
    assert (tmp_path / "set-aside" / "checkpoint-10-found").is_symlink()


def test_whole_checkpoints_are_listed_newest_first(tmp_path: Path) -> None:
    for step in (9, 100, 10):
        whole(tmp_path, step)
    (tmp_path / "checkpoint-100" / "latest").unlink()

    assert [found.step for found in all_whole(tmp_path)] == [10, 9]


def test_a_checkpoint_set_aside_is_kept_and_found_by_nobody(tmp_path: Path) -> None:
    whole(tmp_path, 10)
    damaged = whole(tmp_path, 20)

    place = set_aside(damaged, "attempt-003")

    assert place == tmp_path / "set-aside" / "checkpoint-20-by-attempt-003"
    assert (place / SENTINEL).is_file()
    assert [found.step for found in all_whole(tmp_path)] == [10]
    assert remove_broken(tmp_path, 0) == []
    keep_newest(tmp_path, 10, 1)  # as the trainer does
    assert place.is_dir()


def test_setting_aside_twice_leaves_a_checkpoint_made_since_alone(tmp_path: Path) -> None:
    damaged = whole(tmp_path, 20)
    place = set_aside(damaged, "attempt-003")
    assert set_aside(damaged, "attempt-003") == place
    whole(tmp_path, 20)

    set_aside(damaged, "attempt-003")

    assert [found.step for found in all_whole(tmp_path)] == [20]
