"""Jobs at their real size, planned on described cards and for a stand-in of their Python."""

import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from autotune import foreseeing
from autotune.cli import wiring
from autotune.cli.plan import plan
from autotune.world.gpu import Gpu, Gpus

ROOT = Path(__file__).parents[2]
CONFIGS = ROOT / "configs"
GIB = 2**30


class Cards(Gpus):
    """Cards of these sizes in GiB, on which nothing runs."""

    def __init__(self, *gib: int) -> None:
        super().__init__(None)
        self._cards = [Gpu(i, "card", size * GIB, size * GIB) for i, size in enumerate(gib)]

    def present(self) -> list[Gpu]:
        return self._cards


def describe(here: pytest.MonkeyPatch, *gib: int, host: int) -> None:
    """Describe a machine: cards of these GiB, `host` GiB for each rank, and a disk without end."""
    here.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    here.setattr(wiring, "find_gpus", lambda: Cards(*gib))
    here.setattr(foreseeing, "room_of_a_rank", lambda *_: host * GIB)
    roomy = SimpleNamespace(disk_usage=lambda _: SimpleNamespace(free=2**50))
    here.setattr(wiring, "shutil", roomy)


def python_in(folder: Path) -> str:
    """Make what stands in for the training's Python, with a torch for GPUs; return its path."""
    python = folder / "python"
    stand_in = ROOT / "tests" / "zoo" / "fast_python.py"
    python.write_text(f'#!/bin/sh\nFAST_TORCH=2.13.0 exec "{sys.executable}" "{stand_in}" "$@"\n')
    python.chmod(0o755)
    return "./python"


def told_of(job: Path, capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    """Return what `autotune plan --json` says of a job, and as `talk` what it says to people."""
    assert plan(job, as_json=True) == 0
    said = capsys.readouterr()
    return {**json.loads(said.out), "talk": said.err}


def rungs(of: dict[str, Any]) -> list[str]:
    """Return the rungs of one plan of what was told."""
    return [change["rung"] for change in of["changes"]]
