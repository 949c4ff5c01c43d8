"""TRL's own flags: where a plan starts, what a plan changes, and what it cannot do."""

from dataclasses import replace
from typing import Any

import pytest

from autotune.frameworks.trl import Trl
from tests.frameworks.asked import NOW, PYTHON, Asked, read_yaml

CONFIG: dict[str, Any] = {
    "model_name_or_path": "models/tiny",
    "dataset_name": "data",
    "per_device_train_batch_size": 4,
    "gradient_accumulation_steps": 2,
    "bf16": False,
    "output_dir": "out",
}


def trl(*flags: str, trl_version: str = "1.16.0", **config: Any) -> Asked:
    """Return `trl sft --config mine.yaml` with some flags, and more in the configuration."""
    documents = {"mine.yaml": {**CONFIG, **config}, "zero2.json": ZERO_2}
    command = ("trl", "sft", "--config", "mine.yaml", *flags)
    return Asked(Trl(), command, documents, {**NOW, "trl": trl_version})


ZERO_2 = {"zero_optimization": {"stage": 2, "reduce_bucket_size": 1000}}


def test_a_plan_starts_where_trl_would_with_its_own_defaults() -> None:
    start = trl().start
    assert (start.micro_batch, start.accumulation, start.dtype) == (4, 2, "fp32")
    assert start.activation_checkpointing  # TRL's default
    assert start.loss == "chunked"
    assert start.sequence == 1024
    assert (start.method, start.zero_stage) == ("full", 0)


@pytest.mark.parametrize(("version", "tiled"), [("1.14.1", False), ("1.15.0", True)])
def test_a_trl_that_always_takes_the_loss_in_tiles_is_predicted_so(
    version: str, tiled: bool
) -> None:
    asked = trl(trl_version=version)
    assert (asked.framework.trained(asked.job, asked.looked).tile is not None) is tiled


def test_bf16_is_trained_in_unless_something_is_said() -> None:
    assert replace(trl(), documents={"mine.yaml": {**CONFIG, "bf16": None}}).start.dtype == "bf16"
    assert trl(bf16=None, fp16=True).start.dtype == "fp16"


def test_flags_win_over_the_file() -> None:
    asked = trl("--per_device_train_batch_size", "2", "--max_length=512")
    assert (asked.start.micro_batch, asked.start.sequence) == (2, 512)


def test_a_changed_flag_moves_into_the_copy_and_off_the_line() -> None:
    asked = trl("--per_device_train_batch_size", "4", "--seed", "3")
    program = asked.program(micro_batch=2, accumulation=4)
    copy = read_yaml(program.files["train.yaml"])
    assert (copy["per_device_train_batch_size"], copy["gradient_accumulation_steps"]) == (2, 4)
    assert "--per_device_train_batch_size" not in program.argv
    assert program.argv[program.argv.index("--seed") + 1] == "3"
    assert copy["model_name_or_path"] == "models/tiny"


def test_it_is_started_by_the_tools_own_command_in_the_users_folder() -> None:
    program = trl().program()
    copy = "/run/attempts/001/train.yaml"
    assert program.argv[:5] == (PYTHON, "/venv/bin/trl", "sft", "--config", copy)
    assert program.starts_ranks
    assert program.folder == "/jobs"
    launch = read_yaml(program.files["accelerate.yaml"])
    assert (launch["num_processes"], launch["main_process_port"]) == (1, 29501)


def test_every_start_saves_into_the_runs_folder_and_resumes_what_it_is_told() -> None:
    copy = trl(output_dir="elsewhere", save_steps=7).written(resume="/run/checkpoints/checkpoint-3")
    assert copy["output_dir"] == "/run/checkpoints"
    assert copy["resume_from_checkpoint"] == "/run/checkpoints/checkpoint-3"
    assert copy["save_steps"] == 7
    assert "resume_from_checkpoint" not in trl().written()


@pytest.mark.parametrize(
    ("config", "changes", "written"),
    [
        ({}, {"activation_checkpointing": False}, {"activation_checkpointing": False}),
        ({}, {"attention": "sdpa"}, {"attn_implementation": "sdpa"}),
        ({}, {"sequence": 256}, {"max_length": 256}),
        ({}, {"dtype": "bf16"}, {"bf16": True, "fp16": False}),
        ({}, {"activation_offload": True}, {"activation_offloading": True}),
        ({"use_peft": True}, {"quantization": "nf4"}, {"load_in_4bit": True}),
        (
            {"use_peft": True, "lora_r": 32, "lora_alpha": 64},
            {"lora_rank": 8},
            {"lora_r": 8, "lora_alpha": 16},
        ),
        ({}, {"optimizer": "paged_adamw_8bit"}, {"optim": "paged_adamw_8bit"}),
    ],
)
def test_a_plan_is_written_in_trls_words(
    config: dict[str, Any], changes: dict[str, Any], written: dict[str, Any]
) -> None:
    copy = trl(**config).written(**changes)
    assert {key: copy[key] for key in written} == written


def test_shipped_accelerate_configurations_become_a_deepspeed_file_of_the_attempt() -> None:
    asked = replace(trl("--accelerate_config", "zero3", "--num_processes", "2"), ranks=2)
    assert asked.said_ranks == 2
    assert (asked.start.zero_stage, asked.start.dtype) == (3, "bf16")
    program = asked.program()
    assert '"stage": 3' in program.files["ds_config.json"]
    copy = read_yaml(program.files["train.yaml"])
    assert copy["deepspeed"] == "/run/attempts/001/ds_config.json"
    assert "--accelerate_config" not in program.argv
    assert "--num_processes" not in program.argv
    assert trl("--accelerate_config", "zero2").said_ranks == 8  # as TRL's file says


def test_an_accelerate_file_of_the_user_is_read_with_the_deepspeed_file_it_names() -> None:
    mine = {
        "distributed_type": "DEEPSPEED",
        "num_processes": 2,
        "deepspeed_config": {"deepspeed_config_file": "zero2.json", "zero3_init_flag": False},
    }
    asked = trl(accelerate_config="acc/mine.yaml")
    asked = replace(asked, documents={**asked.documents, "acc/mine.yaml": mine}, ranks=2)
    assert (asked.said_ranks, asked.start.zero_stage, asked.start.reduce_bucket) == (2, 2, 1000)


def test_the_users_deepspeed_file_is_kept_but_for_what_the_plan_changes() -> None:
    program = trl(deepspeed="zero2.json").program(zero_stage=3)
    assert '"stage": 3' in program.files["ds_config.json"]
    assert '"reduce_bucket_size": 1000' in program.files["ds_config.json"]


def test_variables_of_the_configuration_become_the_environment() -> None:
    program = trl(env={"OMP_NUM_THREADS": 2}).program()
    assert program.env["OMP_NUM_THREADS"] == "2"
    assert "env" not in read_yaml(program.files["train.yaml"])


def test_a_trl_that_does_not_resume_is_refused_before_launch() -> None:
    assert "begins anew" in trl(trl_version="1.14.0").faults[0].what
    assert not trl(trl_version="1.14.1").faults
    without = replace(trl(), versions=dict(NOW))
    assert "not installed" in without.faults[0].what


@pytest.mark.parametrize(
    ("flags", "config", "said"),
    [
        ((), {"load_in_4bit": True}, "cannot be trained themselves"),
        (("--accelerate_config", "fsdp2"), {}, "FSDP"),
        (("--accelerate_config", "zero9"), {}, "no configuration of TRL's"),
        (("--num_machines", "2"), {}, "2 machines"),
        ((), {"resume_from_checkpoint": "old/checkpoint-9"}, "checkpoint of another run"),
        ((), {"warmup_ratio": 0.1}, "gone from transformers"),
    ],
)
def test_what_no_plan_can_carry_is_said_before_launch(
    flags: tuple[str, ...], config: dict[str, Any], said: str
) -> None:
    assert said in " ".join(fault.what for fault in trl(*flags, **config).faults)


def test_another_command_of_trls_is_not_taken_for_sft() -> None:
    asked = Asked(Trl(), ("trl", "dpo", "--config", "x.yaml"))
    (fault,) = asked.faults
    assert "trl sft" in fault.what


def test_the_loss_is_in_pieces_by_version() -> None:
    assert "pieces" in trl().lacks["loss"]
    older = trl(trl_version="1.14.2", loss_type="nll")
    assert older.start.loss == "whole"
    assert "loss" not in older.lacks
    assert older.written(loss="chunked")["loss_type"] == "chunked_nll"


def test_weights_in_float32_are_told_of() -> None:
    assert "float32" in trl().notes
    assert "float32" not in trl(dtype="bfloat16").notes


def test_the_known_good_relaunches_with_trl_alone() -> None:
    good = trl().known_good(micro_batch=2, accumulation=4)
    assert good.settings["command"][:3] == ["trl", "sft", "--config"]
    assert good.settings["command"][-2:] == ["--num_processes", "1"]
    assert read_yaml(good.files["train.yaml"])["per_device_train_batch_size"] == 2
    assert "resume_from_checkpoint" not in read_yaml(good.files["train.yaml"])


def test_a_proof_trains_one_step_of_the_checkpoint_and_keeps_nothing() -> None:
    copy = trl().written(resume="/run/checkpoints/checkpoint-3", mode="prove")
    assert (copy["max_steps"], copy["save_strategy"]) == (4, "no")
    assert copy["output_dir"] == "/run/attempts/001/output"


@pytest.mark.parametrize("broken", ["x", None, [1], {"a": 1}, "", True, -3, 1e30])
@pytest.mark.parametrize(
    "key",
    ["per_device_train_batch_size", "lora_dropout", "lora_r", "max_length", "deepspeed", "env",
     "accelerate_config", "num_processes", "lora_target_modules", "bf16", "optim"],
)  # fmt: skip
def test_nonsense_in_the_configuration_is_a_sentence_and_no_crash(key: str, broken: Any) -> None:
    asked = trl(use_peft=True, **{key: broken})
    asked = replace(asked, documents={"x": {}, "": {}, **asked.documents})
    if not asked.faults:
        assert asked.start.micro_batch >= 1
        assert asked.program().files
        asked.framework.trained(asked.job, asked.looked)
