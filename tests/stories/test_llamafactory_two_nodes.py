"""A 32B model under LLaMA-Factory on sixteen cards of two nodes, by prediction.

From the user's own YAML in configs/llamafactory_32b to the plan, on cards that are described: those
of the first node are the machine's, and the other node says how small its smallest is.
"""

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path
from types import SimpleNamespace

import pytest
from ruamel.yaml import YAML

from autotune import foreseeing
from autotune.cli import wiring
from autotune.core.decide import first_leap
from autotune.core.leap import Leap
from autotune.core.outlook import Outlook
from autotune.foreseeing import Foreseer
from autotune.frameworks.framework import Meeting, Setting
from autotune.ground import Ground
from tests.stories.at_size import CONFIGS, GIB, Cards

JOB = CONFIGS / "llamafactory_32b" / "job.yaml"
HOST = 1024 * GIB  # of each node
VERSIONS = {
    "llamafactory": "0.9.5", "torch": "2.9.1", "transformers": "5.6.0", "peft": "0.18.1",
    "accelerate": "1.11.0", "trl": "0.24.0", "datasets": "4.0.0", "deepspeed": "0.19.8",
    "bitsandbytes": "0.50.2", "liger-kernel": "0.8.2",
}  # fmt: skip


class Silent:
    """Hears what is told of a run, and says nothing."""

    def event(self, event: object) -> None: ...

    def progress(self, attempt: int, view: object, bytes_now: int | None) -> None: ...

    def note(self, text: str) -> None: ...


Choose = Callable[..., tuple[Ground, Leap]]


@pytest.fixture(scope="module")
def choose(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Choose]:
    """Return what gives the ground and the choice on cards of these sizes."""
    folder = tmp_path_factory.mktemp("nodes")
    roomy = SimpleNamespace(disk_usage=lambda _: SimpleNamespace(free=2**50))
    with pytest.MonkeyPatch.context() as here:
        here.setenv("XDG_STATE_HOME", str(folder / "state"))
        here.delenv("CUDA_VISIBLE_DEVICES", raising=False)
        here.setattr(wiring, "versions", lambda *_: VERSIONS)
        here.setattr(wiring, "shutil", roomy)
        here.setattr(foreseeing, "room_of_a_rank", lambda _, ranks: HOST // ranks)

        @cache
        def chosen(*gib: int) -> tuple[Ground, Leap]:
            here.setattr(wiring, "find_gpus", lambda: Cards(*gib[:8]))
            ground = wiring.lay_ground(JOB, folder / "run", "0" * 16)
            members = SimpleNamespace(smallest_bytes=lambda: min(gib[8:]) * GIB)
            ground = replace(ground, members=members)  # type: ignore[arg-type]
            foresight = Foreseer(ground, folder, Silent(), lambda: False).foresight()
            assert foresight is not None
            outlook = Outlook(
                ground.job, ground.policy, ground.rungs, ground.around, ground.start,
                foresight=foresight,
            )  # fmt: skip
            return ground, first_leap(outlook)

        yield chosen


LARGE, SMALLER, SMALLEST = (80,) * 8, (48,) * 8, (40,) * 8


def picked(leap: Leap) -> tuple[tuple[str, ...], float, int]:
    """Return the rungs, the probability to fit and the predicted peak of the choice."""
    assert leap.pick.index is not None
    one = leap.prospects[leap.pick.index]
    return one.rungs, one.p_fit, one.forecast.peak


def test_as_the_user_wrote_it_it_fits_no_card(choose: Choose) -> None:
    _, leap = choose(*LARGE, *LARGE)
    assert leap.prospects[0].rungs == ()
    assert leap.prospects[0].p_fit < 0.01


def test_on_sixteen_like_cards_stage_3_and_the_fused_loss_are_enough(choose: Choose) -> None:
    ground, leap = choose(*LARGE, *LARGE)
    rungs, fits, peak = picked(leap)
    assert leap.capacity == 80 * GIB
    assert set(rungs) == {"zero_up", "chunked_loss"}
    assert fits >= 0.9
    assert ground.start.world_size == 16
    assert 48 * GIB < peak < 80 * GIB


@pytest.mark.parametrize("cards", [(*LARGE, *SMALLER), (*SMALLER, *LARGE)])
def test_a_node_of_smaller_cards_cuts_the_plan_of_all_ranks(
    choose: Choose, cards: tuple[int, ...]
) -> None:
    _, even = choose(*LARGE, *LARGE)
    _, uneven = choose(*cards)
    rungs, fits, peak = picked(uneven)
    assert uneven.capacity == 48 * GIB
    assert set(picked(even)[0]) < set(rungs)
    assert fits >= 0.9
    assert peak < 48 * GIB


def test_one_small_card_of_sixteen_is_enough_to_cut_it(choose: Choose) -> None:
    _, leap = choose(*LARGE, *(80,) * 7, 40)
    rungs, fits, peak = picked(leap)
    assert leap.capacity == 40 * GIB
    assert "offload_optimizer" in rungs
    assert fits >= 0.9
    assert peak < 40 * GIB


def test_the_plan_for_the_smallest_becomes_one_yaml_for_all(choose: Choose, tmp_path: Path) -> None:
    ground, leap = choose(*LARGE, *SMALLEST)
    assert leap.pick.index is not None
    plan = leap.prospects[leap.pick.index].plan
    setting = Setting(
        job=ground.job,
        looked=ground.looked,
        job_folder=str(ground.job_folder),
        plan=plan,
        device="cuda",
        attempt=1,
        folder=str(tmp_path),
        checkpoints=str(tmp_path / "checkpoints"),
        control=None,
    )
    there = replace(setting, python="/env/bin/python", meeting=Meeting(2, 1, "first"))
    program = ground.framework.program(there)
    ours = YAML(typ="safe", pure=True).load(program.files["train.yaml"])
    config = json.loads(program.files["ds_config.json"])
    said = {name: program.env[name] for name in ("NNODES", "NODE_RANK", "NPROC_PER_NODE")}
    assert said == {"NNODES": "2", "NODE_RANK": "1", "NPROC_PER_NODE": "8"}
    assert program.env["MASTER_ADDR"] == "first"
    assert ours["enable_liger_kernel"] is True
    assert config["zero_optimization"]["stage"] == 3
    assert config["zero_optimization"]["offload_optimizer"]["device"] == "cpu"
    batch = ours["per_device_train_batch_size"] * ours["gradient_accumulation_steps"]
    assert batch == 4 * 2, "what the user asked for in all"
