"""What is written for a tool, read by that tool's own parser in that tool's own environment.

Build them with `python -m tests.environments NAME`. DeepKE is no package: AUTOTUNE_DEEPKE names
example/llm/InstructKGC of a clone of it.
"""

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from autotune.frameworks.axolotl import Axolotl
from autotune.frameworks.framework import Program
from autotune.frameworks.ms_swift import MsSwift
from autotune.frameworks.trl import Trl
from tests import environments
from tests.e2e import real_job
from tests.frameworks.asked import NOW, Asked
from tests.frameworks.test_deepke import deepke

pytestmark = pytest.mark.slow
CHANGED: dict[str, Any] = {"micro_batch": 2, "accumulation": 4, "dtype": "fp32"}
TRL = """
from trl.scripts.sft import make_parser
_, training, model, _, left, line = make_parser().parse_args_and_config(
    sys.argv[1:], return_remaining_strings=True, separate_remaining_strings=True)
told = {**vars(training), **vars(model), "left": left + line}
"""
DEEPKE = """
import os; sys.path.insert(0, os.environ["AUTOTUNE_DEEPKE"] + "/src")
from args.parser import parse_train_args
told = {}
for part in parse_train_args():
    told.update(vars(part))
"""
SWIFT = """
from swift.cli.main import parse_yaml_args
from swift.arguments import SftArguments
from swift.utils import parse_args
words = sys.argv[1:]
parse_yaml_args(words)
parsed, left = parse_args(SftArguments, words)
told = {**vars(parsed), "left": left}
"""
AXOLOTL = """
import yaml
from axolotl.utils.config import validate_config
from axolotl.utils.dict import DictDefault
told = dict(validate_config(DictDefault(yaml.safe_load(open(sys.argv[1])))))
"""
TELL = """
print("TOLD" + json.dumps({key: value for key, value in told.items()
                           if isinstance(value, (int, float, str, list, type(None)))}, default=str))
"""


def read(tool: str, script: str, words: list[str], folder: Path) -> dict[str, Any]:
    """Return what the tool's parser made of these words; its own complaint where it refuses."""
    python = environments.python(tool)
    done = subprocess.run(
        [str(python), "-c", "import json, sys\n" + script + TELL, *words],
        cwd=folder, capture_output=True, text=True, timeout=300, check=False,
        env={**os.environ, "DS_ACCELERATOR": "cpu", "MODELSCOPE_CACHE": str(folder / "cache")},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    line = next(line for line in done.stdout.splitlines() if line.startswith("TOLD"))
    found: dict[str, Any] = json.loads(line.removeprefix("TOLD"))
    return found


def laid(program: Program, folder: Path) -> list[str]:
    """Lay an attempt's files into `folder`, and return its words with the paths there."""
    for name, text in program.files.items():
        (folder / name).write_text(text.replace("/run/attempts/001", str(folder)))
    return [word.replace("/run/attempts/001", str(folder)) for word in program.argv]


def model(tool: str, folder: Path) -> None:
    """Make a tiny model with a tokenizer in `folder`/model."""
    made = "import json, sys; from transformers import AutoConfig, AutoModelForCausalLM as M;"
    made += "c = AutoConfig.for_model(**json.loads(sys.argv[1]));"
    made += "M.from_config(c).save_pretrained('model')"
    command = [str(environments.python(tool)), "-c", made, json.dumps(real_job.MODEL)]
    subprocess.run(command, check=True, cwd=folder, capture_output=True)
    for file in (real_job.make_data(folder) / "tokenizer").iterdir():
        (folder / "model" / file.name).write_bytes(file.read_bytes())


def test_trl_reads_what_is_written_and_leaves_accelerate_its_file_alone(tmp_path: Path) -> None:
    mine = {"model_name_or_path": "m", "dataset_name": "d", "use_cpu": True, "use_peft": True}
    asked = Asked(
        Trl(), ("trl", "sft", "--config", "x.yaml", "--num_processes", "2", "--seed", "3"),
        {"x.yaml": mine}, {**NOW, "trl": "1.16.0"},
    )  # fmt: skip
    words = laid(asked.program(**CHANGED, attention="eager", lora_rank=4, sequence=64), tmp_path)
    told = read("trl", TRL, words[3:], tmp_path)
    assert told["left"] == ["--config_file", str(tmp_path / "accelerate.yaml")]
    assert (told["per_device_train_batch_size"], told["gradient_accumulation_steps"]) == (2, 4)
    assert (told["bf16"], told["fp16"], told["seed"]) == (False, False, 3)
    assert (told["attn_implementation"], told["lora_r"], told["max_length"]) == ("eager", 4, 64)
    assert told["output_dir"] == "/run/checkpoints"


def test_deepke_reads_what_is_written(tmp_path: Path) -> None:
    if not os.environ.get("AUTOTUNE_DEEPKE"):
        pytest.skip("AUTOTUNE_DEEPKE does not name example/llm/InstructKGC of a clone of DeepKE")
    program = deepke().program(**CHANGED, world_size=4, quantization="none", lora_rank=4)
    told = read("deepke", DEEPKE, laid(program, tmp_path)[1:], tmp_path)
    assert (told["per_device_train_batch_size"], told["gradient_accumulation_steps"]) == (2, 4)
    assert (told["bits"], told["lora_r"], told["lora_alpha"]) == (16, 4, 8)
    assert (told["bf16"], told["overwrite_output_dir"]) == (False, True)


def test_ms_swift_reads_what_is_written(tmp_path: Path) -> None:
    model("ms_swift", tmp_path)
    (tmp_path / "rows.jsonl").write_text('{"messages": [{"role": "user", "content": "a"}]}\n')
    mine = {
        "model": "model", "model_type": "llama", "template": "dummy", "dataset": ["rows.jsonl"],
        "torch_dtype": "float32", "fp16": False, "max_length": 128, "check_model": False,
    }  # fmt: skip
    versions = {**NOW, "transformers": "5.6.0", "ms-swift": "4.6.0"}
    asked = Asked(MsSwift(), ("swift", "sft", "x.yaml", "--seed", "3"), {"x.yaml": mine}, versions)
    program = asked.program(**CHANGED, lora_rank=4, sequence=64, attention="eager")
    told = read("ms_swift", SWIFT, laid(program, tmp_path)[3:], tmp_path)
    assert told["left"] == []
    assert (told["per_device_train_batch_size"], told["gradient_accumulation_steps"]) == (2, 4)
    assert (told["fp16"], told["bf16"], told["seed"]) == (False, False, 3)
    assert (told["output_dir"], told["attn_impl"]) == ("/run/checkpoints", "eager")
    assert (told["lora_rank"], told["lora_alpha"], told["max_length"]) == (4, 16, 64)


def test_axolotl_takes_what_is_written(tmp_path: Path) -> None:
    mine = {
        "base_model": "m", "datasets": [{"path": "d", "type": "alpaca"}], "bf16": False,
        "learning_rate": 1e-4, "adapter": "lora", "lora_r": 8, "lora_alpha": 16,
        "lora_target_linear": True, "micro_batch_size": 4, "batch_size": 8, "saves_per_epoch": 2,
    }  # fmt: skip
    asked = Asked(
        Axolotl(), ("axolotl", "train", "x.yaml"), {"x.yaml": mine}, {**NOW, "axolotl": "0.18.0"}
    )
    program = asked.program(
        **CHANGED, attention="sdpa", sequence=64, loss="chunked", activation_checkpointing=True,
        lora_rank=4, optimizer="adamw_8bit",
    )  # fmt: skip
    told = read("axolotl", AXOLOTL, laid(program, tmp_path)[3:4], tmp_path)
    assert (told["micro_batch_size"], told["gradient_accumulation_steps"]) == (2, 4)
    assert (told["sequence_len"], told["lora_r"], told["lora_alpha"]) == (64, 4, 8)
    assert told["gradient_checkpointing"] is True
    assert told["excess_length_strategy"] == "truncate"
