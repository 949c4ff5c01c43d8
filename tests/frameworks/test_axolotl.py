"""The keys that axolotl has of its own, which are others than those of TrainingArguments."""

from typing import Any

import pytest

from autotune.frameworks.axolotl import Axolotl
from tests.frameworks.asked import PYTHON, Asked, read_yaml

VERSIONS = {
    "transformers": "5.14.1", "torch": "2.12.1", "deepspeed": "0.18.9", "axolotl": "0.18.0",
}  # fmt: skip
CONFIG: dict[str, Any] = {
    "base_model": "models/tiny",
    "datasets": [{"path": "a.jsonl", "type": "alpaca"}],
    "micro_batch_size": 4,
    "gradient_accumulation_steps": 2,
    "sequence_len": 2048,
    "optimizer": "adamw_torch_fused",
    "learning_rate": 0.0002,
    "bf16": "auto",
    "output_dir": "out",
}


def axolotl(*words: str, without: tuple[str, ...] = (), **config: Any) -> Asked:
    """Return `axolotl train mine.yaml` with some overrides, and more in the configuration."""
    held = {key: value for key, value in {**CONFIG, **config}.items() if key not in without}
    command = ("axolotl", "train", "mine.yaml", *words)
    return Asked(Axolotl(), command, {"mine.yaml": held}, VERSIONS)


def test_a_plan_starts_where_axolotl_would() -> None:
    start = axolotl().start
    assert (start.micro_batch, start.accumulation, start.eval_micro_batch) == (4, 2, 4)
    assert (start.dtype, start.method, start.sequence) == ("bf16", "full", 2048)
    assert start.allocator == (("expandable_segments", "True"),)


def test_the_accumulation_follows_from_the_batch_of_a_rank() -> None:
    asked = axolotl(batch_size=12, without=("gradient_accumulation_steps",))
    assert asked.start.accumulation == 3
    copy = asked.written(micro_batch=2, accumulation=6)
    assert (copy["micro_batch_size"], copy["gradient_accumulation_steps"]) == (2, 6)
    assert "batch_size" not in copy


def test_overrides_win_and_what_a_plan_changes_leaves_the_line() -> None:
    asked = axolotl("--micro-batch-size=2", "--seed=7")
    assert asked.start.micro_batch == 2
    program = asked.program(micro_batch=1, accumulation=4)
    assert "--micro-batch-size=2" not in program.argv
    assert "--seed=7" in program.argv


def test_ranks_are_started_by_the_launcher_behind_the_dashes() -> None:
    asked = axolotl("--launcher", "accelerate", "--", "--num_processes", "2")
    assert asked.said_ranks == 2
    program = asked.program()
    copy = "/run/attempts/001/train.yaml"
    assert program.argv == (
        PYTHON, "/venv/bin/axolotl", "train", copy, "--launcher", "torchrun", "--",
        "--nproc_per_node", "1", "--master_port", "29501",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("config", "changes", "written"),
    [
        ({"adapter": "lora"}, {"quantization": "nf4"}, {"load_in_4bit": True, "adapter": "qlora"}),
        ({"flash_attention": True}, {"attention": "sdpa"}, {"attn_implementation": "sdpa"}),
        ({}, {"loss": "chunked"}, {"chunked_cross_entropy": True}),
        ({}, {"sequence": 512}, {"sequence_len": 512, "excess_length_strategy": "truncate"}),
        ({"adapter": "lora", "lora_r": 32, "lora_alpha": 16}, {"lora_rank": 8},
         {"lora_r": 8, "lora_alpha": 4}),
        ({}, {"activation_checkpointing": True}, {"gradient_checkpointing": True}),
        ({}, {"optimizer": "adamw_8bit"}, {"optimizer": "adamw_bnb_8bit"}),
        ({}, {"dtype": "fp32"}, {"bf16": False, "fp16": False}),
    ],
)  # fmt: skip
def test_a_plan_is_written_in_axolotls_words(
    config: dict[str, Any], changes: dict[str, Any], written: dict[str, Any]
) -> None:
    copy = axolotl(**config).written(**changes)
    assert {key: copy[key] for key in written} == written


def test_checkpoints_come_as_often_as_the_job_says_and_go_where_it_says() -> None:
    copy = axolotl(saves_per_epoch=4, auto_resume_from_checkpoints=True).written()
    assert "saves_per_epoch" not in copy
    assert copy["save_strategy"] == "steps"
    assert copy["output_dir"] == "/run/checkpoints"
    assert copy["auto_resume_from_checkpoints"] is False


def test_packing_keeps_the_micro_batch() -> None:
    asked = axolotl(sample_packing=True)
    assert "pack" in asked.lacks["micro_batch"]
    assert asked.framework.packs(asked.job, asked.looked)
    assert "micro_batch" not in axolotl().lacks


def test_dropped_rows_are_told_of() -> None:
    assert "drops rows" in axolotl().notes
    assert "drops rows" not in axolotl(excess_length_strategy="truncate").notes


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"batch_size": 8}, "both are there"),
        ({"rl": "dpo"}, "`rl`"),
        ({"context_parallel_size": 2}, "`context_parallel_size`"),
        ({"load_in_4bit": True, "adapter": "lora"}, "`adapter: qlora`"),
        ({"fsdp": ["full_shard"]}, "`fsdp`"),
    ],
)
def test_what_no_plan_can_carry_is_said_before_launch(config: dict[str, Any], said: str) -> None:
    assert said in " ".join(fault.what for fault in axolotl(**config).faults)


def test_keys_that_axolotl_has_of_its_own_are_no_fault() -> None:
    assert not axolotl(warmup_ratio=0.1, group_by_length=True).faults


def test_the_known_good_relaunches_with_axolotl_alone() -> None:
    good = axolotl().known_good(micro_batch=2, accumulation=4)
    assert good.settings["command"][:2] == ["axolotl", "train"]
    assert good.settings["command"][-3:] == ["--", "--num_processes", "1"]
    assert read_yaml(good.files["train.yaml"])["micro_batch_size"] == 2
