"""Measures how far the losses of undisturbed trainings at different factorisations lie apart.

`python -m tests.bench.loss_spread FOLDER [fp32|bf16] [full|lora] [RATE] [small|tiny]` trains the
same job under several plans that change nothing but the order of sums, resumes one of its
checkpoints under all of them, and prints the largest departures, each as a share of the loss (of 1,
where it is smaller). `small` has 1.4 million parameters and rows of 64 tokens, `tiny` 33 thousand
and the rows of a test.
"""

import copy
import importlib.metadata
import json
import os
import subprocess
import sys
from itertools import combinations
from pathlib import Path
from typing import Any, NamedTuple

from autotune import child
from autotune.core.faithful import departure
from autotune.world import ops_cache
from tests.child.test_finetune import Bench, Outcome
from tests.e2e.real_job import MODEL, make_data

MANY = Path(__file__).parents[1] / "child" / "many_trainings.py"
CONVERTER = Path(child.__file__).parent / "convert.py"
STEPS, EVERY, RESUMED = 30, 10, 10


class Cell(NamedTuple):
    """One factorisation of a global batch of eight."""

    name: str
    micro: int
    accumulation: int
    ranks: int
    stage: int
    checkpointing: bool = False
    loss: str = "whole"


CELLS = (
    Cell("2x4x1, ZeRO-2", 2, 4, 1, 2),
    Cell("the same again", 2, 4, 1, 2),
    Cell("8x1x1, ZeRO-1", 8, 1, 1, 1),
    Cell("8x1x1, ZeRO-2, loss in pieces", 8, 1, 1, 2, loss="chunked"),
    Cell("4x2x1, ZeRO-3, checkpointing", 4, 2, 1, 3, checkpointing=True),
    Cell("4x1x2, ZeRO-2", 4, 1, 2, 2),
    Cell("1x4x2, ZeRO-1, checkpointing", 1, 4, 2, 1, checkpointing=True),
    Cell("4x1x2, ZeRO-3", 4, 1, 2, 3),
)


def settings_of(
    bench: Bench, data: Path | None, cell: Cell, dtype: str, method: str, rate: float
) -> dict[str, Any]:
    """Return the settings of one training of 30 steps, on the quickstart's rows if given."""
    given = bench.settings(cell.micro, cell.accumulation, cell.ranks, cell.stage)
    given["model"]["dtype"] = dtype
    if data is not None:
        given["model"] |= {"config": copy.deepcopy(MODEL), "tokenizer": str(data / "tokenizer")}
        given["data"]["train"] = str(data / "train.jsonl")
    given["method"]["kind"] = method
    given["data"]["eval_fraction"] = 0.0
    given["schedule"] |= {"epochs": None, "max_steps": STEPS, "learning_rate": rate}
    given["schedule"] |= {"optimizer": "adamw_torch_fused", "eval_every": None}
    given["deepspeed"]["bf16"] = {"enabled": dtype == "bf16", "check_grad_overflow": False}
    given["activation_checkpointing"], given["loss"] = cell.checkpointing, cell.loss
    given["checkpoints"] |= {"every": EVERY, "keep": 10}
    return given


def train(bench: Bench, trainings: dict[str, dict[str, Any]]) -> dict[str, Outcome]:
    """Run the trainings one after another and return what each reported."""
    paths = []
    for name, given in trainings.items():
        folder = bench.folder / name
        folder.mkdir()
        paths.append(folder / "train.json")
        paths[-1].write_text(json.dumps(given))
    subprocess.run([sys.executable, str(MANY), *map(str, paths)], env=environment(), check=False)
    made = {}
    for name, path in zip(trainings, paths, strict=True):
        log = path.parent / "output.log"
        made[name] = Outcome(0, log.read_text(), path.parent / "events")
        if not made[name].events("finished"):
            print(f"{name} did not finish: {log.read_text()[-2000:]}")
    return made


def environment() -> dict[str, str]:
    """Return an environment with the root of the checkout on the path, on one thread."""
    root = str(Path(__file__).parents[2])
    plain = {"DS_ACCELERATOR": "cpu", "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
    return {**os.environ, **plain, "PYTHONPATH": root}


def converted(bench: Bench, source: Path, cell: Cell, dtype: str) -> Path:
    """Return the checkpoint as `cell` can read it."""
    if cell.ranks == 1 and cell.stage != 3:
        return source
    target = bench.folder / "staged" / cell.name.replace(" ", "_").replace(",", "") / source.name
    request = {
        "source": str(source), "target": str(target),
        "conversions": ["universal", "shards_of_3"] if cell.stage == 3 else ["universal"],
        "optimizer": "adamw_torch_fused", "world_size": cell.ranks, "bf16": dtype == "bf16",
        "sub_group_size": 1_000_000_000, "ds_version_tested": ["0.19.8"], "free_margin_bytes": 0,
    }  # fmt: skip
    command = [sys.executable, str(CONVERTER), json.dumps(request)]
    answer = subprocess.run(command, env=environment(), capture_output=True, text=True, check=False)
    told = json.loads(answer.stdout.splitlines()[-1])
    if not told["ok"]:
        raise SystemExit(told["error"])
    return target


def largest(one: dict[int, float], other: dict[int, float], first: int, last: int) -> float:
    """Return the largest departure of two losses from step `first` to `last`."""
    return max(departure(one[step], other[step]) for step in range(first, last + 1))


def references(outcome: Outcome) -> dict[int, float]:
    """Return the reference loss of each checkpoint."""
    return {one["step"]: one["reference"]["loss"] for one in outcome.events("checkpoint")}


def show_undisturbed(made: dict[str, Outcome]) -> None:
    """Print how far each training lies from the first, and any two from one another."""
    first, *others = made
    print("| undisturbed | steps 1-8 | steps 1-20 | steps 1-30 | reference rows |")
    print("|---|---|---|---|---|")

    def row(one: str, other: str) -> list[float]:
        a, b = made[one].losses(), made[other].losses()
        apart = [largest(a, b, 1, last) for last in (8, 20, STEPS)]
        before, after = references(made[one]), references(made[other])
        return [*apart, max(departure(before[step], after[step]) for step in before)]

    for name in others:
        print(f"| {name} | " + " | ".join(f"{one:.1e}" for one in row(first, name)) + " |")
    worst = [
        max(column) for column in zip(*(row(*two) for two in combinations(made, 2)), strict=True)
    ]
    print("| any two | " + " | ".join(f"{one:.1e}" for one in worst) + " |")
    samples = {
        json.dumps([one["batch_fingerprint"] for one in o.events("step")]) for o in made.values()
    }
    print(f"losses from {made[first].losses()[1]:.3f} to {made[first].losses()[STEPS]:.3f}; "
          f"{len(samples)} row(s) of fingerprints\n")  # fmt: skip


def show_resumed(first: Outcome, made: dict[str, Outcome]) -> None:
    """Print how far a resume lies from the training that was not interrupted."""
    print("| resumed at 10 | reference rows | step 11 | steps 11-18 | steps 11-30 |")
    print("|---|---|---|---|---|")
    a = first.losses()
    for name, outcome in made.items():
        told, b = outcome.only("continuity"), outcome.losses()
        figures = [departure(told["saved_loss"], told["loss"])]
        figures += [largest(a, b, RESUMED + 1, last) for last in (RESUMED + 1, RESUMED + 8, STEPS)]
        same = "" if told["lr"] == told["lr_expected"] else " (another learning rate!)"
        print(f"| {name}{same} | " + " | ".join(f"{one:.1e}" for one in figures) + " |")


def main() -> None:
    """Train, resume and print."""
    folder = Path(sys.argv[1])
    words = sys.argv[2:]
    dtype, method, shown, size = (*words, *("fp32", "full", "1e-3", "small")[len(words) :])
    rate = float(shown)
    folder.mkdir(parents=True)
    versions = {one: importlib.metadata.version(one) for one in ("torch", "deepspeed")}
    ops = folder / "ops"
    ops_cache.warm(ops, ops_cache.cache_folder(versions, sys.executable))
    os.environ["TORCH_EXTENSIONS_DIR"] = str(ops)
    bench = Bench(folder)
    data = make_data(folder) if size == "small" else None
    print(f"{size} model, {dtype}, {method}, learning rate {rate:g}")
    made = train(bench, {
        cell.name: settings_of(bench, data, cell, dtype, method, rate) for cell in CELLS
    })  # fmt: skip
    show_undisturbed(made)
    source = folder / CELLS[0].name / "checkpoints" / f"checkpoint-{RESUMED}"
    again = {}
    for cell in CELLS:
        given = settings_of(bench, data, cell, dtype, method, rate)
        given["checkpoints"]["resume"] = str(converted(bench, source, cell, dtype))
        if cell.ranks > 1 and cell.stage != 3:
            given["deepspeed"]["checkpoint"] = {"load_universal": True}
        again[f"from the first: {cell.name}"] = given
    show_resumed(made[CELLS[0].name], train(bench, again))


if __name__ == "__main__":
    main()
