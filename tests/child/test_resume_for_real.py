"""A real training is resumed as it was, with other weights, without moments and on other rows."""

from __future__ import annotations

import copy
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from autotune.child.finetune import COMPLETE_MARK
from tests.child.test_finetune import Bench, Outcome

pytestmark = [pytest.mark.train, pytest.mark.slow]

MANY = Path(__file__).with_name("many_trainings.py")
RESUMED = 4  # of six steps


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    return Bench(tmp_path_factory.mktemp("resumed"))


@pytest.fixture(scope="module")
def first(bench: Bench) -> Outcome:
    """A training that was not disturbed."""
    outcome = bench.run("first", bench.settings(2, 4, 1))
    assert outcome.returncode == 0, outcome.output[-3000:]
    return outcome


def change_optimizer(checkpoint: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Change what the optimizer's only shard holds."""
    torch = pytest.importorskip("torch")
    (shard,) = checkpoint.glob("global_step*/*_optim_states.pt")
    held = torch.load(shard, weights_only=False)
    change(held["optimizer_state_dict"])
    torch.save(held, shard)


def other_weights(state: dict[str, Any]) -> None:
    for group in state["single_partition_of_fp32_groups"]:
        group.data *= 1.05


def no_moments(state: dict[str, Any]) -> None:
    for one in state["base_optimizer_state"]["state"].values():
        one["exp_avg"].zero_()
        one["exp_avg_sq"].zero_()


@pytest.fixture(scope="module")
def resumed(bench: Bench, first: Outcome) -> dict[str, Outcome]:
    """The last two steps again from the checkpoint before them, and a training of its own."""
    before = bench.folder / "first" / "checkpoints" / f"checkpoint-{RESUMED}"
    steps = first.events("step")[RESUMED:]
    replay = [[one["step"], one["loss"], one["batch_fingerprint"]] for one in steps]
    paths = []
    for name in ("as it was", "other weights", "no moments", "other samples"):
        settings = copy.deepcopy(bench.settings(8, 1, 1, stage=1))
        settings["checkpoints"] |= {"every": 1, "keep": 10, "resume": f"held/{before.name}"}
        settings["continuity"] = {"tolerance": 1e-4, "replay": replay, "band": None}
        folder = bench.folder / name
        checkpoint = folder / "held" / before.name
        shutil.copytree(before, checkpoint)
        if name == "other weights":
            change_optimizer(checkpoint, other_weights)
        if name == "no moments":
            change_optimizer(checkpoint, no_moments)
        if name == "other samples":
            settings["data"]["seed"] = 2
        paths.append(folder / "train.json")
        paths[-1].write_text(json.dumps(settings))
    settings = bench.settings(2, 4, 1)
    settings["checkpoints"] |= {"every": None, "risk": {"unproven": 0.0, "proven": 0.0}}
    (bench.folder / "often").mkdir()
    paths.append(bench.folder / "often" / "train.json")
    paths[-1].write_text(json.dumps(settings))
    environment = {**os.environ, "DS_ACCELERATOR": "cpu", "CUDA_VISIBLE_DEVICES": ""}
    environment |= {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[2])}
    subprocess.run([sys.executable, str(MANY), *map(str, paths)], env=environment, check=False)
    return {
        path.parent.name: Outcome(
            0, (path.parent / "output.log").read_text(), path.parent / "events"
        )
        for path in paths
    }


def saved(bench: Bench, name: str) -> list[str]:
    """The checkpoints that a training has written."""
    return sorted(path.name for path in (bench.folder / name / "checkpoints").glob("*"))


def test_where_every_step_may_be_the_last_each_is_saved_with_its_cost_and_its_loss(
    resumed: dict[str, Outcome],
) -> None:
    told = resumed["often"].events("checkpoint")
    assert [event["step"] for event in told] == [1, 2, 3, 4, 5, 6]
    for event in told[-3:]:  # the three that are kept
        mark = json.loads((Path(event["path"]) / COMPLETE_MARK).read_text())
        assert mark["reference"] == event["reference"]
        assert mark["seconds"] == event["seconds"] > 0
    losses = [event["reference"]["loss"] for event in told]
    assert losses == sorted(losses, reverse=True)


def test_another_factorisation_goes_on_as_the_training_ended(
    first: Outcome, resumed: dict[str, Outcome]
) -> None:
    again = resumed["as it was"]
    told = again.only("continuity")
    assert told["check"] == "reference"
    assert told["loss"] == pytest.approx(told["saved_loss"], rel=1e-6)
    assert told["lr"] == told["lr_expected"] == first.events("step")[RESUMED - 1]["lr"]
    assert again.only("finished")["step"] == 6
    prints = [one["batch_fingerprint"] for one in first.events("step")[RESUMED:]]
    assert [one["batch_fingerprint"] for one in again.events("step")] == prints
    assert {one["batch_rows"] for one in first.events("step") + again.events("step")} == {8}


def test_other_weights_are_refused_before_the_first_step(
    bench: Bench, resumed: dict[str, Outcome]
) -> None:
    failure = resumed["other weights"].only("exception")
    assert failure["type"].endswith("Discontinuity")
    assert failure["phase"] == "resume"
    assert "the checkpoint of step 4 does not go on as it ended" in failure["message"]
    assert not resumed["other weights"].events("step")
    assert saved(bench, "other weights") == []


def test_lost_moments_are_refused_at_the_first_loss_that_shows_them(
    bench: Bench, resumed: dict[str, Outcome]
) -> None:
    outcome = resumed["no moments"]
    told = outcome.only("continuity")
    assert told["loss"] == pytest.approx(told["saved_loss"], rel=1e-6)
    assert "step 6 does not go on as it ended" in outcome.only("exception")["message"]
    assert saved(bench, "no moments") == []


def test_other_samples_are_refused_at_once(bench: Bench, resumed: dict[str, Outcome]) -> None:
    message = resumed["other samples"].only("exception")["message"]
    assert message == "step 5 does not go on as it ended: it is trained again on other samples"
    assert saved(bench, "other samples") == []
