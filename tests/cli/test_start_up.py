"""Starting up stays light: `--help` imports little, and no verb imports the training stack."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.long

ROOT = Path(__file__).parents[2]
TRAINING_STACK = {"torch", "transformers", "deepspeed", "peft", "accelerate", "bitsandbytes"}
LATE = {"ahocorasick_rs", "pydantic", "rich", "ruamel", "structlog", "psutil", "pynvml", "tenacity"}

RUN_AND_LIST_MODULES = """
import json, sys
from autotune.cli.app import main
sys.argv = ["autotune", *sys.argv[1:]]
try:
    main()
except SystemExit as end:
    code = end.code or 0
print(json.dumps([code, sorted({name.split(".")[0] for name in sys.modules})]))
"""


def modules_after(*arguments: str) -> tuple[int, set[str]]:
    """Return the exit code of a verb and the packages its process held at its end."""
    done = subprocess.run(
        [sys.executable, "-c", RUN_AND_LIST_MODULES, *arguments],
        capture_output=True, text=True, timeout=120, cwd=ROOT, check=True,
    )  # fmt: skip
    code, names = json.loads(done.stdout.splitlines()[-1])
    return code, set(names)


def test_help_imports_nothing_that_only_a_verb_needs() -> None:
    code, names = modules_after("--help")
    assert code == 0
    assert names & (LATE | TRAINING_STACK) == set()


@pytest.mark.parametrize("verb", ["run", "check", "explain", "status", "stop", "outcomes"])
def test_help_of_a_verb_imports_nothing_that_the_verb_needs(verb: str) -> None:
    code, names = modules_after(verb, "--help")
    assert code == 0
    # Typer itself reads a verb's parameters with pydantic where it is installed.
    assert names & (LATE - {"pydantic"} | TRAINING_STACK) == set()


def test_check_of_a_faulty_job_imports_no_training_stack(tmp_path: Path) -> None:
    (tmp_path / "job.yaml").write_text("name: x\nframework: finetune\nstart: as_given\n")
    code, names = modules_after("check", str(tmp_path / "job.yaml"))
    assert code == 2
    assert names & TRAINING_STACK == set()


def test_check_of_a_job_that_reaches_the_machine_imports_no_training_stack(tmp_path: Path) -> None:
    (tmp_path / "train.jsonl").write_text('{"text": "a"}\n')
    (tmp_path / "tokenizer").mkdir()
    (tmp_path / "tokenizer" / "tokenizer.json").write_text("{}")
    (tmp_path / "job.yaml").write_text(
        "name: x\nframework: finetune\nbatch: {global: 1, micro: 1}\ndevices: {use: 1}\n"
        "settings:\n  model: {model_type: llama}\n  tokenizer: tokenizer\n  method: full\n"
        "  data: {train: train.jsonl, sequence: 16}\n  epochs: 1\n  learning_rate: 1e-3\n"
    )
    code, names = modules_after("check", str(tmp_path / "job.yaml"))
    assert code in (0, 2)  # 2 where the training stack is not installed
    assert {"pydantic", "ruamel"} <= names
    assert names & TRAINING_STACK == set()


def test_explain_of_a_log_imports_no_training_stack(tmp_path: Path) -> None:
    (tmp_path / "a.log").write_text("RuntimeError: CUDA out of memory.\n")
    code, names = modules_after("explain", str(tmp_path / "a.log"))
    assert code == 0
    assert names & TRAINING_STACK == set()
