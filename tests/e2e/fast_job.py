"""Makes jobs whose training takes milliseconds, and runs the real command on them."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from autotune.core.history import Story, fold
from autotune.core.record import RunStarted
from autotune.world.event_file import parse_event
from autotune.world.journal import read_journal
from autotune.world.process import marked

FAST_PYTHON = Path(__file__).parents[1] / "zoo" / "fast_python.py"
MODEL = {
    "model_type": "llama", "vocab_size": 64, "hidden_size": 8, "intermediate_size": 16,
    "num_hidden_layers": 1, "num_attention_heads": 1,
}  # fmt: skip
PREDICTED: dict[str, Any] = {"start": "predicted", "policy": "default"}


def make_job(folder: Path, story: dict[str, Any] | None = None, **changes: Any) -> Path:
    """Write a job with its data, tokenizer and fast interpreter, and return its file.

    It begins as given and climbs in the policy's order; `PREDICTED` turns both into prediction.
    `settings` are added to its own.
    """
    folder.mkdir(parents=True, exist_ok=True)
    wrapper = folder / "python"
    wrapper.write_text(f'#!/bin/sh\nexec "{sys.executable}" "{FAST_PYTHON}" "$@"\n')
    wrapper.chmod(0o755)
    sample = json.dumps({"prompt": "a", "completion": "b"})
    (folder / "train.jsonl").write_text(f"{sample}\n" * 4)
    (folder / "tokenizer").mkdir(exist_ok=True)
    (folder / "tokenizer" / "tokenizer.json").write_text("{}")
    job: dict[str, Any] = {
        "name": "fast",
        "framework": "finetune",
        "settings": {
            "model": dict(MODEL),
            "tokenizer": "tokenizer",
            "method": "full",
            "data": {"train": "train.jsonl", "sequence": 16},
            "max_steps": 12,
            "learning_rate": 1e-3,
            "deepspeed": {
                "zero_optimization": {"reduce_bucket_size": 5e6, "allgather_bucket_size": 5e6}
            },
        },
        "batch": {"global": 16, "micro": 8},
        "start": "as_given",
        "policy": "in_order",
        "devices": {"use": 2, "memory_limit": "2GiB"},
        "checkpoints": {"every": 3, "keep": 3},
        "python": "./python",
        "env": {"FAST_STORY": json.dumps(story or {})},
    }
    job["settings"].update(changes.pop("settings", {}))
    job.update(changes)
    path = folder / "job.yaml"
    with path.open("w") as file:
        YAML().dump(job, file)
    return path


def start(job: Path, *options: str) -> subprocess.Popen[str]:
    """Start `autotune run` on a job, with its output beside the job."""
    with (job.parent / "terminal").open("a") as terminal:
        return subprocess.Popen(
            [sys.executable, "-m", "autotune.cli.app", "run", str(job), *options],
            stdout=terminal,
            stderr=terminal,
            text=True,
            env={
                **os.environ,
                "DS_ACCELERATOR": "cpu",
                "XDG_STATE_HOME": str(job.parent / "state"),  # what other tests taught is not known
            },
        )


def run(job: Path, *options: str) -> int:
    """Run the job to its end and return the exit code."""
    return start(job, *options).wait(timeout=120)


def terminal(job: Path) -> str:
    """Return what people saw of all starts so far."""
    return (job.parent / "terminal").read_text()


def run_folder(job: Path) -> Path:
    """Return the run folder of a job made here."""
    return job.parent / "runs" / "fast"


def journal_lines(job: Path) -> int:
    """Return how many whole lines the journal has."""
    try:
        return (run_folder(job) / "journal.jsonl").read_bytes().count(b"\n")
    except OSError:
        return 0


def story(job: Path) -> Story:
    """Return the story the journal tells."""
    return fold(read_journal(run_folder(job) / "journal.jsonl"))


def left_behind(job: Path) -> list[int]:
    """Return the processes of the run that still live, by the mark in their environment."""
    events = read_journal(run_folder(job) / "journal.jsonl")
    name = next(e.run_id for e in events if isinstance(e, RunStarted))
    folders = [*(run_folder(job) / "attempts").iterdir()]
    return [p.pid for folder in folders for p in marked(f"{name}/{folder.name}")]


def trained_steps(job: Path) -> list[int]:
    """Return the optimizer steps that made it into the final weights, in order.

    Of each attempt those count that lie before every step its successors resumed from.
    """
    told = story(job)
    kept: list[int] = []
    for place, attempt in enumerate(told.attempts):
        later = told.attempts[place + 1 :]
        until = min((one.launch.checkpoint_step for one in later), default=10**9)
        events = run_folder(job) / "attempts" / f"{attempt.number:03d}" / "events"
        file = events / "rank0.jsonl"
        lines = file.read_bytes().split(b"\n") if file.exists() else []
        said = [event for line in lines if (event := parse_event(line, 0))]
        steps = [event.fields["step"] for event in said if event.kind == "step"]
        kept += [step for step in steps if step <= until]
    return kept


def kill_when(
    supervisor: subprocess.Popen[str], condition: Callable[[], object], what: str
) -> None:
    """Kill the supervisor outright once the condition holds, or once it has ended by itself."""
    until(lambda: condition() or supervisor.poll() is not None, what)
    supervisor.kill()
    supervisor.wait()


def until(condition: Callable[[], object], what: str, seconds: float = 60) -> None:
    """Return as soon as the condition holds; fail, naming it, when it never does."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError(f"never happened: {what}")
        time.sleep(0.01)
