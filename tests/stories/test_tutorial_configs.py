"""The full fine-tune of 7 billion parameters whose DeepSpeed configuration came from a tutorial."""

import shutil
from pathlib import Path

import pytest

from autotune.cli.check import check
from autotune.core.fault import Fault, InputError
from tests.e2e.fast_job import make_job

JOBS = Path(__file__).parents[2] / "configs" / "llama2_7b_full"
# What is wrong with the copied configuration: a word of each sentence, and the line it names.
WRONG = {
    "`train_batch_size` is 64": "ds_tutorial.json:2",
    "offloaded at ZeRO stage 3 only": "ds_tutorial.json:8",
    "`zero_optimization.allgather_partition` is no key": "ds_tutorial.json:9",
    "`reduce_bucket_size` stands in the wrong place": "ds_tutorial.json:13",
    "`stage3_max_live_parameters` stands in the wrong place": "ds_tutorial.json:14",
    "`offload_optimizer` stands in the wrong place": "ds_tutorial.json:15",
    "`gradient_cliping` is no key": "ds_tutorial.json:16",
}


@pytest.fixture(autouse=True)
def on_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Judge every job as a machine without GPUs would."""
    monkeypatch.setenv("DS_ACCELERATOR", "cpu")


def faults(folder: Path, job: str) -> list[Fault]:
    """Return what `autotune check` says of a job, its disk aside: ours holds no such checkpoint."""
    make_job(folder)  # its interpreter answers for the training's
    shutil.copytree(JOBS, folder, dirs_exist_ok=True)
    (folder / "run_clm.py").write_text("")
    with (folder / job).open("a") as file:
        file.write("python: ./python\n")
    try:
        check(folder / job)
    except InputError as error:
        return [fault for fault in error.faults if "checkpoints and one in" not in fault.what]
    return []


def test_all_that_is_wrong_with_a_copied_configuration_is_said_at_once(tmp_path: Path) -> None:
    said = faults(tmp_path, "as_copied.yaml")
    for words, where in WRONG.items():
        (fault,) = [fault for fault in said if words in fault.what]
        assert fault.where == where
        assert fault.hint


@pytest.mark.parametrize("job", ["one_card.yaml", "four_cards.yaml"])
def test_the_jobs_to_start_from_are_sound(tmp_path: Path, job: str) -> None:
    assert faults(tmp_path, job) == []


@pytest.mark.parametrize("stage", [1, 2, 3])
def test_the_configurations_to_start_from_are_sound(
    stage: int, capsys: pytest.CaptureFixture[str]
) -> None:
    assert check(JOBS / f"ds_zero{stage}.json") == 0
    assert "HF Trainer" in capsys.readouterr().out
