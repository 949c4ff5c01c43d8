"""What a checkpoint of another run holds is told by its files, and a broken one by which."""

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from autotune.world.checkpoint_files import Layout, read_layout
from autotune.world.checkpoints import BEGUN, SENTINEL
from tests.world.checkpoint_layouts import archive, plain, sharded


def layout(folder: Path) -> Layout:
    found = read_layout(folder)
    assert isinstance(found, Layout), found
    return found


@pytest.mark.parametrize(("ranks", "stage", "bf16"), [(1, 2, False), (2, 2, True), (3, 3, False)])
def test_shards_tell_ranks_stage_and_precision(
    tmp_path: Path, ranks: int, stage: int, bf16: bool
) -> None:
    found = layout(sharded(tmp_path, 40, ranks, stage, bf16))
    told = (found.step, found.world_size, found.zero_stage, found.bf16)
    assert told == (40, ranks, stage, bf16)


@pytest.mark.parametrize("ranks", [1, 4])
def test_whole_tensors_are_a_training_without_deepspeed(tmp_path: Path, ranks: int) -> None:
    found = layout(plain(tmp_path, 7, ranks))
    assert (found.step, found.world_size, found.zero_stage) == (7, ranks, 0)
    assert found.model_config == {"model_type": "llama", "hidden_size": 8}
    assert found.mark == {}
    assert found.adapter_rank is None


def test_adapters_are_told_with_their_rank(tmp_path: Path) -> None:
    path = plain(tmp_path, 7)
    (path / "model.safetensors").rename(path / "adapter_model.safetensors")
    (path / "adapter_config.json").write_text(json.dumps({"r": 16}))
    assert layout(path).adapter_rank == 16


def test_our_own_mark_is_handed_on_and_held_against_the_files(tmp_path: Path) -> None:
    path = sharded(tmp_path, 4)
    mark = {"step": 4, "world_size": 2, "attempt": 3, "reference": {"loss": 2.5}}
    (path / SENTINEL).write_text(json.dumps(mark))
    assert layout(path).mark == mark
    (path / SENTINEL).write_text(json.dumps({**mark, "world_size": 3}))
    assert read_layout(path) == "2 of 3 optimizer shards are there"


def cut(name: str) -> Callable[[Path], object]:
    def damage(path: Path) -> None:
        os.truncate(path / name, (path / name).stat().st_size - 30)

    return damage


def take(name: str) -> Callable[[Path], object]:
    return lambda path: (path / name).unlink()


def put(name: str, text: str) -> Callable[[Path], object]:
    return lambda path: (path / name).write_text(text)


SHARD = "global_step4/zero_pp_rank_{}_mp_rank_00_optim_states.pt"
STATES = "global_step4/mp_rank_00_model_states.pt"


@pytest.mark.parametrize(
    ("damage", "why"),
    [
        (cut(SHARD.format(1)), "zero_pp_rank_1_mp_rank_00_optim_states.pt is cut off"),
        (cut("model.safetensors"), "model.safetensors is cut off"),
        (put("model.safetensors", ""), "model.safetensors is cut off"),
        (put("scheduler.pt", "<html>"), "scheduler.pt is cut off"),
        (take(SHARD.format(0)), "the optimizer shard of rank 0 is missing"),
        (take(SHARD.format(1)), "1 of 2 optimizer shards are there"),
        (take(STATES), "DeepSpeed's model states are missing"),
        (put("latest", "../elsewhere"), "`latest` does not name DeepSpeed's folder"),
        (put("latest", "global_step9"), "`latest` does not name DeepSpeed's folder"),
        (take("trainer_state.json"), "trainer_state.json is missing"),
        (put("trainer_state.json", '{"global_step": 5}'), "names another step"),
        (put(BEGUN, "{}"), "its last file was not written"),
        (lambda path: (path / "model.bin").symlink_to("/etc/passwd"), "is no ordinary file"),
        (lambda path: os.mkfifo(path / "pipe"), "pipe is no ordinary file"),
        (
            lambda path: (path / SHARD.format(1).replace("_00_", "_01_")).write_bytes(archive()),
            "tensor parallelism",
        ),
    ],
)
def test_what_is_damaged_is_named(
    tmp_path: Path, damage: Callable[[Path], object], why: str
) -> None:
    path = sharded(tmp_path, 4)
    damage(path)
    found = read_layout(path)
    assert isinstance(found, str)
    assert why in found


@pytest.mark.parametrize(
    ("damage", "why"),
    [
        (take("optimizer.pt"), "a model alone is no training to go on with"),
        (take("scheduler.pt"), "a model alone is no training to go on with"),
        (take("model.safetensors"), "it holds no weights"),
        (cut("optimizer.pt"), "optimizer.pt is cut off"),
    ],
)
def test_without_deepspeed_too(tmp_path: Path, damage: Callable[[Path], object], why: str) -> None:
    path = plain(tmp_path, 4)
    damage(path)
    assert why in str(read_layout(path))


def test_each_part_of_a_large_model_must_be_there(tmp_path: Path) -> None:
    path = plain(tmp_path, 4)
    part = "model-00001-of-00001.safetensors"
    (path / "model.safetensors").rename(path / part)
    index = {"weight_map": {"a": part, "b": part}}
    (path / "model.safetensors.index.json").write_text(json.dumps(index))
    assert isinstance(read_layout(path), Layout)
    (path / part).unlink()
    assert read_layout(path) == f"{part} is missing"


def test_only_a_folder_of_that_name_is_one(tmp_path: Path) -> None:
    path = plain(tmp_path, 4)
    assert "checkpoint-N" in str(read_layout(path.rename(tmp_path / "final")))
    assert "is no folder" in str(read_layout(tmp_path / "checkpoint-9"))
