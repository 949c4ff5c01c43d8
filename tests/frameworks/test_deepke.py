"""DeepKE's own arguments, as its shell scripts write them."""

from dataclasses import replace
from typing import Any

import pytest

from autotune.frameworks.deepke import DeepKe
from tests.frameworks.asked import Asked, read_yaml

# example/llm/InstructKGC/ft_scripts/fine_llama.bash, word by word but for its variables.
LLAMA = (
    "CUDA_VISIBLE_DEVICES=0,1,2,3", "torchrun", "--nproc_per_node=4", "--master_port=1287",
    "src/finetune.py", "--do_train", "--do_eval", "--overwrite_output_dir", "--stage", "sft",
    "--model_name_or_path", "models/llama2-7b-chat", "--model_name", "llama",
    "--template", "llama2", "--train_file", "data/NER/train.json", "--val_set_size", "100",
    "--output_dir=lora/llama2-7b-chat-v1", "--per_device_train_batch_size", "2",
    "--per_device_eval_batch_size", "2", "--gradient_accumulation_steps", "4",
    "--preprocessing_num_workers", "16", "--num_train_epochs", "10", "--learning_rate", "5e-5",
    "--max_grad_norm", "0.5", "--optim", "adamw_torch", "--max_source_length", "400",
    "--cutoff_len", "700", "--max_target_length", "300", "--evaluation_strategy", "epoch",
    "--save_strategy", "epoch", "--save_total_limit", "10", "--lora_r", "8",
    "--lora_alpha", "16", "--lora_dropout", "0.05", "--bf16", "--bits", "4",
)  # fmt: skip
PINNED = {"transformers": "4.33.0", "torch": "2.0.0", "peft": "0.4.0", "deepspeed": "0.14.0"}
OFFLOADED = {"device": "cpu", "pin_memory": True}
STAGE_2 = {
    "bf16": {"enabled": True},
    "optimizer": {"type": "AdamW", "params": {"lr": "auto", "weight_decay": "auto"}},
    "scheduler": {
        "type": "WarmupDecayLR",
        "params": {"total_num_steps": "auto", "warmup_num_steps": "auto"},
    },
    "zero_optimization": {"stage": 2, "offload_optimizer": OFFLOADED, "reduce_bucket_size": 5e8},
    "train_batch_size": "auto",
    "train_micro_batch_size_per_gpu": "auto",
    "gradient_accumulation_steps": "auto",
}
STAGE_3 = {**STAGE_2, "zero_optimization": {"stage": 3, "offload_optimizer": OFFLOADED}}
FILES = {"configs/stage2.json": STAGE_2, "configs/stage3.json": STAGE_3}


def deepke(*more: str, without: tuple[str, ...] = (), **given: Any) -> Asked:
    """Return the script's own command with some arguments behind it."""
    words = tuple(word for word in LLAMA if word not in without)
    return replace(Asked(DeepKe(), (*words, *more), FILES, PINNED, ranks=4), **given)


def test_a_shipped_script_is_read_as_it_stands() -> None:
    asked = deepke()
    assert not asked.faults
    assert asked.said_ranks == 4
    start = asked.start
    assert (start.micro_batch, start.accumulation, start.world_size) == (2, 4, 4)
    assert (start.method, start.quantization, start.dtype) == ("lora", "nf4", "bf16")
    assert (start.lora_rank, start.sequence, start.activation_checkpointing) == (8, 700, True)
    assert asked.framework.has_evaluation(asked.job, asked.looked)


def test_the_plan_changes_arguments_where_they_stand() -> None:
    program = deepke().program(micro_batch=1, accumulation=8, world_size=4)
    words = list(program.argv)
    assert words[0] == "src/finetune.py"
    assert words[words.index("--per_device_train_batch_size") + 1] == "1"
    assert words.index("--per_device_train_batch_size") < words.index("--optim")
    assert words[words.index("--gradient_accumulation_steps") + 1] == "8"
    assert (program.launcher, program.starts_ranks) == ("torchrun", False)
    assert program.env["CUDA_VISIBLE_DEVICES"] == "0,1,2,3"


def test_a_resume_names_its_checkpoint_beside_the_folder_that_may_be_written_over() -> None:
    words = deepke().program(resume="/run/checkpoints/checkpoint-4", world_size=4).argv
    assert words[words.index("--resume_from_checkpoint") + 1] == "/run/checkpoints/checkpoint-4"
    assert "--overwrite_output_dir" in words
    assert "--output_dir=/run/checkpoints" in words


def test_what_deepke_cannot_steer_is_said_with_its_reason() -> None:
    lacks = deepke("--deepspeed", "configs/stage2.json").lacks
    assert "always" in lacks["activation_checkpointing"]
    assert "optimizer of its own" in lacks["optimizer"]
    assert "attention" in lacks["attention"]
    assert "quantization" not in lacks
    assert "8 bits" in deepke("--bits", "8").lacks["quantization"]


def test_its_deepspeed_files_are_changed_key_by_key_and_keep_their_optimizer() -> None:
    asked = deepke("--deepspeed", "configs/stage2.json")
    assert (asked.start.zero_stage, asked.start.offload_optimizer) == (2, True)
    text = asked.program(world_size=4, offload_optimizer=False).files["ds_config.json"]
    assert '"offload_optimizer"' not in text
    assert '"WarmupDecayLR"' in text


@pytest.mark.parametrize(
    ("more", "without", "said"),
    [
        (("--quantization_config", "q.json"), (), "no argument of DeepKE's"),
        (("--deepspeed", "configs/stage3.json"), (), "refuses `--bits 4` at ZeRO stage 3"),
        (("--deepspeed", "configs/stage2.json", "--fp16"), ("--bf16",), "`bf16` says True"),
        (("--finetuning_type", "full"), (), "cannot be trained themselves"),
        (("--lora_target_modules", "q_proj,v_proj"), (), "a Python list"),
        (("--bits", "5"), (), "no size of weights"),
    ],
)
def test_pitfalls_are_named_before_launch(
    more: tuple[str, ...], without: tuple[str, ...], said: str
) -> None:
    faults = deepke(*more, without=without).faults
    assert said in " ".join(fault.what for fault in faults)


def test_a_model_that_is_quantized_already_is_not_quantized_again() -> None:
    quantized = {"model_type": "llama", "quantization_config": {"load_in_4bit": True}}
    (fault,) = deepke(model_config=quantized).faults
    assert "quantizes it already" in fault.what


def test_arguments_without_an_effect_are_told_of() -> None:
    asked = deepke(
        "--adam8bit", "True", "--gradient_checkpointing", "--checkpoint_dir", "zjunlp/lora",
        "--deepspeed", "configs/stage2.json",
    )  # fmt: skip
    for words in ("--adam8bit", "--gradient_checkpointing", "resumes nothing", "`--optim`"):
        assert words in asked.notes


def test_arguments_in_a_file_stay_in_a_file() -> None:
    mine = {"model_name_or_path": "m", "per_device_train_batch_size": 4, "bf16": True}
    command = ("torchrun", "--nproc_per_node", "2", "src/finetune.py", "mine.yaml")
    asked = Asked(DeepKe(), command, {"mine.yaml": mine}, PINNED, ranks=2)
    program = asked.program(micro_batch=2, accumulation=2)
    assert program.argv == ("src/finetune.py", "/run/attempts/001/train.yaml")
    assert read_yaml(program.files["train.yaml"])["per_device_train_batch_size"] == 2


def test_the_script_with_its_configuration_in_its_code_is_refused() -> None:
    command = ("deepspeed", "--include", "localhost:0", "src/finetuning_chatglm_pt.py")
    (fault,) = Asked(DeepKe(), command).faults
    assert "in its own code" in fault.what


def test_the_known_good_is_torchrun_on_the_same_script() -> None:
    good = deepke().known_good(micro_batch=1, accumulation=8)
    assert good.settings["command"][:3] == ["torchrun", "--nproc_per_node=4", "src/finetune.py"]
    assert good.argv[0] == "src/finetune.py"
    assert good.launcher == "torchrun"
