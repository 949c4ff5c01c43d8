"""Adapters do not fit at micro-batch 1, and each way out of it meets the next refusal.

The story of a Llama-2-13B on three cards, small and on the CPU; nothing in it is pretended. Memory
is refused under a limit that 16-bit weights are beyond; 4-bit weights meet transformers 5, which
does not know the argument that the script asks for them with; an older transformers, laid over this
Python from the package index, does, and then torch has no bf16 kernel for a term of the script's.
In the story that kernel was `triu`, which has one by now; distances have none on the CPU. The
allocator's settings are CUDA's alone: here they are passed over with that reason, and not tried.
"""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from tests.e2e import real_job
from tests.e2e.test_plain_script import launches, relaunch

pytestmark = [pytest.mark.train, pytest.mark.slow]

SCRIPT = Path(__file__).parent / "old_style_script.py"
LIMIT = 540 * 2**20  # bytes; 4-bit weights train in 470 MiB, 16-bit ones need more than 600
# 127 million weights in small matrices and small files: what holds one of them unpacked is little.
# Of neither dtype that is trained in: a norm that is taken as it lies keeps its whole file.
MAKE = """
import sys, torch, transformers
torch.manual_seed(1)
torch.set_default_dtype(torch.float16)
shape = dict(hidden_size=768, intermediate_size=2048, num_hidden_layers=18, vocab_size=256)
config = transformers.LlamaConfig(**shape, num_attention_heads=6, tie_word_embeddings=True)
transformers.LlamaForCausalLM(config).save_pretrained(sys.argv[1], max_shard_size="20MB")
"""
# glibc then gives back at once what is freed, as a GPU's allocator does, and the limit sees it.
ENV = {"OMP_NUM_THREADS": "1", "MALLOC_MMAP_THRESHOLD_": "65536"}
COMMAND = [
    "python", str(SCRIPT), "--model", "model", "--output", "{output}", "--resume", "{resume}",
    "--finetuning_type", "{method=lora}", "--quantization", "{quantization=none}",
    "--dtype", "{dtype=bf16}", "--micro_batch", "{micro_batch=1}",
    "--accumulation", "{accumulation=2}",
]  # fmt: skip


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model whose weights are nearly all that it holds."""
    made = tmp_path_factory.mktemp("made") / "model"
    subprocess.run([sys.executable, "-c", MAKE, str(made)], check=True, capture_output=True)
    return made


def index_answers() -> bool:
    """Return whether pip finds an older transformers."""
    ask = ["-m", "pip", "install", "-q", "--dry-run", "--no-deps", "--retries", "0"]
    done = subprocess.run(
        [sys.executable, *ask, "transformers<5"], capture_output=True, check=False, timeout=120
    )
    return done.returncode == 0


def run_to_its_end(folder: Path, model: Path, **changes: Any) -> Path:
    """Run the script under the real command and return the run's folder."""
    (folder / "model").symlink_to(model)
    job: dict[str, Any] = {
        "name": "old", "framework": "command", "settings": {"command": COMMAND},
        "start": "as_given", "devices": {"use": 1, "memory_limit": LIMIT},
        "checkpoints": {"every": 1, "keep": 2}, "proof": False,
        "allow": ["pin_packages", "change_dtype"], "env": ENV,
    }  # fmt: skip
    with (folder / "job.yaml").open("w") as file:
        YAML().dump({**job, **changes}, file)
    ended = real_job.begin(folder / "job.yaml").wait(timeout=900)
    assert ended == 0, (folder / "terminal").read_text()
    return folder / "runs" / "old"


def told(run: Path) -> list[tuple[str | None, str]]:
    """Return the rung that each attempt began with, and what ended it."""
    journal = [json.loads(line) for line in (run / "journal.jsonl").read_text().splitlines()]
    failures = [one["diagnosis"]["failure"] for one in journal if one["event"] == "attempt_ended"]
    rungs = [one["remedy"] and one["remedy"]["rung"] for one in launches(run)]
    return list(zip(rungs, failures, strict=True))


def test_each_refusal_is_named_and_the_next_remedy_tried_until_it_runs(
    tmp_path: Path, model: Path
) -> None:
    if not index_answers():
        pytest.skip("the package index does not answer, and the older package comes from there")
    run = run_to_its_end(tmp_path, model)
    assert told(run) == [
        (None, "device_oom"),
        ("four_bit", "quantization_conflict"),
        ("pin_packages", "dtype_kernel_gap"),
        ("change_dtype", "none"),
    ]
    passed = {one["rung"]: one["why"] for one in launches(run)[1]["remedy"]["passed_over"]}
    assert "CUDA" in passed["allocator_settings"]
    last = launches(run)[-1]["plan"]
    assert (last["quantization"], last["dtype"], last["micro_batch"]) == ("nf4", "fp32", 1)
    assert "transformers==4." in (run / "known-good" / "pins.txt").read_text()
    assert (relaunch(run) / "adapter_model.safetensors").exists()
    assert real_job.nobody_left(run)
