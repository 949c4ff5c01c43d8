"""An attempt that was started and cannot be watched is ended again."""

from pathlib import Path
from typing import Any

import pytest

from autotune.cli.terminal import JsonTeller
from autotune.cli.wiring import lay_ground
from autotune.core.carry import WantedShape, decide_carry
from autotune.core.outlook import shape_of
from autotune.spawn import Spawner, Start
from autotune.world.clock import SystemClock
from autotune.world.process import RunningAttempt, marked
from tests.e2e.fast_job import make_job

pytestmark = pytest.mark.e2e


def test_ranks_that_nobody_can_watch_are_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DS_ACCELERATOR", "cpu")
    ground = lay_ground(make_job(tmp_path), None, "unwatched")
    ground.folder.create()
    spawner = Spawner(ground, SystemClock(), JsonTeller())
    started: list[RunningAttempt] = []

    def live(*given: Any) -> None:
        started.append(given[3])
        raise RuntimeError("the driver went away")

    monkeypatch.setattr(spawner, "live", live)
    folder = ground.folder.attempt(1)
    carry = decide_carry(None, WantedShape(**shape_of(ground.start)))
    with pytest.raises(RuntimeError, match="went away"):
        spawner.spawn(Start(ground.start, carry, 1, folder))
    assert started
    assert marked(spawner.mark(folder)) == []
