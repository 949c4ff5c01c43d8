"""LLaMA-Factory: what is read of a user's YAML, what is written instead, what is refused."""

import copy
import json
from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from typing import Any

import pytest
from ruamel.yaml import YAML

from autotune.core.fault import Fault
from autotune.core.job import Job
from autotune.core.plan import Plan
from autotune.frameworks.framework import Looked, Program, Setting
from autotune.frameworks.known import FRAMEWORKS
from autotune.frameworks.llamafactory import LlamaFactory
from autotune.frameworks.llamafactory_config import read
from tests import builders

TOOL = LlamaFactory()
YAML_TEXT = """
### model
model_name_or_path: model
### method
stage: sft
do_train: true
finetuning_type: lora   # the usual way
lora_rank: 16
lora_target: q_proj,v_proj
deepspeed: ds/z2.json
### dataset
dataset: alpaca,mine
dataset_dir: 'data'
cutoff_len: 4096
### output
output_dir: saves/x
overwrite_output_dir: true
save_steps: 500
plot_loss: yes
### train
per_device_train_batch_size: 4
gradient_accumulation_steps: 2
learning_rate: 1e-4
num_train_epochs: 3.0
bf16: true
"""
ZERO_2 = {
    "train_batch_size": "auto",
    "train_micro_batch_size_per_gpu": "auto",
    "gradient_accumulation_steps": "auto",
    "zero_optimization": {"stage": 2, "reduce_bucket_size": 5e8, "round_robin_gradients": True},
}
DATASETS = {"alpaca": {"file_name": "a.json"}, "mine": {"hf_hub_url": "me/mine"}}
VERSIONS = {
    "llamafactory": "0.9.5", "transformers": "5.6.0", "datasets": "4.0.0", "accelerate": "1.11.0",
    "peft": "0.18.1", "trl": "0.24.0", "torch": "2.13.0", "deepspeed": "0.19.8",
    "bitsandbytes": "0.50.2", "liger-kernel": "0.8.2",
}  # fmt: skip


def job(*command: str, **changes: Any) -> Job:
    """Return a job of LLaMA-Factory, by default on the YAML above."""
    words = command or ("llamafactory-cli", "train", "train.yaml")
    settings = {"command": list(words), **changes.pop("settings", {})}
    return builders.job(framework="llamafactory", settings=settings, **changes)


def looked(of: Job, text: str = YAML_TEXT, **files: Any) -> Looked:
    """Return the files that the framework asks for, read from texts; `None` for one not there."""
    held = {
        "train.yaml": text,
        "ds/z2.json": json.dumps(ZERO_2),
        "data/dataset_info.json": json.dumps(DATASETS),
        **files,
    }
    found = Looked(versions=VERSIONS)
    for _ in range(4):
        texts = {path: held[path] for path in TOOL.wants(of, found)}
        documents = {path: plain(text) for path, text in texts.items()}
        found = replace(found, texts=texts, documents=documents)
    return found


def plain(text: str) -> Any:
    """Return YAML as values."""
    return copy.deepcopy(_read(text))  # to read it takes milliseconds, and most read the same


@cache
def _read(text: str) -> Any:
    return YAML(typ="safe", pure=True).load(text)


def changed(**values: Any) -> str:
    """Return the YAML with these lines behind it; None takes a line out."""
    lines = [line for line in YAML_TEXT.splitlines() if line.split(":")[0] not in values]
    lines += [f"{key}: {json.dumps(value)}" for key, value in values.items() if value is not None]
    return "\n".join(lines) + "\n"


def faults(text: str = YAML_TEXT, of: Job | None = None, datasets: str = "") -> list[str]:
    """Return what is said against a YAML."""
    of = of or job()
    files = {"data/dataset_info.json": datasets} if datasets else {}
    return [fault.what for fault in TOOL.faults(of, looked(of, text, **files), 2, "job.yaml:3")]


def setting(of: Job, found: Looked, plan: Plan, **changes: Any) -> Setting:
    """Return an attempt at the plan."""
    given = Setting(
        job=of,
        looked=found,
        job_folder="/home/u/project",
        plan=plan,
        device="cuda",
        attempt=2,
        folder="/run/attempts/002",
        checkpoints="/run/checkpoints",
        control=None,
        python="/env/bin/python",
        port=29999,
        devices=(0, 1),
    )
    return replace(given, **changes)


def started(text: str = YAML_TEXT, of: Job | None = None, **changes: Any) -> tuple[Plan, Program]:
    """Return where a YAML starts and the program of that plan with `changes`."""
    of = of or job()
    found = looked(of, text)
    plan = TOOL.start(of, found, 2)
    return plan, TOOL.program(setting(of, found, plan.but(**changes)))


def written(program: Program) -> dict[str, Any]:
    """Return the YAML of an attempt as YAML 1.1 has it, which is what LLaMA-Factory reads."""
    yaml = YAML(typ="safe", pure=True)
    yaml.version = (1, 1)
    held = yaml.load(program.files["train.yaml"])
    assert isinstance(held, dict)
    return held


def test_it_is_known_by_its_name() -> None:
    assert isinstance(FRAMEWORKS["llamafactory"], LlamaFactory)
    assert TOOL.usual("x.yaml") == ("llamafactory-cli", "train", "x.yaml")


def test_it_asks_for_the_yaml_then_for_what_the_yaml_names() -> None:
    assert TOOL.wants(job(), Looked()) == ("train.yaml",)
    assert list(looked(job()).texts) == ["train.yaml", "data/dataset_info.json", "ds/z2.json"]


def test_overrides_behind_the_yaml_decide_which_files_are_read() -> None:
    of = job("llamafactory-cli", "train", "train.yaml", "deepspeed=other.json")
    assert "other.json" in looked(of, **{"other.json": json.dumps(ZERO_2)}).texts


def test_datasets_of_a_hub_need_no_list_here() -> None:
    text = changed(dataset_dir="ONLINE", deepspeed=None)
    assert list(looked(job(), text).texts) == ["train.yaml"]


def test_a_yaml_starts_where_it_says() -> None:
    plan, _ = started()
    assert (plan.micro_batch, plan.accumulation, plan.world_size) == (4, 2, 2)
    assert (plan.method, plan.lora_rank, plan.quantization) == ("lora", 16, "none")
    assert (plan.zero_stage, plan.dtype, plan.sequence) == (2, "bf16", 4096)
    assert plan.activation_checkpointing, "it is on unless the YAML says otherwise"
    assert plan.round_robin_gradients
    assert plan.reduce_bucket == 500_000_000
    assert plan.allocator == (("expandable_segments", "True"),), "its launcher sets it"


def test_its_defaults_are_its_own() -> None:
    plan, _ = started(
        changed(lora_rank=None, cutoff_len=None, per_device_train_batch_size=None, bf16=None)
    )
    assert (plan.lora_rank, plan.sequence, plan.micro_batch, plan.dtype) == (8, 2048, 8, "fp32")


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"quantization_bit": 4}, {"quantization": "nf4"}),
        ({"quantization_bit": 4, "quantization_method": "bitsandbytes"}, {"quantization": "nf4"}),
        ({"quantization_bit": 8}, {"quantization": "none"}),
        ({"quantization_bit": 4, "quantization_type": "fp4"}, {"quantization": "none"}),
        ({"disable_gradient_checkpointing": True}, {"activation_checkpointing": False}),
        ({"flash_attn": "fa2"}, {"attention": "flash_attention_2"}),
        ({"flash_attn": "disabled"}, {"attention": "eager"}),
        ({"enable_liger_kernel": True}, {"loss": "chunked"}),
        ({"pure_bf16": True, "bf16": None}, {"dtype": "bf16"}),
        ({"finetuning_type": "full"}, {"method": "full", "lora_rank": 0}),
        ({"optim": "paged_adamw_8bit"}, {"optimizer": "paged_adamw_8bit"}),
        ({"deepspeed": None}, {"zero_stage": 0}),
        ({"deepspeed": {"zero_optimization": {"stage": 3}}}, {"zero_stage": 3}),
        ({"use_unsloth_gc": True}, {"activation_offload": True}),
    ],
)
def test_its_own_keys_are_read(values: Mapping[str, Any], expected: Mapping[str, Any]) -> None:
    plan, _ = started(changed(**values))
    assert {name: getattr(plan, name) for name in expected} == expected


def test_words_on_the_command_line_override_the_yaml() -> None:
    of = job("lmf", "train", "train.yaml", "lora_rank=32", "per_device_train_batch_size=2")
    plan, program = started(of=of)
    assert (plan.lora_rank, plan.micro_batch) == (32, 2)
    assert written(program)["lora_rank"] == 32


def test_flags_without_a_file_are_read_like_a_file() -> None:
    of = job("llamafactory-cli", "train", "--stage", "sft", "--do_train", "--cutoff_len=512")
    given = read(of, looked(of))
    assert not isinstance(given, Fault)
    assert given.values == {"stage": "sft", "do_train": True, "cutoff_len": 512}


def test_the_plan_it_starts_at_leaves_the_users_values_as_they_are() -> None:
    _, program = started()
    ours = written(program)
    theirs = YAML(typ="safe", pure=True).load(YAML_TEXT)
    kept = theirs.keys() - {"output_dir", "save_steps", "deepspeed", "plot_loss"}
    assert {key: ours[key] for key in kept} == {key: theirs[key] for key in kept}
    assert ours["plot_loss"] is True, "YAML 1.1 reads yes as true"
    assert ours["output_dir"] == "/run/checkpoints"
    assert ours["learning_rate"] == pytest.approx(1e-4)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"micro_batch": 2, "accumulation": 4}, {"per_device_train_batch_size": 2}),
        ({"quantization": "nf4"}, {"quantization_bit": 4, "quantization_method": "bnb"}),
        ({"activation_checkpointing": False}, {"disable_gradient_checkpointing": True}),
        ({"attention": "sdpa"}, {"flash_attn": "sdpa"}),
        ({"attention": "eager"}, {"flash_attn": "disabled"}),
        ({"loss": "chunked"}, {"enable_liger_kernel": True}),
        ({"sequence": 1024}, {"cutoff_len": 1024}),
        ({"lora_rank": 8}, {"lora_rank": 8, "lora_alpha": 16}),
        ({"optimizer": "paged_adamw_8bit"}, {"optim": "paged_adamw_8bit"}),
        ({"activation_offload": True}, {"use_unsloth_gc": True}),
    ],
)
def test_a_rung_becomes_the_tools_own_key(
    change: Mapping[str, Any], expected: Mapping[str, Any]
) -> None:
    ours = written(started(**change)[1])
    assert {key: ours.get(key) for key in expected} == expected


def test_the_deepspeed_configuration_is_a_changed_copy() -> None:
    _, program = started(zero_stage=3, reduce_bucket=1_000_000)
    copy = json.loads(program.files["ds_config.json"])
    assert written(program)["deepspeed"] == "/run/attempts/002/ds_config.json"
    assert copy["zero_optimization"]["stage"] == 3
    assert copy["zero_optimization"]["reduce_bucket_size"] == 1_000_000
    assert copy["zero_optimization"]["round_robin_gradients"] is True
    assert copy["train_batch_size"] == "auto"


def test_a_shorter_row_leaves_the_cache_of_tokens_aside() -> None:
    text = changed(tokenized_path="cache/tokens")
    assert written(started(text)[1])["tokenized_path"] == "cache/tokens"
    assert "tokenized_path" not in written(started(text, sequence=1024)[1])


def test_it_is_launched_by_its_own_launcher_with_the_jobs_python() -> None:
    _, program = started()
    assert program.starts_ranks
    assert program.argv == (
        "/env/bin/python",
        "/env/bin/llamafactory-cli",
        "train",
        "/run/attempts/002/train.yaml",
    )
    assert program.folder == "/home/u/project"
    assert program.env["FORCE_TORCHRUN"] == "1"
    assert program.env["NPROC_PER_NODE"] == "2"
    assert program.env["MASTER_PORT"] == "29999"
    assert program.env["OPTIM_TORCH"] == "0", "else it overwrites the allocator's settings"


def test_a_folder_with_a_space_goes_round_the_launcher_that_splits_at_spaces() -> None:
    of = job()
    found = looked(of)
    plan = TOOL.start(of, found, 2)
    program = TOOL.program(setting(of, found, plan, folder="/my runs/attempts/002"))
    assert not program.starts_ranks
    assert program.launcher == "torchrun"
    assert program.argv == (
        "-m",
        "llamafactory.launcher",
        "/my runs/attempts/002/train.yaml",
    )


def test_nothing_is_resumed_unless_it_is_named() -> None:
    of = job()
    found = looked(of)
    plan = TOOL.start(of, found, 2)
    fresh = written(TOOL.program(setting(of, found, plan)))
    again = written(TOOL.program(setting(of, found, plan, resume="/run/checkpoints/checkpoint-4")))
    assert "resume_from_checkpoint" not in fresh
    assert fresh["overwrite_output_dir"] is True, "else the newest one is gone on from, unasked"
    assert again["resume_from_checkpoint"] == "/run/checkpoints/checkpoint-4"
    assert again["overwrite_output_dir"] is False, "else its log of the steps so far is deleted"


def test_a_proof_trains_one_step_more_into_a_throwaway_folder() -> None:
    of = job()
    found = looked(of)
    plan = TOOL.start(of, found, 2)
    proof = setting(of, found, plan, mode="prove", resume="/run/checkpoints/checkpoint-7")
    ours = written(TOOL.program(proof))
    assert ours["max_steps"] == 8
    assert ours["output_dir"].startswith("/run/attempts/002/")


def test_the_known_good_starts_from_anywhere_at_the_plan_that_ran() -> None:
    of = job()
    found = replace(looked(of), model_config={"model_type": "llama"})
    plan = TOOL.start(of, found, 2).but(micro_batch=2, accumulation=4, zero_stage=3)
    good = TOOL.known_good(setting(of, found, plan, folder="/run/known-good"))
    ours = YAML(typ="safe", pure=True).load(good.files["train.yaml"])
    assert ours["model_name_or_path"] == "/home/u/project/model"
    assert ours["dataset_dir"] == "/home/u/project/data"
    assert ours["deepspeed"] == "/run/known-good/ds_config.json"
    assert ours["output_dir"] == "/run/known-good/output"
    assert "resume_from_checkpoint" not in ours
    assert ours["save_steps"] == 500, "the user's own"
    again = job(**{"settings": dict(good.settings)})
    files = {f"/run/known-good/{name}": text for name, text in good.files.items()}
    files["/home/u/project/data/dataset_info.json"] = json.dumps(DATASETS)
    assert TOOL.start(again, looked(again, **files), 2) == plan
    assert TOOL.ranks(again, looked(again, **files)) == 2
    assert not TOOL.faults(again, looked(again, **files), 2, "job.yaml")


def test_a_model_of_a_hub_keeps_its_name_in_the_known_good() -> None:
    of = job()
    found = looked(of, changed(model_name_or_path="meta-llama/Llama-3.1-8B"))
    good = TOOL.known_good(setting(of, found, TOOL.start(of, found, 2)))
    assert "model_name_or_path: meta-llama/Llama-3.1-8B" in good.files["train.yaml"]


def test_how_many_ranks_is_what_the_environment_says() -> None:
    of = job("NPROC_PER_NODE=4", "FORCE_TORCHRUN=1", "llamafactory-cli", "train", "train.yaml")
    assert TOOL.ranks(of, looked(of)) == 4
    assert TOOL.ranks(job(), looked(job())) is None
    by_card = job("CUDA_VISIBLE_DEVICES=1,3", "llamafactory-cli", "train", "train.yaml")
    assert TOOL.ranks(by_card, looked(by_card)) == 2


def test_a_sound_yaml_has_no_faults() -> None:
    assert faults() == []


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"do_train": None}, "train nothing"),
        ({"finetuning_type": "full", "quantization_bit": 4}, "LoRA and OFT only"),
        ({"quantization_bit": 3}, "none that `quantization_method` has"),
        ({"quantization_bit": 4, "resize_vocab": True}, "vocabulary"),
        ({"use_galore": True}, "GaLore and APOLLO"),
        ({"use_badam": True}, "BAdam"),
        ({"val_size": 0.1, "eval_dataset": "mine"}, "exclude each other"),
        ({"do_eval": True}, "nothing to evaluate on"),
        ({"streaming": True}, "`max_steps` is not set"),
        ({"stage": "ppo"}, "PPO"),
        ({"stage": "pt", "neat_packing": True}, "stage sft only"),
        ({"dataset": "alpaka"}, "`alpaka` is not in this file"),
        ({"stage": "dpo"}, "no pairs to choose from"),
        ({"learnin_rate": 1}, "`learnin_rate` is no key"),
        ({"kt_mode": "x"}, "gone from LLaMA-Factory since 0.9.5"),
        ({"resume_from_checkpoint": "saves/old/checkpoint-9"}, "checkpoint of another run"),
        ({"fsdp": "full_shard"}, "fsdp"),
    ],
)
def test_what_it_would_refuse_is_said_before_the_launch(
    values: Mapping[str, Any], words: str
) -> None:
    said = faults(changed(**values))
    assert any(words in one for one in said), said


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"pure_bf16": True, "bf16": None}, "pure_bf16"),
        ({"quantization_bit": 8}, "4-bit weights only"),
        ({"quantization_bit": 4, "quantization_method": "hqq"}, "HQQ and EETQ"),
        ({"use_unsloth": True}, "Unsloth"),
        ({"pissa_init": True}, "PiSSA"),
        ({"predict_with_generate": True, "val_size": 0.1}, "stage 3"),
    ],
)
def test_what_it_refuses_under_stage_3_only(values: Mapping[str, Any], words: str) -> None:
    three = {**ZERO_2, "zero_optimization": {"stage": 3}}
    assert any(words in one for one in faults(changed(**values, deepspeed=three)))
    two = {**ZERO_2, "zero_optimization": {"stage": 2}}
    assert faults(changed(**values, deepspeed=two)) == []


@pytest.mark.parametrize(
    ("command", "words"),
    [
        (("llamafactory-cli", "chat", "x.yaml"), "trains nothing"),
        (("llamafactory-cli",), "trains nothing"),
        (("llamafactory-cli", "train"), "names no configuration"),
        (("llamafactory-cli", "train", "train.yaml", "--lora_rank", "8"), "only `key=value`"),
        (("axolotl", "train", "x.yaml"), "no command of LLaMA-Factory's"),
        (("USE_RAY=1", "llamafactory-cli", "train", "train.yaml"), "Ray"),
        (("USE_V1=1", "llamafactory-cli", "train", "train.yaml"), "second trainer"),
    ],
)
def test_a_command_that_cannot_be_followed_is_refused(command: tuple[str, ...], words: str) -> None:
    said = faults(of=job(*command))
    assert any(words in one for one in said), said


def test_a_package_that_it_refuses_is_named_with_what_it_takes() -> None:
    of = job()
    found = replace(looked(of), versions={**VERSIONS, "transformers": "5.23.0"})
    (fault,) = TOOL.faults(of, found, 2, "job.yaml:3")
    assert "transformers 4.55.0 to 5.6.0, and 5.23.0 is installed" in fault.what
    freed = job(env={"DISABLE_VERSION_CHECK": "1"})
    assert TOOL.faults(freed, found, 2, "job.yaml:3") == []


def test_a_list_of_datasets_that_says_nothing_is_a_fault() -> None:
    listed = json.dumps({**DATASETS, "mine": {"columns": {}}})
    assert any("loaded from" in one for one in faults(datasets=listed))
    assert any("no list" in one for one in faults(datasets="[]"))


def test_unknown_keys_are_let_through_where_the_user_says_so() -> None:
    of = job("ALLOW_EXTRA_ARGS=1", "llamafactory-cli", "train", "train.yaml")
    assert faults(changed(my_own_key=1), of) == []
    assert any("has no effect" in n.what for n in TOOL.notes(of, looked(of), 2, "job.yaml"))


def test_what_it_has_no_key_for_is_said() -> None:
    of = job()
    found = looked(of)
    assert set(TOOL.lacks(of, found)) == {"four_bit_compute"}
    bare = replace(found, versions={"torch": "2.13.0+cpu"})
    assert {"loss", "quantization", "activation_offload", "zero_stage"} <= set(TOOL.lacks(of, bare))


@pytest.mark.parametrize(
    ("values", "lacking"),
    [
        ({"pure_bf16": True, "bf16": None}, "zero_stage"),
        ({"use_galore": True, "deepspeed": None}, "zero_stage"),
        ({"quantization_bit": 8}, "zero_stage"),
        ({"resize_vocab": True}, "quantization"),
        ({"pissa_init": True}, "quantization"),
        ({"stage": "dpo"}, "loss"),
    ],
)
def test_a_rung_that_it_would_refuse_is_passed_over(
    values: Mapping[str, Any], lacking: str
) -> None:
    assert lacking in TOOL.lacks(job(), looked(job(), changed(**values)))


def test_what_decides_its_memory() -> None:
    of = job()
    trained = TOOL.trained(of, looked(of))
    assert (trained.sequence, trained.lora_rank) == (4096, 16)
    assert trained.lora_targets == ("q_proj", "v_proj")
    everywhere = TOOL.trained(of, looked(of, changed(lora_target="all")))
    assert everywhere.lora_targets == ()
    pairs = looked(of, changed(stage="dpo"))
    assert TOOL.trained(of, pairs).sequence is None, "two rows a sample were never measured"
    told = job(settings={"sequence": 8192})
    assert TOOL.trained(told, pairs).sequence == 8192


def test_what_is_predicted_too_large_is_said() -> None:
    of = job()
    said = [note.what for note in TOOL.notes(of, looked(of, changed(quantization_bit=8)), 2, "")]
    assert any("too much" in one for one in said)


def test_packing_and_evaluation_are_seen() -> None:
    of = job()
    assert not TOOL.packs(of, looked(of))
    assert TOOL.packs(of, looked(of, changed(stage="pt")))
    assert TOOL.packs(of, looked(of, changed(neat_packing=True)))
    assert not TOOL.has_evaluation(of, looked(of))
    evaluated = changed(val_size=0.1, eval_strategy="steps")
    assert TOOL.has_evaluation(of, looked(of, evaluated))


def test_models_are_modelscopes_where_its_switch_is_on() -> None:
    words = ("llamafactory-cli", "train", "train.yaml")

    def asks(of: Job, **inherited: str) -> bool:
        return TOOL.asks_modelscope(of, looked(of), inherited)

    assert not asks(job(*words))
    assert asks(job(*words), USE_MODELSCOPE_HUB="1")
    assert asks(job("USE_MODELSCOPE_HUB=true", *words))
    assert asks(job(*words, env={"USE_MODELSCOPE_HUB": "y"}))
    assert not asks(job("USE_MODELSCOPE_HUB=0", *words), USE_MODELSCOPE_HUB="1")
