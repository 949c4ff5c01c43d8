"""What people type reaches the verbs as it was meant, and nonsense is refused by name."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.long

ROOT = Path(__file__).parents[2]
SETTINGS = (
    "settings:\n  model: {model_type: llama}\n  tokenizer: tokenizer\n  method: full\n"
    "  data: {train: train.jsonl, sequence: 16}\n  epochs: 1\n  learning_rate: 1e-3\n"
)


def autotune(*arguments: str, typed: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "autotune.cli.app", *arguments],
        input=typed, capture_output=True, text=True, timeout=120, check=False, cwd=ROOT,
        env={**os.environ, "TERM": "dumb"},
    )  # fmt: skip


def test_explain_reads_standard_input() -> None:
    done = autotune("explain", "-", "--device", "cuda", typed="CUDA error: out of memory\n")
    assert done.returncode == 0, done.stderr
    assert "device_oom" in done.stdout


def test_explain_refuses_a_device_it_does_not_know() -> None:
    done = autotune("explain", "-", "--device", "tpu")
    assert done.returncode == 2
    assert "cuda" in done.stderr


@pytest.mark.parametrize("use", ["0", "-1", "[]", "[-1]", "some"])
def test_a_number_of_devices_that_cannot_be_is_refused(use: str, tmp_path: Path) -> None:
    head = "name: x\nframework: finetune\nbatch: {global: 4, micro: 1}\n"
    (tmp_path / "job.yaml").write_text(f"{head}devices: {{use: {use}}}\n{SETTINGS}")
    done = autotune("check", str(tmp_path / "job.yaml"))
    assert done.returncode == 2, done.stderr
    assert "job.yaml:4" in done.stderr
    assert "Traceback" not in done.stderr
