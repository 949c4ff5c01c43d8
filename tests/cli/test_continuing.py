"""A job that goes on from another run is judged before it starts, each fault a sentence."""

import json
from pathlib import Path
from typing import Any

import pytest

from autotune.cli.wiring import lay_ground
from autotune.core.carry import Carry, CarryKind
from autotune.core.fault import InputError
from autotune.core.record import Decided, Launch, RunStarted, encode
from autotune.ground import Ground
from autotune.world.checkpoints import SENTINEL
from autotune.world.yaml_files import read_document
from tests import builders
from tests.e2e.fast_job import make_job
from tests.world.checkpoint_layouts import plain, sharded


@pytest.fixture(autouse=True)
def on_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Judge every job as a machine without GPUs would."""
    monkeypatch.setenv("DS_ACCELERATOR", "cpu")


def own(folder: Path, step: int, ranks: int = 2, **mark: Any) -> Path:
    """Make a checkpoint that the built-in trainer finished."""
    path = sharded(folder, step, ranks, bf16=True)
    told = {"step": step, "world_size": ranks, "attempt": 1, **mark}
    (path / SENTINEL).write_text(json.dumps(told))
    return path


def run_before(folder: Path, step: int = 9, **plan: Any) -> Path:
    """Make the folder of a run whose first attempt saved a checkpoint."""
    changes = {"zero_stage": 2, "lora_rank": 0, "sequence": 0, **plan}
    written = builders.plan(**changes)
    own(folder / "checkpoints", step, written.world_size)
    started = RunStarted("old", "old", "id", written, "cpu", inputs={"data.train": "others"})
    launch = Launch(
        1,
        written,
        Carry(CarryKind.FRESH, "nothing was saved"),
        None,
        0,
        None,
        "the job's own settings",
    )
    lines = [json.dumps(encode(event, 0.0)) for event in (started, Decided(launch))]
    (folder / "journal.jsonl").write_text("\n".join(lines) + "\n")
    return folder


def ground(job: Path) -> Ground:
    return lay_ground(job, None, "check")


def refused(job: Path) -> str:
    with pytest.raises(InputError) as caught:
        ground(job)
    return "\n".join(f"{one.where}: {one.what} ({one.hint})" for one in caught.value.faults)


def asking(folder: Path, path: str, **changes: Any) -> Path:
    return make_job(folder, checkpoints={"every": 3, "continue_from": path}, **changes)


def test_a_checkpoint_is_gone_on_from_as_its_files_tell(tmp_path: Path) -> None:
    own(tmp_path / "old", 9)
    found = ground(asking(tmp_path, "old/checkpoint-9"))
    given = found.inherited
    assert given is not None
    assert (given.asked, given.step) == ("old/checkpoint-9", 9)
    assert given.source == str(tmp_path / "old" / "checkpoint-9")
    assert (given.plan.zero_stage, given.plan.world_size) == (found.start.zero_stage, 2)
    said = " ".join(note.what for note in found.looked.notes)
    assert "goes on from step 9" in said
    assert "is the owner's to know" in said


def test_of_a_folder_the_newest_whole_one_is_taken(tmp_path: Path) -> None:
    own(tmp_path / "old", 9)
    (own(tmp_path / "old", 12) / "latest").unlink()
    own(tmp_path / "old", 6)
    given = ground(asking(tmp_path, "old")).inherited
    assert given is not None
    assert given.step == 9


def test_of_a_run_its_plan_is_known_and_what_differs_is_noted(tmp_path: Path) -> None:
    before = run_before(tmp_path / "before", zero_stage=1, offload_optimizer=True)
    found = ground(asking(tmp_path, "before"))
    assert found.inherited is not None
    assert found.inherited.source == str(before / "checkpoints" / "checkpoint-9")
    assert (found.inherited.plan.zero_stage, found.inherited.plan.offload_optimizer) == (1, True)
    said = " ".join(note.what for note in found.looked.notes)
    assert "what `data.train` names is not what that run had" in said
    assert "owner's to know" not in said


def test_of_a_run_that_does_not_know_who_wrote_it_the_files_tell(tmp_path: Path) -> None:
    before = run_before(tmp_path / "before")
    own(before / "checkpoints", 12, ranks=4, attempt=7)
    given = ground(asking(tmp_path, "before")).inherited
    assert given is not None
    assert (given.step, given.plan.world_size) == (12, 4)


def test_another_precision_needs_a_word(tmp_path: Path) -> None:
    run_before(tmp_path / "before", dtype="fp32")
    assert "`allow: [change_dtype]`" in refused(asking(tmp_path, "before"))
    allowed = asking(tmp_path, "before", allow=["change_dtype"])
    said = " ".join(note.what for note in ground(allowed).looked.notes)
    assert "precision fp32 -> bf16" in said


def nothing(_: Path) -> None:
    """Make nothing."""


@pytest.mark.parametrize(
    ("made", "path", "expected"),
    [
        (nothing, "nowhere", "no folder is there"),
        (nothing, "tokenizer", "it holds no checkpoint"),
        (lambda at: plain(at / "old", 9), "old/checkpoint-9", "not written by autotune's own"),
        (lambda at: sharded(at / "old", 9), "old", "not written by autotune's own trainer"),
        (
            lambda at: (own(at / "old", 9) / "trainer_state.json").unlink(),
            "old",
            "checkpoint-9: trainer_state.json is missing",
        ),
        (
            lambda at: (own(at / "old", 9) / "config.json").write_text('{"hidden_size": 16}'),
            "old",
            "`hidden_size` of its model is 16, and of the job's 8",
        ),
        (
            lambda at: run_before(at / "before", micro_batch=2),
            "before",
            "a global batch of 4, and the job has 16",
        ),
        (
            lambda at: run_before(at / "before", method="lora"),
            "before",
            "A checkpoint of lora training has other trained parameters",
        ),
        (
            lambda at: run_before(at / "before", sub_group_size=5, zero_stage=0),
            "before",
            "saved without DeepSpeed",
        ),
        (lambda at: own(at / "runs" / "fast" / "checkpoints", 9).parents[1].joinpath(
            "journal.jsonl").touch(), "runs/fast", "names this very run"),
    ],
)  # fmt: skip
def test_what_cannot_be_gone_on_from_is_refused_before_anything_starts(
    tmp_path: Path, made: Any, path: str, expected: str
) -> None:
    job = asking(tmp_path, path)
    made(tmp_path)
    said = refused(job)
    assert expected in said
    assert f"{job}:" in said


def test_a_checkpoint_that_everybody_may_write_is_refused(tmp_path: Path) -> None:
    own(tmp_path / "old", 9).chmod(0o777)
    assert "everybody on this machine may write to it" in refused(asking(tmp_path, "old"))


@pytest.mark.parametrize("path", ["a\0b", "x" * 300, "y/" * 3000])
def test_a_path_that_no_file_system_takes_is_a_sentence(tmp_path: Path, path: str) -> None:
    assert "cannot be looked at" in refused(asking(tmp_path, path))


def test_adapters_come_only_to_a_job_that_trains_such(tmp_path: Path) -> None:
    lora = {"settings": {"method": "lora", "lora": {"rank": 4}}}
    own(tmp_path / "old", 9)
    assert "it holds no adapters" in refused(asking(tmp_path, "old", **lora))
    path = own(tmp_path / "adapters", 9)
    (path / "adapter_config.json").write_text('{"r": 16}')
    assert "rank 16, and the job's 4" in refused(asking(tmp_path, "adapters", **lora))
    (path / "adapter_config.json").write_text('{"r": 4}')
    assert ground(asking(tmp_path, "adapters", **lora)).inherited is not None


def test_a_run_that_has_begun_is_not_asked_again(tmp_path: Path) -> None:
    own(tmp_path / "old", 9)
    job = asking(tmp_path, "old")
    given = ground(job).inherited
    run = tmp_path / "runs" / "fast"
    run.mkdir(parents=True)
    began = RunStarted("r", "fast", "id", ground(job).start, "cpu", inherited=given)
    (run / "journal.jsonl").write_text(json.dumps(encode(began, 0.0)) + "\n")
    (tmp_path / "old" / "checkpoint-9" / "latest").unlink()
    assert ground(job).inherited == given  # it was copied long ago
    assert ground(make_job(tmp_path)).inherited == given
    assert "this run has begun without it" in refused(asking(tmp_path, "tokenizer"))


def test_the_line_of_the_key_is_named(tmp_path: Path) -> None:
    job = asking(tmp_path, "nowhere")
    where = read_document(job).where("checkpoints", "continue_from")
    assert refused(job).startswith(where)
