"""The closed form of the activations against traces of the models' own code, over a grid.

`python -m tests.bench.trace_grid OUT.jsonl [MODEL …]` traces what OUT.jsonl lacks (15 to 60 s a
model) and prints, for each model and plan, how far the closed form of a whole pass, gradients
included, and of an evaluation is from the trace, in shares of the trace with the weights.
"""

import json
import os
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

from autotune.core.memory.activations import activations_of
from autotune.core.memory.counts import count
from autotune.core.memory.reading import read_shape
from autotune.core.memory.shape import ModelShape
from autotune.core.memory.workload import Subject, Workload
from tests.bench.memory_accuracy import START
from tests.bench.trace_speed import CASE, LORA, TRACER
from tests.core.memory.configs import CONFIGS

SEQUENCE, ROWS = 512, 2
PLAIN = {**LORA, "dropout": 0.0}
# What is asked of the tracer, by name.
PLANS: dict[str, dict[str, Any]] = {
    "full": {},
    "full, checkpointing": {"checkpointing": True},
    "full, chunked loss": {"loss": "chunked"},
    "full, fp32": {"dtype": "fp32"},
    "LoRA": {"lora": PLAIN},
    "LoRA, checkpointing": {"lora": PLAIN, "checkpointing": True},
    "LoRA, dropout": {"lora": {**LORA, "dropout": 0.1}},
    "LoRA, fp32": {"lora": PLAIN, "dtype": "fp32"},
}
Row = dict[str, Any]


def traced(model: str) -> list[Row]:
    """Return what the tracer answers of one model under every plan."""
    sizes = {"sequence": SEQUENCE, "micro_batch": ROWS, "eval_micro_batch": ROWS}
    cases = [{**CASE, **sizes, **plan} for plan in PLANS.values()]
    request = {"model": {"config": CONFIGS[model]}, "trust_remote_code": False, "device": "cpu"}
    request |= {"data_limit": 8 << 30, "cases": cases}
    done = subprocess.run(
        [sys.executable, str(TRACER), json.dumps(request)],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    answers = map(json.loads, done.stdout.splitlines())
    names = [*PLANS]
    return [{"model": model, "plan": names[one["case"]], **one} for one in answers if "case" in one]


def workload_of(row: Row) -> Workload:
    """Return the workload that a row's case is."""
    asked = PLANS[row["plan"]]
    shape = read_shape(CONFIGS[row["model"]])
    assert isinstance(shape, ModelShape), shape
    lora = asked.get("lora")
    dropout = lora["dropout"] if lora else 0.0
    subject = Subject(shape, "cpu", SEQUENCE, lora_dropout=dropout)  # of LORA's rank of itself
    plan = START.but(
        micro_batch=ROWS,
        eval_micro_batch=ROWS,
        method="lora" if lora else "full",
        dtype=asked.get("dtype", "bf16"),
        activation_checkpointing=asked.get("checkpointing", False),
        loss=asked.get("loss", "whole"),
    )
    return Workload(subject, plan)


def errors(row: Row) -> tuple[float, float]:
    """Return the signed errors of a whole pass and of an evaluation."""
    workload = workload_of(row)
    counts, told = count(workload), activations_of(workload)
    each = counts.trainable_bytes // counts.trainable
    points = [(one.activations, one.gradients) for one in told.backward]
    ours, truth = (
        max(forward, *(live + each * made for live, made in passed)) + counts.weight_bytes
        for forward, passed in ((told.forward, points), (row["forward"], row["backward"]))
    )
    evaluation = counts.weight_bytes + row["evaluation"]
    return ours / truth - 1, (counts.weight_bytes + told.evaluation) / evaluation - 1


def main(out: Path, models: list[str]) -> None:
    """Trace what is missing, and print the table."""
    rows = [json.loads(line) for line in out.read_text().splitlines()] if out.exists() else []
    for model in models:
        if model not in {row["model"] for row in rows}:
            new = traced(model)
            rows += new
            with out.open("a") as file:
                file.writelines(json.dumps(row) + "\n" for row in new)
    passes, evaluations = [], []
    for row in rows:
        if not row["ok"]:
            print(f"{row['model']:<20} {row['plan']:<20} not traced: {row['error']}")
            continue
        of_pass, of_evaluation = errors(row)
        passes.append(of_pass)
        evaluations.append(of_evaluation)
        print(f"{row['model']:<20} {row['plan']:<20} {of_pass:+7.2%} {of_evaluation:+7.2%}")
    for name, values in (("passes", passes), ("evaluations", evaluations)):
        mean = statistics.mean(map(abs, values))
        print(f"{name}: {len(values)}, mean {mean:.2%}, {min(values):+.2%} to {max(values):+.2%}")


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:] or [*CONFIGS])
