"""Checkpoints come as often as their cost and the risk say, and as often as their owner says."""

from __future__ import annotations

import math
import shutil
import time as clock
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from autotune.child import finetune
from autotune.child.finetune import Cadence, seconds_between_saves

HOUR = 3600.0
RISK = {"unproven": 0.5 * HOUR, "proven": 24 * HOUR}


class Time:
    """A clock that a test turns."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.now = 1000.0
        patch.setattr(clock, "monotonic", lambda: self.now)


def cadence(total: int, **checkpoints: Any) -> Cadence:
    mark = checkpoints.pop("mark", {})
    given = {"checkpoints": {"every": None, "risk": RISK} | checkpoints}
    return Cadence(given, total, mark)


def saves(one: Cadence, time: Time, step_seconds: float, cost: float, steps: int) -> list[int]:
    """The steps after which a training of such steps and saves has saved."""
    one.begin(0, needs_evaluation=False)
    found = []
    for step in range(1, steps + 1):
        time.now += step_seconds
        if one.due(step):
            found.append(step)
            time.now += cost
            one.saved(step, cost)
    return found


def test_the_interval_is_the_one_that_loses_least() -> None:
    cost, mean = 30.0, 24 * HOUR

    def lost(interval: float) -> float:
        return cost / interval + interval / 2 / mean

    best = seconds_between_saves(cost, mean, whole=1000 * HOUR)

    assert best == math.sqrt(2 * cost * mean)
    assert lost(best) < min(lost(best * 0.9), lost(best * 1.1))


@pytest.mark.parametrize(
    ("cost", "mean", "whole", "expected"),
    [
        (1.0, 24 * HOUR, 600.0, 60.0),  # a short run: a tenth of it
        (20.0, 24 * HOUR, 600.0, 200.0),  # where that would save for a third of the time: a tenth
        (20.0, None, 600.0, 200.0),
        (0.0, 24 * HOUR, 600.0, 0.0),  # what costs nothing is done at every step
    ],
)
def test_never_more_than_a_tenth_of_a_run_that_can_afford_it(
    cost: float, mean: float | None, whole: float, expected: float
) -> None:
    assert seconds_between_saves(cost, mean, whole) == pytest.approx(expected)


def test_the_owners_number_stays_as_said(monkeypatch: pytest.MonkeyPatch) -> None:
    time = Time(monkeypatch)

    assert saves(cadence(20, every=7), time, 1.0, 50.0, 20) == [7, 14]


def test_a_save_that_had_to_wait_comes_as_soon_as_it_may() -> None:
    one = cadence(40, every=5)
    one.begin(10, needs_evaluation=False)

    assert [step for step in range(11, 18) if one.due(step)] == [15, 16, 17]
    one.saved(17, 1.0)
    assert [step for step in range(18, 22) if one.due(step)] == [20, 21]


def test_the_first_save_comes_early_and_the_later_ones_by_its_cost(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    time = Time(monkeypatch)

    found = saves(cadence(100_000), time, 10.0, 30.0, 2000)

    assert found[0] == finetune.FIRST_SAVE
    # Proven by then: sqrt(2 x 30 s x 24 h) is 2277 s.
    assert {after - before for before, after in pairwise(found)} <= {227, 228}


def test_an_unproven_plan_saves_more_often_until_it_has_evaluated(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    time, one = Time(monkeypatch), cadence(100_000)
    one.begin(0, needs_evaluation=True)
    time.now += 100
    one.saved(1, 30.0)

    assert one.mean(5) == RISK["unproven"]
    one.evaluated = True
    assert one.mean(2) == RISK["unproven"]
    assert one.mean(3) == RISK["proven"]


def test_without_a_supervisor_a_tenth_of_the_run_lies_between(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    time = Time(monkeypatch)

    assert saves(cadence(50, risk=None), time, 10.0, 0.1, 50)[:3] == [3, 8, 13]


def test_what_the_last_attempt_measured_is_known_from_the_start() -> None:
    one = cadence(100, mark={"seconds": 12.5, "bytes": 10**9})

    assert (one.cost, one.bytes) == (12.5, 10**9)


@pytest.mark.parametrize(("rank", "refused"), [(0, True), (1, False)])
def test_a_save_that_would_fill_the_disk_is_refused_before_its_first_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rank: int, refused: bool
) -> None:
    torch = pytest.importorskip("torch")
    monkeypatch.setattr(torch.distributed, "all_reduce", lambda _: None)  # each rank for itself
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=2**30))
    args = SimpleNamespace(process_index=rank, device="cpu")

    finetune.refuse_without_room(tmp_path, 2**30, args)
    finetune.refuse_without_room(tmp_path, None, args)
    finetune.refuse_without_room(tmp_path / "not yet", 2**31, args)
    if refused:
        with pytest.raises(OSError, match=r"takes 2\.00 GiB and 1\.00 GiB are free") as error:
            finetune.refuse_without_room(tmp_path, 2**31, args)
        assert "[Errno 28]" in str(error.value)  # by which it is called a full disk
    else:
        finetune.refuse_without_room(tmp_path, 2**31, args)
