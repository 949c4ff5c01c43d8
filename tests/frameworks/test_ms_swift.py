"""The flags that ms-swift has of its own, and what it works out for itself."""

from dataclasses import replace
from typing import Any

import pytest

from autotune.frameworks.ms_swift import MsSwift
from tests.frameworks.asked import PYTHON, Asked, read_yaml

VERSIONS = {
    "transformers": "5.19.0", "torch": "2.13.0", "deepspeed": "0.19.8", "ms-swift": "4.6.0",
}  # fmt: skip
CONFIG: dict[str, Any] = {"model": "models/tiny", "dataset": ["a.jsonl"], "torch_dtype": "bfloat16"}


def swift(*flags: str, env: tuple[str, ...] = (), **config: Any) -> Asked:
    """Return `swift sft mine.yaml` with some flags, and more in the configuration."""
    command = (*env, "swift", "sft", "mine.yaml", *flags)
    return Asked(MsSwift(), command, {"mine.yaml": {**CONFIG, **config}}, VERSIONS)


def test_a_plan_starts_where_ms_swift_would_with_its_own_defaults() -> None:
    start = swift().start
    assert (start.micro_batch, start.accumulation, start.eval_micro_batch) == (1, 16, 1)
    assert (start.method, start.lora_rank, start.dtype) == ("lora", 8, "bf16")
    assert start.activation_checkpointing


def test_the_accumulation_it_works_out_is_written_out_and_kept() -> None:
    asked = replace(swift("--per_device_train_batch_size", "3"), ranks=2)
    assert asked.start.accumulation == 3  # ceil(16 / 3 / 2)
    assert asked.job.batch is not None
    assert asked.job.batch.global_ == 18
    assert asked.written(world_size=2)["gradient_accumulation_steps"] == 3
    assert "written out" in asked.notes


def test_no_start_saves_into_a_folder_of_its_own() -> None:
    copy = swift().written(resume="/run/checkpoints/checkpoint-2")
    assert copy["add_version"] is False
    assert copy["output_dir"] == "/run/checkpoints"
    assert copy["resume_from_checkpoint"] == "/run/checkpoints/checkpoint-2"


def test_ranks_are_told_by_the_environment() -> None:
    assert swift().said_ranks == 1
    asked = replace(swift(env=("NPROC_PER_NODE=2",)), ranks=2)
    assert asked.said_ranks == 2
    assert swift(ENV={"NPROC_PER_NODE": 4}).said_ranks == 4
    program = asked.program()
    assert program.env["NPROC_PER_NODE"] == "2"
    assert program.env["MASTER_PORT"] == "29501"
    copy = "/run/attempts/001/train.yaml"
    assert program.argv == (PYTHON, "/venv/bin/swift", "sft", copy)


@pytest.mark.parametrize(
    ("config", "changes", "written"),
    [
        ({}, {"quantization": "nf4"}, {"quant_method": "bnb", "quant_bits": 4}),
        ({"max_length": 2048}, {"sequence": 512},
         {"max_length": 512, "truncation_strategy": "right"}),
        ({}, {"attention": "eager"}, {"attn_impl": "eager"}),
        ({}, {"lora_rank": 4}, {"lora_rank": 4, "lora_alpha": 16}),
        ({}, {"activation_checkpointing": False}, {"gradient_checkpointing": False}),
        ({}, {"loader_workers": 0}, {"dataloader_num_workers": 0}),
    ],
)  # fmt: skip
def test_a_plan_is_written_in_ms_swifts_words(
    config: dict[str, Any], changes: dict[str, Any], written: dict[str, Any]
) -> None:
    copy = swift(**config).written(**changes)
    assert {key: copy[key] for key in written} == written


def test_its_named_deepspeed_configurations_are_written_out() -> None:
    asked = swift(deepspeed="zero3_offload")
    start = asked.start
    assert (start.zero_stage, start.offload_optimizer, start.offload_param) == (3, True, True)
    program = asked.program(offload_param=False)
    assert '"offload_param"' not in program.files["ds_config.json"]
    copy = read_yaml(program.files["train.yaml"])
    assert copy["deepspeed"] == "/run/attempts/001/ds_config.json"


def test_float32_weights_are_trained_in_fp16_unless_it_is_said_to_be_off() -> None:
    asked = swift(torch_dtype="float32")
    assert asked.start.dtype == "fp16"
    assert "fp16" in asked.notes
    assert swift(torch_dtype="float32", fp16=False).start.dtype == "fp32"


def test_a_null_stays_the_word_it_is_for_ms_swift() -> None:
    assert swift(system=None).written()["system"] == "None"


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"train_type": "lora"}, "`tuner_type`"),
        ({"resume_only_model": True}, "anew at each resume"),
        ({"tuner_backend": "unsloth"}, "unsloth"),
        ({"ENV": {"NNODES": 2}}, "NNODES is 2"),
    ],
)
def test_what_no_plan_can_carry_is_said_before_launch(config: dict[str, Any], said: str) -> None:
    assert said in " ".join(fault.what for fault in swift(**config).faults)


def test_arguments_that_ms_swift_kept_are_no_fault() -> None:
    assert not swift(warmup_ratio=0.05, logging_dir="logs").faults


def test_the_known_good_relaunches_with_ms_swift_alone() -> None:
    good = swift().known_good(micro_batch=1)
    assert good.settings["command"][:3] == ["NPROC_PER_NODE=1", "swift", "sft"]


@pytest.mark.parametrize(
    ("asked", "inherited", "theirs"),
    [
        (swift(), {}, True),
        (swift(use_hf=True), {}, False),
        (swift("--use_hf", "true"), {}, False),
        (swift(), {"USE_HF": "1"}, False),
        (swift(env=("USE_HF=0",)), {"USE_HF": "1"}, True),
        (swift(ENV={"USE_HF": "True"}), {}, False),
    ],
)
def test_models_are_modelscopes_unless_it_is_told_otherwise(
    asked: Asked, inherited: dict[str, str], theirs: bool
) -> None:
    assert asked.framework.asks_modelscope(asked.job, asked.looked, inherited) is theirs
