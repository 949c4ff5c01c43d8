"""Makes small jobs for the real trainer under real DeepSpeed, and reads what came of them."""

import json
import os
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

import psutil
from ruamel.yaml import YAML

ROOT = Path(__file__).parents[2]
MODEL = {
    "model_type": "llama", "vocab_size": 8192, "hidden_size": 128, "intermediate_size": 352,
    "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 4,
    "max_position_embeddings": 512, "tie_word_embeddings": True,
}  # fmt: skip
SHORT_ROWS, LONG_ROWS = 80, 4


def make_data(folder: Path) -> Path:
    """Make the quickstart's data once, and a short file of it with the long samples late."""
    made = folder / "data"
    script = ROOT / "configs" / "quickstart_data.py"
    subprocess.run([sys.executable, str(script), str(made)], check=True, capture_output=True)
    rows = (made / "train.jsonl").read_text().splitlines()
    by_length = sorted(rows, key=len)
    longest, usual = by_length[-LONG_ROWS:], by_length[: len(rows) // 2]
    chosen = usual[:SHORT_ROWS]
    chosen[SHORT_ROWS * 3 // 4 : SHORT_ROWS * 3 // 4] = longest
    (made / "short.jsonl").write_text("\n".join(chosen[:SHORT_ROWS]) + "\n")
    return made


def make_job(folder: Path, data: Path, limit_bytes: int | None, **changes: Any) -> Path:
    """Write a job of five optimizer steps in fp32, begun as given, and return its file."""
    folder.mkdir(parents=True, exist_ok=True)
    settings = {
        "model": dict(MODEL),
        "tokenizer": str(data / "tokenizer"),
        "method": "full",
        "data": {"train": str(data / "short.jsonl"), "sequence": 512, "shuffle": False},
        "epochs": 1,
        "learning_rate": 1e-3,
        "weight_decay": 0.1,
        "dtype": "fp32",
        "deepspeed": {
            "zero_optimization": {"reduce_bucket_size": 5e5, "allgather_bucket_size": 5e5}
        },
    }
    settings.update(changes.pop("settings", {}))
    job: dict[str, Any] = {
        "name": "real",
        "framework": "finetune",
        "settings": settings,
        "batch": {"global": 16, "micro": 8},
        "start": "as_given",
        "devices": {"use": 2, "memory_limit": limit_bytes} if limit_bytes else {"use": 2},
        "checkpoints": {"every": 1, "keep": 2},
        "env": {"OMP_NUM_THREADS": "1"},
    }
    job.update(changes)
    path = folder / "job.yaml"
    with path.open("w") as file:
        YAML().dump(job, file)
    return path


def begin(job: Path) -> "subprocess.Popen[bytes]":
    """Start `autotune run`, its talk beside the job."""
    with (job.parent / "terminal").open("a") as terminal:
        return subprocess.Popen(
            [sys.executable, "-m", "autotune.cli.app", "run", str(job)],
            stdout=terminal,
            stderr=terminal,
            env={
                **os.environ,
                "DS_ACCELERATOR": "cpu",
                "XDG_STATE_HOME": str(job.parent / "state"),  # what other tests taught is not known
            },
        )


def peaks(run: Path, attempt: str = "001") -> int:
    """Return the highest VmData any rank of an attempt reported, bytes."""
    found = [event["memory"]["peak_data_bytes"] for event in steps(run, attempt, all_ranks=True)]
    return int(max(found))


def steps(run: Path, attempt: str, all_ranks: bool = False) -> list[dict[str, Any]]:
    """Return the step events of rank 0, or of all ranks."""
    pattern = "rank*.jsonl" if all_ranks else "rank0.jsonl"
    events = []
    for file in sorted((run / "attempts" / attempt / "events").glob(pattern)):
        events += [json.loads(line) for line in file.read_text().splitlines()]
    return [event for event in events if event["kind"] == "step"]


def story_of_steps(run: Path) -> dict[int, tuple[float, list[int]]]:
    """Return loss and sample ids of every optimizer step that made it into the weights."""
    journal = [json.loads(line) for line in (run / "journal.jsonl").read_text().splitlines()]
    launches = [e for e in journal if e["event"] == "decided" and e["step"] == "launch"]
    kept: dict[int, tuple[float, list[int]]] = {}
    for launch in launches:
        attempt = f"{launch['attempt']:03d}"
        kept = {k: v for k, v in kept.items() if k <= launch["checkpoint_step"]}
        for event in steps(run, attempt, all_ranks=True):
            loss, samples = kept.get(event["step"], (event["loss"], []))
            kept[event["step"]] = (loss, sorted(samples + event["samples"]))
    return kept


def refuse_more_memory(run: Path, rank: int) -> None:
    """Lower the soft limit of a running rank of the first attempt below what its passes take.

    What lies between two passes still fits: a small request is often Rust's, of the tokenizer, and
    Rust aborts where torch raises.
    """
    file = run / "attempts" / "001" / "events" / f"rank{rank}.jsonl"
    lines = file.read_text().splitlines(keepends=True)
    events = [json.loads(line) for line in lines if line.endswith("\n")]
    pid = next(event["pid"] for event in events if event["kind"] == "start")
    held = [event["memory"]["data_bytes"] for event in events if event["kind"] == "step"][-1]
    peak = max(event["peak_bytes"] for event in events if event.get("moment") == "second_backward")
    hard = resource.prlimit(pid, resource.RLIMIT_DATA)[1]
    resource.prlimit(pid, resource.RLIMIT_DATA, ((held + peak) // 2, hard))


def nobody_left(run: Path) -> bool:
    """Return whether no process mentions the run folder any more."""
    for process in psutil.process_iter(["cmdline"]):
        if any(str(run) in word for word in process.info["cmdline"] or ()):
            return False
    return True
