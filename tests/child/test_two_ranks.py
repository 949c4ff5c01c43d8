"""Two real ranks of a script that is not ours leave at the same step, with a whole checkpoint."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from pathlib import Path

import pytest
import torch

from autotune.world.environment import free_port
from tests.child.probed import Probed
from tests.child.test_probe_stopping import ask, steps, until

pytestmark = [pytest.mark.train, pytest.mark.slow]

SCRIPT = Path(__file__).parent / "two_ranks.py"


def start(probed: Probed) -> subprocess.Popen[str]:
    """Start the script on two ranks, by torchrun."""
    env = {
        **probed.environment(rank=None, more_path=""), "OMP_NUM_THREADS": "1",
        "HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": "", "DS_ACCELERATOR": "cpu",
    }  # fmt: skip
    torchrun = ("-m", "torch.distributed.run", "--nproc_per_node", "2")
    return probed.start(*torchrun, "--master_port", str(free_port()), SCRIPT, "{}", env=env)


def by_control(probed: Probed) -> None:
    ask(probed, "stop")


def by_sigterm(probed: Probed) -> None:
    """As a scheduler sends it: to every rank, one after another."""
    for rank in range(2):
        os.kill(probed.events(rank, ["armed"])[0]["pid"], signal.SIGTERM)


def by_a_notice_to_one(probed: Probed) -> None:
    os.kill(probed.events(1, ["armed"])[0]["pid"], signal.SIGUSR1)


@pytest.mark.parametrize("stop", [by_control, by_sigterm, by_a_notice_to_one])
def test_two_real_ranks_leave_at_one_step_with_a_whole_checkpoint(
    stop: object, tmp_path: Path
) -> None:
    assert callable(stop)
    probed = Probed(tmp_path)
    launcher = start(probed)
    try:
        until(lambda: all(len(steps(probed, rank)) > 3 for rank in range(2)), "steps", seconds=240)
        stop(probed)
        out, err = launcher.communicate(timeout=240)
    finally:
        launcher.kill()
    assert launcher.returncode == 0, err
    assert "the rest of the script" not in out
    gaps = [probed.events(rank, ["probe_gap"]) for rank in range(2)]
    assert gaps == [[], []]
    stopped = [probed.events(rank, ["stopped"])[0]["step"] for rank in range(2)]
    assert stopped[0] == stopped[1] == steps(probed, 0)[-1] == steps(probed, 1)[-1]
    saved = [event["path"] for rank in range(2) for event in probed.events(rank, ["checkpoint"])]
    folder = tmp_path / "out" / f"checkpoint-{stopped[0]}"
    assert saved == [str(folder)] * 2
    state = json.loads((folder / "trainer_state.json").read_text())
    assert state["global_step"] == stopped[0]
    assert (folder / "model.safetensors").stat().st_size > 10_000
    optimizer = torch.load(folder / "optimizer.pt", weights_only=True)
    assert {int(one["step"]) for one in optimizer["state"].values()} == {stopped[0]}
    assert all((folder / f"rng_state_{rank}.pth").exists() for rank in range(2))
