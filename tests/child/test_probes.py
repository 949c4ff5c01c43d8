"""Each moment of a training is measured once, and after the second step nothing is."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from autotune.child import finetune

MIB = 2**20


class Held:
    """Memory as the kernel would tell it, in MiB."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 100
        self.readings = 0
        monkeypatch.setattr(finetune, "process_bytes", self.read)

    def read(self) -> tuple[int, int]:
        self.readings += 1
        return self.now * MIB, 0


@pytest.fixture
def held(monkeypatch: pytest.MonkeyPatch) -> Held:
    return Held(monkeypatch)


@pytest.fixture
def reporter(tmp_path: Path, held: Held) -> finetune.Reporter:
    return finetune.Reporter(tmp_path, rank=0, attempt=1)


def told(reporter: finetune.Reporter, folder: Path) -> list[dict[str, Any]]:
    lines = (folder / "rank0.jsonl").read_text().splitlines()
    return [event for event in map(json.loads, lines) if event["kind"] == "probe"]


def step(probes: finetune.Probes, *sequences: int, applied: bool = True) -> None:
    for sequence in sequences:
        probes.forward_over((2, sequence))
    probes.backward_over()
    probes.step_over(applied)


def test_a_moment_tells_its_peak_and_what_it_left(
    reporter: finetune.Reporter, tmp_path: Path, held: Held
) -> None:
    reporter.probes.over("load")
    held.now = 300
    reporter.probes.sample()  # by the watching thread
    held.now = 150
    reporter.probes.over("optimizer_creation")
    held.now = 170
    reporter.probes.forward_over((4, 64))
    load, creation, forward = told(reporter, tmp_path)
    assert (creation["peak_bytes"], creation["held_bytes"]) == (300 * MIB, 150 * MIB)
    assert (forward["peak_bytes"], forward["held_bytes"]) == (170 * MIB, 170 * MIB)
    assert (forward["rows"], forward["sequence"], forward["reserved_bytes"]) == (4, 64, None)
    assert (load["rehearsal"], load["rows"]) == (False, None)


def test_what_is_read_before_a_border_does_not_count_beyond_it(
    reporter: finetune.Reporter, tmp_path: Path, held: Held, monkeypatch: pytest.MonkeyPatch
) -> None:
    def slow_reading() -> tuple[int, int]:
        monkeypatch.setattr(finetune, "process_bytes", held.read)
        reporter.probes.over("load")  # while this reading is under way
        return 900 * MIB, 0

    monkeypatch.setattr(finetune, "process_bytes", slow_reading)
    reporter.probes.sample()
    reporter.probes.over("optimizer_creation")
    assert [event["peak_bytes"] for event in told(reporter, tmp_path)] == [100 * MIB] * 2


def test_the_backward_passes_of_an_accumulation_are_one_moment(
    reporter: finetune.Reporter, tmp_path: Path, held: Held
) -> None:
    reporter.probes.forward_over((2, 8))
    held.now = 700
    reporter.probes.sample()  # in the first backward pass
    held.now = 100
    step(reporter.probes, 32, 16)
    assert told(reporter, tmp_path)[1]["peak_bytes"] == 700 * MIB
    step(reporter.probes, 8, 8)
    assert [(event["moment"], event["sequence"]) for event in told(reporter, tmp_path)] == [
        ("first_forward", 8), ("first_backward", 32), ("first_step", None),
        ("second_forward", 8), ("second_backward", 8), ("second_step", None),
    ]  # fmt: skip


def test_a_skipped_step_is_not_the_first(reporter: finetune.Reporter, tmp_path: Path) -> None:
    step(reporter.probes, 8, applied=False)
    reporter.probes.highest_data = 900 * MIB  # in the forward pass of the next
    step(reporter.probes, 8)
    events = told(reporter, tmp_path)
    moments = [event["moment"] for event in events]
    assert moments == ["first_forward", "first_backward", "first_step"]
    assert events[-1]["peak_bytes"] == 100 * MIB


def test_nothing_is_measured_once_two_steps_are_done(
    reporter: finetune.Reporter, tmp_path: Path, held: Held
) -> None:
    for _ in range(2):
        step(reporter.probes, 8)
    assert reporter.probes.busy is False
    before = held.readings
    for _ in range(100):
        step(reporter.probes, 8)
    assert held.readings == before
    assert len(told(reporter, tmp_path)) == 6


def test_the_first_evaluation_is_measured_from_its_own_beginning(
    reporter: finetune.Reporter, tmp_path: Path
) -> None:
    for _ in range(2):
        step(reporter.probes, 8)
    reporter.probes.highest_data = 900 * MIB  # of steps long past
    for _ in range(2):
        reporter.probes.begin("eval")
        reporter.probes.over("eval")
    assert reporter.probes.busy is False
    evaluations = [one for one in told(reporter, tmp_path) if one["moment"] == "eval"]
    assert [one["peak_bytes"] for one in evaluations] == [100 * MIB]


class Card:
    """What torch.cuda tells of one card's allocator, in bytes."""

    def __init__(self) -> None:
        self.allocated, self.peak, self.peak_reserved = 5, 40, 60

    def is_initialized(self) -> bool:
        return True

    def synchronize(self) -> None:
        pass

    def memory_allocated(self) -> int:
        return self.allocated

    memory_reserved = memory_allocated

    def max_memory_allocated(self) -> int:
        return self.peak

    def max_memory_reserved(self) -> int:
        return self.peak_reserved

    def reset_peak_memory_stats(self) -> None:
        self.peak = self.peak_reserved = self.allocated


def test_on_a_gpu_moments_are_told_apart_and_the_highest_ever_is_kept(
    reporter: finetune.Reporter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    card = Card()
    monkeypatch.setitem(sys.modules, "torch", SimpleNamespace(cuda=card))
    reporter.probes.over("load")
    card.peak, card.peak_reserved, card.allocated = 30, 35, 20
    reporter.probes.over("optimizer_creation")
    card.peak = 22
    figures = [
        (event["peak_bytes"], event["held_bytes"], event["reserved_bytes"])
        for event in told(reporter, tmp_path)
    ]
    assert figures == [(40, 5, 60), (30, 20, 35)]
    memory = reporter.memory()
    assert (memory["peak_allocated_bytes"], memory["peak_reserved_bytes"]) == (40, 60)
