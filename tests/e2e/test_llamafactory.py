"""LLaMA-Factory itself: its parser on what we write, and a training from a refusal to its end."""

import json
import os
import random
import subprocess
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from autotune.frameworks.llamafactory_keys import OF_THE_TRAINER, known_keys
from tests import environments
from tests.e2e.real_job import begin, nobody_left, steps
from tests.frameworks import test_llamafactory as written_by_us

pytestmark = pytest.mark.slow

ROWS, LONG = 80, (56, 60)  # the long ones come late, when there is a checkpoint to go on from
VOCABULARY = 16384
# Beside what a rank holds between its steps: eight short rows take some 400 MiB and eight long ones
# 900 at once, four long ones half of that.
ROOM = 650 * 2**20
MODEL = {
    "vocab_size": VOCABULARY, "hidden_size": 128, "intermediate_size": 352, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 4, "max_position_embeddings": 512,
    "tie_word_embeddings": True, "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 2,
}  # fmt: skip
ZERO_2: dict[str, Any] = {
    "train_batch_size": "auto",
    "train_micro_batch_size_per_gpu": "auto",
    "gradient_accumulation_steps": "auto",
    "gradient_clipping": "auto",
    "bf16": {"enabled": "auto"},
    "fp16": {"enabled": "auto"},
    "zero_allow_untested_optimizer": True,
    "zero_optimization": {
        "stage": 2, "reduce_bucket_size": 5e5, "allgather_bucket_size": 5e5,
        "overlap_comm": False, "round_robin_gradients": True,
    },
}  # fmt: skip
TRAIN: dict[str, Any] = {
    "model_name_or_path": "model",
    "stage": "sft",
    "do_train": True,
    "finetuning_type": "lora",
    "lora_rank": 8,
    "lora_target": "all",
    "deepspeed": "ds_z2.json",
    "dataset": "tiny",
    "dataset_dir": "data",
    "template": "default",
    "cutoff_len": 512,
    "disable_shuffling": True,
    "output_dir": "saves/lora",
    "overwrite_output_dir": True,
    "logging_steps": 1,
    "save_steps": 100,
    "report_to": "none",
    "per_device_train_batch_size": 8,
    "gradient_accumulation_steps": 1,
    "learning_rate": 1e-3,
    "num_train_epochs": 1.0,
    "lr_scheduler_type": "cosine",
    "warmup_steps": 1,
    "bf16": False,
}


@pytest.fixture(scope="module")
def python() -> str:
    """Return the Python that LLaMA-Factory is installed in; skips where it is not built."""
    return str(environments.python("llamafactory"))


def asked(python: str, script: str, *words: str) -> Any:
    """Return the JSON that a script in the tool's Python prints last."""
    done = subprocess.run(
        [python, "-c", script, *words], capture_output=True, text=True, timeout=300, check=True,
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
    )  # fmt: skip
    return json.loads(done.stdout.splitlines()[-1])


def test_the_keys_we_know_are_the_keys_of_the_installed_version(python: str) -> None:
    script = """
import dataclasses, json
from llamafactory.hparams.parser import _TRAIN_ARGS
names = {f.name for one in _TRAIN_ARGS for f in dataclasses.fields(one) if f.init}
print(json.dumps(sorted(names)))
"""
    theirs = {name for name in asked(python, script) if not name.startswith("_")}
    ours = known_keys((0, 9, 5))
    assert theirs - ours == set()
    assert ours - theirs <= OF_THE_TRAINER, "names that only other transformers have"


def test_its_parser_takes_every_yaml_that_we_write(python: str, tmp_path: Path) -> None:
    changes: list[dict[str, Any]] = [
        {},
        {"micro_batch": 2, "accumulation": 4},
        {"quantization": "nf4"},
        {"activation_checkpointing": False, "attention": "eager"},
        {"loss": "chunked", "sequence": 1024, "lora_rank": 4},
        {"activation_offload": True, "optimizer": "paged_adamw_8bit"},
        {"zero_stage": 3, "offload_optimizer": True, "offload_param": True},
        {"dtype": "fp32", "zero_stage": 0},
    ]
    for number, change in enumerate(changes):
        _, program = written_by_us.started(**change)
        text = program.files["train.yaml"].replace("bf16: true", "bf16: false")
        text = text.replace("/run/attempts/002", str(tmp_path))
        (tmp_path / f"{number}.yaml").write_text(text)
        if "ds_config.json" in program.files:
            (tmp_path / "ds_config.json").write_text(program.files["ds_config.json"])
    script = """
import json, sys
from transformers import HfArgumentParser
from llamafactory.hparams.parser import _TRAIN_ARGS, read_args
taken = []
for path in sys.argv[1:]:
    sys.argv = ["train", path]
    made = HfArgumentParser(_TRAIN_ARGS).parse_dict(read_args())
    taken.append([made[2].per_device_train_batch_size, made[1].cutoff_len, made[2].optim.value,
                  made[0].quantization_bit, str(made[0].flash_attn), made[3].lora_rank])
print(json.dumps(taken))
"""
    files = [str(tmp_path / f"{number}.yaml") for number in range(len(changes))]
    taken = asked(python, script, *files)
    assert len(taken) == len(changes)
    assert taken[1][0] == 2
    assert taken[2][3] == 4
    assert taken[4][1:2] + taken[4][5:] == [1024, 4]
    assert taken[5][2] == "paged_adamw_8bit"


def prepare(folder: Path) -> Path:
    """Write a model made from a config, its tokenizer, rows, and the user's YAML."""
    import tokenizers
    from transformers import AutoConfig, AutoModelForCausalLM, set_seed

    set_seed(1)
    made = AutoConfig.for_model("llama", **MODEL)
    AutoModelForCausalLM.from_config(made).save_pretrained(folder / "model")
    words = [f"w{number}" for number in range(VOCABULARY - 3)]
    known = {"<s>": 0, "</s>": 1, "<pad>": 2} | {word: i + 3 for i, word in enumerate(words)}
    tokenizer = tokenizers.Tokenizer(tokenizers.models.WordLevel(known, unk_token="<pad>"))
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
    tokenizer.save(str(folder / "model" / "tokenizer.json"))
    told = {"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": 512}
    told |= {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>"}
    (folder / "model" / "tokenizer_config.json").write_text(json.dumps(told))
    draw = random.Random(3)

    def text(length: int) -> str:
        first, stride = draw.randrange(len(words)), draw.randrange(1, 4)
        return " ".join(words[(first + stride * i) % len(words)] for i in range(length))

    rows = [
        {
            "instruction": text(20),
            "input": "",
            "output": text(460 if LONG[0] <= i < LONG[1] else 200),
        }
        for i in range(ROWS)
    ]
    (folder / "data").mkdir()
    (folder / "data" / "tiny.json").write_text(json.dumps(rows))
    listed = json.dumps({"tiny": {"file_name": "tiny.json"}})
    (folder / "data" / "dataset_info.json").write_text(listed)
    (folder / "ds_z2.json").write_text(json.dumps(ZERO_2))
    with (folder / "train.yaml").open("w") as file:
        YAML().dump(TRAIN, file)
    return folder


def job_at(work: Path, python: str, name: str, limit: int | None, **changes: Any) -> Path:
    """Write a job on the user's YAML and return its file."""
    devices: dict[str, Any] = {"use": 2} | ({"memory_limit": limit} if limit else {})
    job = {
        "name": name,
        "framework": "llamafactory",
        "settings": {"command": ["llamafactory-cli", "train", "train.yaml"], "folder": str(work)},
        "start": "as_given",
        "devices": devices,
        "checkpoints": {"every": 1, "keep": 2},
        "proof": limit is not None,
        "python": python,
        "env": {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"},
        **changes,
    }
    folder = work.parent / name
    folder.mkdir()
    with (folder / "job.yaml").open("w") as file:
        YAML().dump(job, file)
    return folder / "job.yaml"


def journal(run: Path) -> list[dict[str, Any]]:
    """Return the journal's records."""
    return [json.loads(line) for line in (run / "journal.jsonl").read_text().splitlines()]


def final_state(folder: Path) -> dict[str, Any]:
    """Return the Trainer's own account of a finished training."""
    held = json.loads((folder / "trainer_state.json").read_text())
    assert isinstance(held, dict)
    return held


def losses(state: dict[str, Any]) -> dict[int, float]:
    """Return the loss of every step."""
    return {one["step"]: one["loss"] for one in state["log_history"] if "loss" in one}


@pytest.mark.parametrize("stage", [2, 3])
def test_from_a_refusal_under_a_limit_to_a_yaml_that_starts_by_itself(
    python: str, tmp_path: Path, stage: int
) -> None:
    (tmp_path / "work").mkdir()
    work = prepare(tmp_path / "work")
    zero = {**ZERO_2["zero_optimization"], "stage": stage}
    (work / "ds_z2.json").write_text(json.dumps({**ZERO_2, "zero_optimization": zero}))
    before = {path: path.read_bytes() for path in sorted(work.rglob("*")) if path.is_file()}
    free = job_at(work, python, "free", None)
    assert begin(free).wait() == 0, (free.parent / "terminal").read_text()
    undisturbed = free.parent / "runs" / "free"
    held = min(int(one["memory"]["data_bytes"]) for one in steps(undisturbed, "001"))

    limited = job_at(work, python, "limited", held + ROOM)
    assert begin(limited).wait() == 0, (limited.parent / "terminal").read_text()
    run = limited.parent / "runs" / "limited"

    failures = [e["diagnosis"]["failure"] for e in journal(run) if e["event"] == "attempt_ended"]
    assert failures[0] == "device_oom"
    assert set(failures[:-1]) == {"device_oom"}
    launches = [e for e in journal(run) if e["event"] == "decided" and e["step"] == "launch"]
    assert launches[0]["plan"]["micro_batch"] == 8
    assert launches[-1]["plan"]["micro_batch"] < 8
    assert launches[-1]["checkpoint_step"] > 0, "it went on and did not begin anew"
    assert nobody_left(run)
    proof = json.loads((run / "known-good" / "proof.json").read_text())
    assert proof["proven"], proof

    ours, theirs = final_state(run / "checkpoints"), final_state(undisturbed / "checkpoints")
    assert ours["global_step"] == theirs["global_step"] == ROWS // 16
    assert losses(ours) == pytest.approx(losses(theirs), rel=2e-3)
    assert {path: path.read_bytes() for path in before} == before, "the user's files are as before"
    assert not (work / "saves").exists()

    relaunch(run / "known-good", python, tmp_path)


def relaunch(good: Path, python: str, elsewhere: Path) -> None:
    """Start the known-good YAML by the tool alone, from a folder that has nothing to do with it."""
    folder = Path(python).parent
    env = {
        **os.environ,
        "PATH": f"{folder}{os.pathsep}{os.environ['PATH']}",
        "FORCE_TORCHRUN": "1",
        "NPROC_PER_NODE": "2",
        "OMP_NUM_THREADS": "1",
        "HF_HUB_OFFLINE": "1",
        "DS_ACCELERATOR": "cpu",
        # Compiled for the tool's Python by the run itself; the session's are for ours.
        "TORCH_EXTENSIONS_DIR": str(good.parent / "ops"),
    }
    done = subprocess.run(
        [str(folder / "llamafactory-cli"), "train", str(good / "train.yaml")],
        cwd=elsewhere, env=env, capture_output=True, text=True, timeout=600,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-4000:]
    assert final_state(good / "output")["global_step"] == ROWS // 16
