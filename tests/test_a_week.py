"""A week of training on a clock that is told to run leaves the supervisor as small as it was."""

import dataclasses
import gc
import json
import os
import pathlib
import threading
import tracemalloc
from pathlib import Path
from typing import Any

import pytest

from autotune.core.record import AttemptStarted, Decided, StopAsked, Wait, Waited
from autotune.core.rhythm import Work
from autotune.edges import Exit, Interrupts
from autotune.watch import watch
from autotune.world.channel import AttemptChannel
from autotune.world.gpu import Gpus
from autotune.world.host import MemorySampler
from autotune.world.journal import FileJournal
from autotune.world.signature_file import load_signatures
from tests import builders

WEEK = 7 * 86400
POLLS = 1000
STEPS_A_POLL = 8
MOST_GROWTH = 64 * 1024  # bytes that a week may leave, from its first fifth on
# Python's table of interned strings, which paths go through, is laid out anew now and then.
NOT_OURS = tracemalloc.Filter(False, pathlib.__file__)


@dataclasses.dataclass
class Weekly:
    """A training that reports and prints at each look, for a week, and a clock that runs fast."""

    folder: Path
    channel: AttemptChannel
    sampler: MemorySampler
    polls: int = 0
    exit_tells: bool = False
    at: float = 0.0
    sizes: list[tuple[int, int, int]] = dataclasses.field(default_factory=list)
    identity: AttemptStarted = AttemptStarted(1, os.getpid(), 0.0, "boot")  # noqa: RUF009

    @property
    def child(self) -> "Weekly":
        """Its processes."""
        return self

    def poll(self) -> Exit | None:
        """Report some steps, now and then a checkpoint and an evaluation; end after a week."""
        self.polls += 1
        if self.polls in (POLLS // 5, POLLS):
            gc.collect()
            traced = tracemalloc.take_snapshot().filter_traces([NOT_OURS])
            size = sum(one.size for one in traced.statistics("filename"))
            held = sum(1 for _ in Path("/proc/self/fd").iterdir())
            self.sizes.append((size, threading.active_count(), held))
        with (self.folder / "events/rank0.jsonl").open("a") as file:
            for event in self._events():
                file.write(json.dumps({"rank": 0, "t": self.at, **event}) + "\n")
        with (self.folder / "output.log").open("a") as file:
            file.write(f"step {self.polls} of many, loss 1.{self.polls}\nWARNING: retrying\n")
        return Exit(0, None) if self.at >= WEEK else None

    def _events(self) -> list[dict[str, Any]]:
        first = self.polls * STEPS_A_POLL
        if self.polls == 1:
            return [{"kind": "start", "pid": os.getpid()}]
        events: list[dict[str, Any]] = [
            {
                "kind": "step", "step": step, "total": 10**9, "loss": 1 + 1 / step, "lr": 1e-4,
                "seconds": 34.0, "tokens": 512, "batch_rows": 8,
                "batch_fingerprint": f"{step:016x}", "samples": list(range(step, step + 8)),
            }
            for step in range(first, first + STEPS_A_POLL)
        ]  # fmt: skip
        if self.polls % 10 == 0:
            events.append({"kind": "checkpoint", "step": first, "world_size": 1})
            events.append({"kind": "eval", "step": first, "loss": 1.0})
        return events

    def monotonic(self) -> float:
        """Return seconds of the week so far."""
        return self.at

    now = monotonic

    def sleep(self, seconds: float) -> None:
        """Let a good deal more time pass than was asked for."""
        del seconds
        self.at += WEEK / POLLS

    def work(self) -> Work:
        """Say nothing of what it does."""
        return Work()

    def rescued(self) -> None:
        """No rank was refused memory."""

    def _nothing(self, *_: object, **__: object) -> tuple[()]:
        return ()

    end = rank_died = rescue = ignored = settle = _nothing
    tell_end = progress = event = note = ask_save = take_stacks = _nothing

    def read(self) -> Interrupts:
        """Nobody asks for anything."""
        return Interrupts()


@pytest.mark.long
def test_a_week_of_watching_grows_neither_memory_nor_threads_nor_descriptors(
    tmp_path: Path,
) -> None:
    (tmp_path / "events").mkdir()
    channel = AttemptChannel(tmp_path, load_signatures(), 2**20)
    sampler = MemorySampler("cpu", None, lambda: channel.view, Gpus(None, "none"), None)
    live: Any = Weekly(tmp_path, channel, sampler)
    tracemalloc.start()
    try:
        evidence = watch(live, 1, live, live, builders.shipped().limits, None, live)
    finally:
        tracemalloc.stop()

    assert evidence.seconds is not None
    assert evidence.seconds >= WEEK
    assert evidence.step == (live.polls + 1) * STEPS_A_POLL - 1
    (before, threads, descriptors), (after, threads_after, descriptors_after) = live.sizes
    assert after - before < MOST_GROWTH
    assert (threads_after, descriptors_after) == (threads, descriptors)
    for path in (tmp_path / "output.log", tmp_path / "events/rank0.jsonl"):
        assert path.stat().st_blocks * 512 <= 1.25 * 2**20


def test_twelve_hours_of_waiting_are_some_tens_of_kilobytes_of_journal(tmp_path: Path) -> None:
    journal, waited = FileJournal(tmp_path / "journal.jsonl", lambda: 1.8e9), 0.0
    why = "GPU 0 is leased to alice's job pydoc-lora (process 4194303)"
    while waited < builders.job().limits.wait:
        journal.append(Decided(Wait(300.0, why, for_devices=True)))
        journal.append(Waited(300.0))
        waited += 300.0
    journal.append(StopAsked("Ctrl-C"))
    assert (tmp_path / "journal.jsonl").stat().st_size < 64 * 1024
