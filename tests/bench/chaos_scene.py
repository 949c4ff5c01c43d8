"""Where a job of tests/bench/chaos.py runs, who starts it, and what can be reached of it."""

import contextlib
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from autotune.core.failure import Failure
from autotune.core.record import RunStarted
from autotune.world.journal import read_journal
from autotune.world.process import marked
from tests.e2e import fast_job
from tests.e2e.test_deeds import ON_FAKE_GPUS

STEPS = 24
STORY = {"total": STEPS, "seconds": 0.02, "fits": {"0": 4, "9": 2}}
DISK_MIB = 8
GPUS = "0,1,2"
SITE = Path(__file__).with_name("chaos_site")


@dataclass
class Scene:
    """A running job, and the chance that decides what is done to it."""

    job: Path
    chance: random.Random
    supervisor: "subprocess.Popen[str]"
    # After these a changed plan is right; after all else it is a wrong rung.
    changing: set[Failure] = field(default_factory=lambda: {Failure.DEVICE_OOM})
    bad_answers: int = 0
    asked: "list[subprocess.Popen[bytes]]" = field(default_factory=list)  # readers not yet answered

    @property
    def run(self) -> Path:
        return fast_job.run_folder(self.job)

    @property
    def place(self) -> Path:
        """Where what plays the machine reads what is wrong with it."""
        return place_of(self.job)

    def training(self) -> list[int]:
        """The processes of the newest attempt: the launcher first, then its ranks."""
        with contextlib.suppress(OSError):
            events = read_journal(self.run / "journal.jsonl")
            begun = [event for event in events if isinstance(event, RunStarted)]
            folders = sorted((self.run / "attempts").iterdir())
            if begun and folders:
                return sorted(p.pid for p in marked(f"{begun[0].run_id}/{folders[-1].name}"))
        return []

    def kill(self, *pids: int, by: int = signal.SIGKILL) -> None:
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, by)

    def end_all(self) -> None:
        self.supervisor.kill()
        self.supervisor.wait()
        self.kill(*self.training())

    def wait_for_training(self) -> list[int]:
        wait(lambda: self.supervisor.poll() is not None or self.training(), 10)
        return self.training()

    def hear_out(self) -> None:
        """Wait for all who asked, and count those who were not answered as they should be."""
        self.bad_answers += sum(1 for one in self.asked if one.wait(timeout=900) != 0)
        said = self.place / "answers"
        self.bad_answers += bool(self.asked) and b"Traceback" in said.read_bytes()
        self.asked = []

    def live_with_it(self, least: float, most: float) -> None:
        """Wait for a while, or until the supervisor has ended."""
        wait(lambda: self.supervisor.poll() is not None, self.chance.uniform(least, most))


def place_of(job: Path) -> Path:
    return job.parent.with_name(job.parent.name + ".machine")


def wait(condition: Callable[[], object], seconds: float) -> None:
    """Return once the condition holds or the time is over."""
    until = time.monotonic() + seconds
    while not condition() and time.monotonic() < until:
        time.sleep(0.005)


def plainly(job: Path) -> "subprocess.Popen[str]":
    return fast_job.start(job)


def troubled(job: Path) -> "subprocess.Popen[str]":
    """Start it where the clock and the files are ours to spoil."""
    path = os.pathsep.join([str(SITE), str(Path(__file__).parents[2])])
    trouble = {"CHAOS_TROUBLE": str(place_of(job) / "trouble"), "CHAOS_SEED": str(job)}
    with (job.parent / "terminal").open("a") as terminal:
        return subprocess.Popen(
            [sys.executable, "-m", "autotune.cli.app", "run", str(job)],
            stdout=terminal, stderr=terminal, text=True,
            env={
                **os.environ, **trouble, "DS_ACCELERATOR": "cpu", "PYTHONPATH": path,
                "XDG_STATE_HOME": str(job.parent / "state"),
            },
        )  # fmt: skip


def on_gpus(job: Path) -> "subprocess.Popen[str]":
    """Start it on fake GPUs."""
    hidden = ("DS_ACCELERATOR", "CUDA_VISIBLE_DEVICES")
    with (job.parent / "terminal").open("a") as terminal:
        return subprocess.Popen(
            [sys.executable, str(ON_FAKE_GPUS), "run", str(job)],
            stdout=terminal, stderr=terminal, text=True,
            env={
                **{k: v for k, v in os.environ.items() if k not in hidden},
                "FAKE_GPUS": GPUS, "FAKE_PLACE": str(place_of(job)), "FAST_TORCH": "2.13.0",
                "FAKE_PATIENCE": "1", "PYTHONPATH": str(Path(__file__).parents[2]),
                "XDG_STATE_HOME": str(job.parent / "state"),
            },
        )  # fmt: skip


@dataclass(frozen=True)
class Kind:
    """A fault, and what the job it strikes is made of."""

    strike: Callable[[Scene], None]
    start: "Callable[[Path], subprocess.Popen[str]]" = plainly
    story: Callable[[random.Random, Path], Mapping[str, Any]] = lambda _, __: STORY
    changes: Mapping[str, Any] = field(default_factory=dict)
    disk: str = ""  # the file system of its own that the job lies on


@contextlib.contextmanager
def ground_of(folder: Path, kind: Kind) -> Iterator[Path]:
    """Give the job a folder, on a small disk of its own where that is to be spoiled."""
    folder.mkdir(parents=True)
    beside = folder.with_name(folder.name + ".machine")
    beside.mkdir()
    beside.chmod(0o1777)
    if kind.disk == "tmpfs":
        command = ["mount", "-t", "tmpfs", "-o", f"size={DISK_MIB}m", "chaos", str(folder)]
    elif kind.disk == "ext4":
        image = beside / "image"
        with image.open("wb") as file:
            file.truncate(4 * DISK_MIB * 2**20)
        subprocess.run(["mkfs.ext4", "-q", "-O", "^has_journal", str(image)], check=True)
        command = ["mount", "-o", "loop,errors=remount-ro", str(image), str(folder)]
    else:
        yield folder
        return
    subprocess.run(command, check=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=False)
