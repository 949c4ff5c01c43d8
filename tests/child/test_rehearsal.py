"""A rehearsal meets the longest rows first and leaves no trace in the training that follows."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.child.test_finetune import Bench, Outcome

MANY = Path(__file__).with_name("many_trainings.py")

OF_A_STEP = (
    "step", "loss", "lr", "grad_norm", "tokens", "samples", "max_length", "skipped_steps", "epoch"
)  # fmt: skip
IN_A_STEP = [
    "first_forward", "first_backward", "first_step",
    "second_forward", "second_backward", "second_step",
]  # fmt: skip


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    return Bench(tmp_path_factory.mktemp("rehearsal"))


def settings_of(
    bench: Bench,
    world_size: int = 1,
    stage: int = 2,
    dtype: str = "fp32",
    lora: bool = False,
    offload: bool = False,
) -> dict[str, Any]:
    """Three steps of eight rows, with dropout, saved after the second and at the end."""
    settings = bench.settings(2, 4 // world_size, world_size, stage)
    settings["model"]["config"]["attention_dropout"] = 0.2
    # These keep in mind the longest row that they ever met.
    rope = {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 10000.0}
    settings["model"]["config"] |= {"rope_parameters": rope, "max_position_embeddings": 16}
    settings["data"]["sequence"] = 96
    settings["model"]["dtype"] = dtype
    settings["deepspeed"]["bf16"] = {"enabled": dtype == "bf16", "check_grad_overflow": False}
    if lora:
        settings["method"] |= {"kind": "lora", "lora_dropout": 0.2}
    if offload:
        settings["deepspeed"]["zero_optimization"]["offload_optimizer"] = {"device": "cpu"}
        settings["deepspeed"]["zero_force_ds_cpu_optimizer"] = True
    settings["schedule"] |= {"max_steps": 4, "eval_every": 2, "epochs": None}
    # A warm-up would begin at a rate of zero, where no weight moves anyway.
    settings["schedule"] |= {"scheduler": "linear", "warmup_steps": 0}
    return settings


def leaves(value: Any, where: str) -> Iterator[tuple[str, Any]]:
    """Everything in a loaded file, by its place; tensors as their bytes."""
    torch = pytest.importorskip("torch")
    if isinstance(value, dict):
        for key, item in value.items():
            yield from leaves(item, f"{where}/{key}")
    elif isinstance(value, (list, tuple)):
        for at, item in enumerate(value):
            yield from leaves(item, f"{where}/{at}")
    elif isinstance(value, torch.Tensor):
        flat = value.detach().cpu().contiguous().flatten()
        yield where, (tuple(value.shape), str(value.dtype), flat.view(torch.uint8).tolist())
    elif isinstance(value, (int, float, str, bool, type(None))):
        yield where, value
    elif hasattr(value, "tolist"):  # of numpy
        yield where, value.tolist()


def state_in(checkpoint: Path) -> dict[str, Any]:
    """Weights, masters, moments, counters, schedule and random states of a checkpoint."""
    torch = pytest.importorskip("torch")
    state: dict[str, Any] = {}
    for path in sorted(checkpoint.rglob("*.p*t*")):
        loaded = torch.load(path, weights_only=False, map_location="cpu")
        if path.name != "training_args.bin":
            state.update(leaves(loaded, str(path.relative_to(checkpoint))))
    assert any("exp_avg" in place for place in state), sorted(state)[:20]
    assert any("rng_state" in place for place in state)
    return {place: value for place, value in state.items() if "ds_version" not in place}


def steps_of(outcome: Outcome) -> list[list[dict[str, Any]]]:
    """What each rank reported of its steps, less times and memory."""
    return [
        [{name: event[name] for name in OF_A_STEP} for event in outcome.events("step", rank)]
        for rank in range(len(outcome.ranks))
    ]


def train_all(bench: Bench, wanted: dict[str, dict[str, Any]]) -> dict[str, Outcome]:
    """The outcomes of trainings that were run in the order given."""
    paths = []
    for name, settings in wanted.items():
        folder = bench.folder / name
        folder.mkdir()
        paths.append(folder / "train.json")
        paths[-1].write_text(json.dumps(settings))
    environment = {**os.environ, "DS_ACCELERATOR": "cpu", "CUDA_VISIBLE_DEVICES": ""}
    environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{environment['PATH']}"
    environment |= {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run([sys.executable, str(MANY), *map(str, paths)], env=environment)
    outcomes = {}
    for path in paths:
        output = (path.parent / "output.log").read_text()
        outcomes[path.parent.name] = Outcome(done.returncode, output, path.parent / "events")
    return outcomes


class Course(NamedTuple):
    """One way to train, undisturbed and rehearsed, from the start and from a checkpoint."""

    plain: Outcome
    rehearsed: Outcome
    resumed_plain: Outcome
    resumed: Outcome


def course(bench: Bench, name: str, settings: dict[str, Any]) -> Course:
    from_start = {"rehearse": False, **settings}
    resume = str(bench.folder / f"{name}-plain" / "checkpoints" / "checkpoint-2")
    resuming = {**settings, "checkpoints": {**settings["checkpoints"], "resume": resume}}
    done = train_all(
        bench,
        {
            f"{name}-plain": from_start,
            f"{name}-rehearsed": {**settings, "rehearse": True},
            f"{name}-resumed-plain": resuming,
            f"{name}-resumed": {**resuming, "rehearse": True},
        },
    )
    return Course(*done.values())


def assert_same(bench: Bench, plain: Outcome, rehearsed: Outcome, names: tuple[str, str]) -> None:
    assert len(rehearsed.events("rehearsal")) == 1, rehearsed.output[-3000:]
    assert not plain.events("rehearsal")
    assert steps_of(rehearsed) == steps_of(plain)
    assert len(plain.events("finished")) == 1, plain.output[-3000:]
    losses = [[event["loss"] for event in one.events("eval")] for one in (plain, rehearsed)]
    assert losses[0] == losses[1]
    last = [bench.folder / name / "checkpoints" / "checkpoint-4" for name in names]
    before, after = (state_in(path) for path in last)
    assert sorted(before) == sorted(after)
    assert [place for place in before if before[place] != after[place]] == []


def assert_no_trace(bench: Bench, name: str, settings: dict[str, Any]) -> Course:
    done = course(bench, name, settings)
    assert_same(bench, done.plain, done.rehearsed, (f"{name}-plain", f"{name}-rehearsed"))
    assert [event["step"] for event in done.resumed.events("step")] == [3, 4]
    names = (f"{name}-resumed-plain", f"{name}-resumed")
    assert_same(bench, done.resumed_plain, done.resumed, names)
    return done


@pytest.mark.train
def test_a_rehearsed_training_is_bit_by_bit_the_same(bench: Bench) -> None:
    done = assert_no_trace(bench, "quick", settings_of(bench, dtype="bf16"))

    probes = {event["moment"]: event for event in done.rehearsed.events("probe")}
    assert len(probes) == len(done.rehearsed.events("probe"))
    order = ["base", "load", "optimizer_creation", *IN_A_STEP, "eval", "save"]
    assert list(probes) == order
    assert [name for name in order if probes[name]["rehearsal"]] == [*IN_A_STEP, "eval"]
    for event in probes.values():
        assert event["peak_bytes"] >= event["held_bytes"] > 0
    longest = done.rehearsed.only("rehearsal")["longest"]
    assert probes["second_backward"]["rows"] == 2
    assert probes["second_backward"]["sequence"] == longest
    assert longest == max(event["max_length"] for event in done.plain.events("step"))

    unrehearsed = {event["moment"]: event for event in done.resumed_plain.events("probe")}
    assert list(unrehearsed) == [
        "base", "load", "optimizer_creation", "resume", *IN_A_STEP, "eval", "save"
    ]  # fmt: skip
    assert not any(event["rehearsal"] for event in unrehearsed.values())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("stage", "dtype", "lora", "world_size", "offload"),
    [
        (1, "fp32", False, 1, False),
        (1, "bf16", True, 2, False),
        (2, "fp32", True, 2, False),
        (2, "fp32", False, 1, True),
        (2, "bf16", True, 2, True),
        (3, "bf16", False, 2, False),
        (3, "fp32", True, 1, False),
        (3, "fp32", False, 2, True),
    ],
)
def test_no_way_to_train_shows_a_trace_of_the_rehearsal(
    bench: Bench, stage: int, dtype: str, lora: bool, world_size: int, offload: bool
) -> None:
    settings = settings_of(bench, world_size, stage, dtype, lora, offload)
    name = f"stage{stage}-{dtype}-{lora}-{world_size}-{offload}"
    assert_no_trace(bench, name, settings)


@pytest.mark.slow
def test_a_row_that_does_not_fit_fails_before_the_first_step(bench: Bench) -> None:
    settings = bench.settings(64, 1, 1)
    settings["model"]["config"] |= {"vocab_size": 8192, "max_position_embeddings": 1024}
    settings["data"] |= {"train": "late.jsonl", "eval_fraction": 0.0, "sequence": 1024}
    settings["data"]["shuffle"] = False
    settings["memory"]["limit_bytes"] = 2_000_000_000
    settings["rehearse"] = True
    (bench.folder / "late").mkdir()
    rows = [json.dumps({"text": "count one two three " * times}) for times in [1] * 127 + [300]]
    (bench.folder / "late" / "late.jsonl").write_text("\n".join(rows))
    late = bench.run("late", settings)
    assert late.returncode != 0
    failure = late.only("exception")
    # The logits of the longest row and 63 beside it, 64 x 1024 x 8192 floats, pass the limit.
    assert (failure["phase"], failure["step"], failure["rehearsal"]) == ("forward", 0, True)
    assert "alloc" in failure["message"]
    assert not late.events("step")
    assert [event["phase"] for event in late.events("phase") if event.get("rehearsal")] == ["train"]
