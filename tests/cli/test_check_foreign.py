"""`autotune check` of a tool that the user has already: its own files, read and judged."""

import json
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from autotune.cli.framed import framework_named
from autotune.cli.looking import look_at_own
from autotune.cli.wiring import lay_ground
from autotune.core.fault import InputError
from autotune.core.job import Job, batch_of
from autotune.ground import Ground
from autotune.world.yaml_files import read_document

MODEL = {
    "model_type": "llama", "vocab_size": 64, "hidden_size": 16, "intermediate_size": 32,
    "num_hidden_layers": 2, "num_attention_heads": 2,
}  # fmt: skip
LINE = ["train.py", "--per_device_train_batch_size", "4", "--config_name", "model.json"]


@pytest.fixture(autouse=True)
def on_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Judge every job as a machine without GPUs would."""
    monkeypatch.setenv("DS_ACCELERATOR", "cpu")


def make_job(folder: Path, *command: str, **changes: Any) -> Path:
    (folder / "model.json").write_text(json.dumps(MODEL))
    settings = {"command": list(command) or ["python", *LINE], **changes.pop("settings", {})}
    job = {"name": "own", "framework": "hf", "settings": settings, **changes}
    with (folder / "job.yaml").open("w") as file:
        YAML().dump(job, file)
    return folder / "job.yaml"


def write_deepspeed(folder: Path, stage: int) -> None:
    config = {"zero_optimization": {"stage": stage}, "train_batch_size": "auto"}
    (folder / "ds.json").write_text(json.dumps(config))


def laid(job: Path) -> Ground:
    return lay_ground(job, None, "check")


def faults(job: Path) -> list[tuple[str, str]]:
    with pytest.raises(InputError) as raised:
        laid(job)
    return [(fault.what, fault.where) for fault in raised.value.faults]


def test_batches_and_ranks_are_read_from_the_users_own_command(tmp_path: Path) -> None:
    ground = laid(make_job(tmp_path, "torchrun", "--nproc_per_node", "2", *LINE))
    assert (ground.start.world_size, ground.start.micro_batch) == (2, 4)
    assert batch_of(ground.job).global_ == 8
    assert ground.looked.model_config == MODEL


def test_a_model_of_a_hub_is_read_where_the_training_will_find_it(tmp_path: Path) -> None:
    commit = "0123456789abcdef0123456789abcdef01234567"
    kept = tmp_path / "caches" / "hub" / "models--an-owner--a-model"
    (kept / "snapshots" / commit).mkdir(parents=True)
    (kept / "snapshots" / commit / "config.json").write_text(json.dumps(MODEL))
    (kept / "refs").mkdir()
    (kept / "refs" / "main").write_text(commit)
    line = ["python", "train.py", "--model_name_or_path", "an-owner/a-model"]
    there = {"HF_HOME": str(tmp_path / "caches")}
    assert laid(make_job(tmp_path, *line, env=there)).looked.model_config == MODEL
    assert laid(make_job(tmp_path, *line, env={"HF_HOME": "none"})).looked.model_config is None


def test_a_job_that_says_the_same_batch_agrees_and_another_is_refused(tmp_path: Path) -> None:
    assert laid(make_job(tmp_path, batch={"global": 4, "micro": 4}))
    ((said, where),) = faults(make_job(tmp_path, batch={"global": 8, "micro": 4}))
    assert "makes batches of 4, 4 in all, and the job says 4 and 8" in said
    assert where.startswith(f"{tmp_path / 'job.yaml'}:")


def test_devices_that_contradict_the_command_are_refused(tmp_path: Path) -> None:
    job = make_job(tmp_path, "torchrun", "--nproc_per_node", "2", *LINE, devices={"use": 1})
    ((said, _),) = faults(job)
    assert "the command starts 2 ranks, and `devices.use` is 1" in said


def test_a_file_that_is_not_there_is_a_fault_with_its_path(tmp_path: Path) -> None:
    ((_, where),) = faults(make_job(tmp_path, "python", *LINE, "--deepspeed", "ds.json"))
    assert where == str(tmp_path / "ds.json")


def test_a_folder_that_is_not_there_is_a_fault(tmp_path: Path) -> None:
    ((said, where),) = faults(make_job(tmp_path, settings={"folder": "nowhere"}))
    assert "does not exist" in said
    assert where == str(tmp_path / "nowhere")


def test_a_model_that_the_job_names_must_be_there(tmp_path: Path) -> None:
    ((said, _),) = faults(make_job(tmp_path, settings={"model": "nowhere"}))
    assert "config cannot be read" in said


def test_both_ways_to_name_a_command_are_one_too_many(tmp_path: Path) -> None:
    found = faults(make_job(tmp_path, settings={"config": "a.yaml"}))
    assert any("one of `command` and `config`" in said for said, _ in found)


def test_a_path_alone_is_refused_where_a_tool_has_no_usual_command(tmp_path: Path) -> None:
    (tmp_path / "job.yaml").write_text("name: own\nframework: hf\nsettings: a.yaml\n")
    found = faults(tmp_path / "job.yaml")
    assert any("has no configuration file of its own" in said for said, _ in found)


def test_what_changed_is_told_apart_when_the_run_is_gone_on_with(tmp_path: Path) -> None:
    (tmp_path / "ds.json").write_text(
        '{"zero_optimization": {"stage": 2}, "train_batch_size": "auto"}'
    )
    command = ("torchrun", *LINE, "--deepspeed", "ds.json")
    before = laid(make_job(tmp_path, *command)).inputs
    (tmp_path / "ds.json").write_text(
        '{"zero_optimization": {"stage": 1}, "train_batch_size": "auto"}'
    )
    after = laid(make_job(tmp_path, *command)).inputs
    assert before.keys() == after.keys() >= {"ds.json", "model"}
    assert before["ds.json"] != after["ds.json"]
    assert before["model"] == after["model"]


def test_rungs_without_a_knob_are_known_with_their_reason(tmp_path: Path) -> None:
    around = laid(make_job(tmp_path)).around
    assert "quantization" not in around.knobs
    assert "TrainingArguments" in around.lacks["quantization"]
    assert "micro_batch" in around.knobs


def test_a_missing_batch_of_the_built_in_trainer_is_a_fault(tmp_path: Path) -> None:
    from tests.e2e.fast_job import make_job as fast_job

    job = fast_job(tmp_path)
    text = YAML(typ="safe").load(job.read_text())
    del text["batch"]
    with job.open("w") as file:
        YAML().dump(text, file)
    assert ("`batch` is missing", str(job)) in faults(job)


def test_a_model_of_modelscopes_is_read_from_its_cache_and_from_no_other(tmp_path: Path) -> None:
    kept = tmp_path / "caches" / "models" / "an-owner" / "a-model"
    kept.mkdir(parents=True)
    (kept / "config.json").write_text(json.dumps(MODEL))
    line = ["swift", "sft", "--model", "an-owner/a-model", "--dataset", "a.jsonl"]
    there = {"MODELSCOPE_CACHE": str(tmp_path / "caches")}

    def config_of(**env: str) -> object:
        job = make_job(tmp_path, *line, framework="ms_swift", env=env)
        framework = framework_named(read_document(job))
        given = Job.model_validate({**read_document(job).value, "batch": None})
        return look_at_own(given, framework, tmp_path, {}).model_config

    assert config_of(**there) == MODEL
    assert config_of(**there, USE_HF="1") is None
    assert config_of(MODELSCOPE_CACHE="none") is None
