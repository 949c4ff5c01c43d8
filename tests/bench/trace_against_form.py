"""Compares the closed form with the trace: `python -m tests.bench.trace_against_form [MODEL ...]`.

Models of real sizes cut to a few layers, of all families that have a config in the tests; the
training's Python is this one. A step is bytes at its highest above weights and states, with
gradients of two bytes. Model names as arguments choose some.
"""

import os
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

from autotune.core.memory.activations import Activations, activations_of
from autotune.core.memory.reading import read_shape
from autotune.core.memory.shape import ModelShape
from autotune.core.memory.traced import Traced
from autotune.core.memory.workload import Subject, Workload
from autotune.foreseeing import TRACER
from autotune.world.tracing import Tracer, request_for, trace
from tests.bench.memory_accuracy import START
from tests.core.memory.configs import CONFIGS

LAYERS = 2
GRADIENT = 2
PLANS: dict[str, dict[str, Any]] = {
    "full": {},
    "full, checkpointing": {"activation_checkpointing": True},
    "full, checkpointing, chunked": {"activation_checkpointing": True, "loss": "chunked"},
    "LoRA": {"method": "lora"},
    "LoRA, checkpointing": {"method": "lora", "activation_checkpointing": True},
    "QLoRA": {"method": "lora", "quantization": "nf4"},
    "QLoRA, checkpointing, chunked": {
        "method": "lora",
        "quantization": "nf4",
        "activation_checkpointing": True,
        "loss": "chunked",
    },
}


def step(what: Activations) -> int:
    """Return the highest bytes of a forward and backward pass."""
    points = (one.activations + GRADIENT * one.gradients for one in what.backward)
    return max(what.forward, *points)


def compare(name: str, config: dict[str, Any]) -> list[tuple[str, float, float]]:
    """Print a model's cells; returns for each its name and the errors of step and evaluation."""
    shape = read_shape(config)
    assert isinstance(shape, ModelShape), shape
    subject = Subject(shape=shape, device="cuda", sequence=1024, evaluates=True)
    works = [
        Workload(subject, START.but(micro_batch=2, eval_micro_batch=2, **plan))
        for plan in PLANS.values()
    ]
    request = request_for(subject, works, {"config": config}, False)
    with tempfile.TemporaryDirectory() as scratch:
        folder, mark = Path(scratch) / "trace", "trace-against-form"
        tracer = Tracer(sys.executable, TRACER, folder, os.environ, mark, 600.0)
        answers = trace(tracer, request, lambda: False)
    cells = []
    for plan, work, told in zip(PLANS, works, answers, strict=True):
        if not isinstance(told, Traced):
            print(f"| {name} | {plan} | {told.why} | | |", flush=True)
            continue
        form = activations_of(work)
        errors = (
            step(form) / step(told.activations) - 1,
            form.evaluation / told.activations.evaluation - 1,
        )
        cells.append((f"{name}, {plan}", *errors))
        size = step(told.activations) / 2**20
        print(f"| {name} | {plan} | {size:.0f} | {errors[0]:+.1%} | {errors[1]:+.1%} |", flush=True)
    return cells


def main() -> None:
    """Print a table and its summary."""
    print("| model | plan | step, MiB | form's error | in evaluation |\n|---|---|---|---|---|")
    cells = []
    for name, config in CONFIGS.items():
        if not sys.argv[1:] or name in sys.argv[1:]:
            key = "n_layer" if "n_layer" in config else "num_hidden_layers"
            cells += compare(name, {**config, key: LAYERS})
    summarise("step", {name: error for name, error, _ in cells})
    summarise("evaluation", {name: error for name, _, error in cells})


def summarise(what: str, errors: dict[str, float]) -> None:
    """Print the mean and the worst."""
    worst = max(errors, key=lambda name: abs(errors[name]))
    mean = statistics.fmean(map(abs, errors.values()))
    far = sum(abs(one) > 0.05 for one in errors.values())
    print(
        f"{what}: {len(errors)} cells, mean absolute error {mean:.2%}, worst {errors[worst]:+.1%} "
        f"({worst}), beyond 5 %: {far}"
    )


if __name__ == "__main__":
    main()
