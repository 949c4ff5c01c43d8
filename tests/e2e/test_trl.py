"""TRL as its users start it, from a refusal under the limit to a known-good that `trl` relaunches.

Needs an environment of its own: python -m tests.environments trl
"""

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from autotune.frameworks.trl import TILE
from tests import environments
from tests.e2e import real_job
from tests.e2e.test_plain_script import launches

LIMIT = 2048 * 2**20  # bytes; a rank of TRL holds 1600 MiB at short rows, mostly imports
MODEL = {
    **real_job.MODEL, "hidden_size": 256, "intermediate_size": 1024, "num_hidden_layers": 4,
}  # fmt: skip
SHORT, LONG, LENGTH = 32, 32, 512
_MAKE_MODEL = (
    "import json, sys; from transformers import AutoConfig, AutoModelForCausalLM as M;"
    "c = AutoConfig.for_model(**json.loads(sys.argv[1])); M.from_config(c).save_pretrained('model')"
)
ZERO_2 = {
    "zero_optimization": {"stage": 2, "reduce_bucket_size": 5e5, "allgather_bucket_size": 5e5},
    "train_micro_batch_size_per_gpu": "auto", "gradient_accumulation_steps": "auto",
    "train_batch_size": "auto", "gradient_clipping": "auto",
}  # fmt: skip


def make_job(folder: Path, ranks: int, *flags: str, **config: Any) -> Path:
    """Write a model, rows that grow, TRL's own YAML and the job that names it."""
    python = str(environments.python("trl"))
    data = real_job.make_data(folder)
    made = [python, "-c", _MAKE_MODEL, json.dumps(MODEL)]
    subprocess.run(made, check=True, cwd=folder, capture_output=True)
    for file in (data / "tokenizer").iterdir():
        (folder / "model" / file.name).write_bytes(file.read_bytes())
    rows = folder / "rows"
    rows.mkdir()
    texts = ["one two three"] * SHORT + ["several words on end " * LENGTH] * LONG
    (rows / "train.jsonl").write_text("".join(json.dumps({"text": t}) + "\n" for t in texts))
    (folder / "ds.json").write_text(json.dumps(ZERO_2))
    mine: dict[str, Any] = {
        "model_name_or_path": "model", "dataset_name": "rows", "max_length": LENGTH,
        "per_device_train_batch_size": 16, "num_train_epochs": 1, "learning_rate": 1e-3,
        "train_sampling_strategy": "sequential", "gradient_checkpointing": False, "bf16": False,
        "output_dir": "out", "use_cpu": True, "logging_steps": 1, **config,
    }  # fmt: skip
    job = {
        "name": "trl", "framework": "trl", "python": python,
        "settings": {"command": ["trl", "sft", "--config", "mine.yaml", *flags]},
        "start": "as_given", "devices": {"use": ranks, "memory_limit": LIMIT},
        "checkpoints": {"every": 1, "keep": 2}, "env": {"OMP_NUM_THREADS": "1"},
    }  # fmt: skip
    for name, held in (("mine.yaml", mine), ("job.yaml", job)):
        with (folder / name).open("w") as written:
            YAML().dump(held, written)
    return folder / "job.yaml"


def relaunch(run: Path) -> None:
    """Start TRL by hand on the known-good's own file, without autotune."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        ["sh", str(run / "known-good" / "launch.sh")],
        env=environment, capture_output=True, text=True, timeout=600, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    assert (run / "known-good" / "output" / "model.safetensors").exists()


@pytest.mark.slow
def test_the_tile_of_its_loss_is_as_large_as_we_predict() -> None:
    script = (
        "from trl.kernels.chunked_logprob import TOKEN_CHUNK_SIZE as tokens;"
        "from trl.trainer.utils import _CHUNKED_LOGPROB_CHUNK_SIZE as words; print(tokens, words)"
    )
    asked = [str(environments.python("trl")), "-c", script]
    told = subprocess.run(asked, check=True, capture_output=True, text=True).stdout
    assert told.split() == [str(TILE.tokens), str(TILE.words)]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("flags", "config", "ranks"),
    [
        ((), {}, 1),
        (("--num_processes", "2"), {"deepspeed": "ds.json", "per_device_train_batch_size": 8}, 2),
    ],
)
def test_trl_goes_on_with_less_and_leaves_a_configuration_that_trl_relaunches(
    tmp_path: Path, flags: tuple[str, ...], config: dict[str, Any], ranks: int
) -> None:
    job = make_job(tmp_path, ranks, *flags, **config)
    assert real_job.begin(job).wait(timeout=1200) == 0, (tmp_path / "terminal").read_text()
    run = tmp_path / "runs" / "trl"
    first, *rest = launches(run)
    assert first["plan"]["world_size"] == ranks
    assert rest, "the limit was never felt"
    assert rest[0]["checkpoint_step"] > 0
    assert not (tmp_path / "out").exists()  # the user's own folder is left alone
    proof = json.loads((run / "known-good" / "proof.json").read_text())
    assert proof["proven"], proof["why"]
    held = YAML(typ="safe").load((run / "known-good" / "train.yaml").read_text())
    for key in ("per_device_train_batch_size", "gradient_accumulation_steps"):
        name = {"per_device_train_batch_size": "micro_batch"}.get(key, "accumulation")
        assert held[key] == rest[-1]["plan"][name]
    relaunch(run)
