"""Injects seeded faults into runs of the fast trainer, and counts what each run lost by it.

    python -m tests.bench.chaos OUT [--faults N] [--seed S] [--kinds A,B]
    python -m tests.bench.chaos OUT --table

Each fault is one job of two ranks and 24 steps that is refused memory twice; at a moment drawn
from the seed something is killed, torn, filled or stopped, and the same command is started again
until it ends. Rows go to OUT/chaos.jsonl. Faults that fill a disk mount a small file system, and
are passed over where that is not allowed. The same counts for real DeepSpeed trainings come from
tests/bench/refusals.py.
"""

import argparse
import contextlib
import itertools
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path

from autotune.core.failure import Failure
from autotune.core.history import fold
from autotune.core.record import AttemptStarted, RunStarted
from autotune.world.journal import read_journal
from autotune.world.process import marked
from tests.e2e import fast_job

STEPS, SAVE_EVERY = 24, 3
STORY = {"total": STEPS, "seconds": 0.02, "fits": {"0": 4, "9": 2}}
STARTS = 6  # of one command, after which the run counts as lost
DISK_MIB = 8
PATIENCE_SECONDS = 300.0


@dataclass
class Row:
    """What one fault did."""

    kind: str
    seed: int
    ends: list[int] = field(default_factory=list)  # exit codes, start by start
    lost_run: bool = False
    missing: int = 0  # optimizer steps that are not in the final weights exactly once
    orphans: int = 0
    double_launches: int = 0
    wrong_rungs: int = 0
    said: str = ""


@dataclass
class Scene:
    """A running job, and the chance that decides what is done to it."""

    job: Path
    chance: random.Random
    supervisor: "subprocess.Popen[str]"

    @property
    def run(self) -> Path:
        return fast_job.run_folder(self.job)

    def training(self) -> list[int]:
        """The processes of the newest attempt: the launcher first, then its ranks."""
        with contextlib.suppress(OSError):
            events = read_journal(self.run / "journal.jsonl")
            begun = [event for event in events if isinstance(event, RunStarted)]
            folders = sorted((self.run / "attempts").iterdir())
            if begun and folders:
                return sorted(p.pid for p in marked(f"{begun[0].run_id}/{folders[-1].name}"))
        return []

    def kill(self, *pids: int) -> None:
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def end_all(self) -> None:
        self.supervisor.kill()
        self.supervisor.wait()
        self.kill(*self.training())

    def wait_for_training(self) -> list[int]:
        wait(lambda: self.supervisor.poll() is not None or self.training(), 10)
        return self.training()


def wait(condition: Callable[[], object], seconds: float) -> None:
    """Return once the condition holds or the time is over."""
    until = time.monotonic() + seconds
    while not condition() and time.monotonic() < until:
        time.sleep(0.005)


# --- the faults ---------------------------------------------------------------------------------


def kill_supervisor(scene: Scene) -> None:
    scene.supervisor.kill()


def kill_launcher(scene: Scene) -> None:
    scene.kill(*scene.wait_for_training()[:1])


def kill_rank(scene: Scene) -> None:
    scene.kill(*scene.wait_for_training()[-1:])


def terminate_rank(scene: Scene) -> None:
    for pid in scene.wait_for_training()[-1:]:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGTERM)


def kill_everything(scene: Scene) -> None:
    scene.end_all()


def tear_a_file(scene: Scene) -> None:
    """All is dead, as after a reset, and the last record of one file was not written whole."""
    scene.end_all()
    files = [path for path in scene.run.rglob("*") if path.is_file() and path.stat().st_size]
    if files:
        path = scene.chance.choice(sorted(files))
        content = path.read_bytes()
        last = content.rstrip(b"\n").rfind(b"\n") + 1
        os.truncate(path, scene.chance.randrange(last, len(content)))


def tear_the_journal(scene: Scene) -> None:
    scene.end_all()
    path = scene.run / "journal.jsonl"
    content = path.read_bytes() if path.exists() else b""
    if content:
        last = content.rstrip(b"\n").rfind(b"\n") + 1
        os.truncate(path, scene.chance.randrange(last, len(content)))


def junk_in_events(scene: Scene) -> None:
    scene.wait_for_training()
    for path in scene.run.glob("attempts/*/events/rank*.jsonl"):
        with path.open("ab") as file:
            file.write(scene.chance.randbytes(scene.chance.randrange(1, 5000)))


def junk_in_control(scene: Scene) -> None:
    with contextlib.suppress(OSError):
        (scene.run / "control.json").write_bytes(scene.chance.randbytes(200))


def stop_supervisor(scene: Scene) -> None:
    scene.supervisor.send_signal(signal.SIGSTOP)
    wait(lambda: False, scene.chance.uniform(0.1, 2.0))
    scene.supervisor.send_signal(signal.SIGCONT)


def fill_the_disk(scene: Scene) -> None:
    """Nothing more fits until the supervisor has ended, or has lived with it for a while."""
    ballast = scene.job.parent / "ballast"
    with contextlib.suppress(OSError), ballast.open("wb", buffering=0) as file:
        while True:
            file.write(bytes(4096))
    wait(lambda: scene.supervisor.poll() is not None, scene.chance.uniform(1, 6))
    ballast.unlink()


FAULTS: dict[str, Callable[[Scene], None]] = {
    one.__name__: one
    for one in (
        kill_supervisor, kill_launcher, kill_rank, terminate_rank, kill_everything, tear_a_file,
        tear_the_journal, junk_in_events, junk_in_control, stop_supervisor,
        fill_the_disk,
    )
}  # fmt: skip


@contextlib.contextmanager
def place_of(folder: Path, kind: str) -> Iterator[Path]:
    """Give the job a folder; one whose disk is to be filled has a small disk of its own."""
    folder.mkdir(parents=True)
    if kind != "fill_the_disk":
        yield folder
        return
    size = f"size={DISK_MIB}m"
    subprocess.run(["mount", "-t", "tmpfs", "-o", size, "chaos", str(folder)], check=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=False)


def suffer(kind: str, seed: int, folder: Path) -> Row:
    """Run one job through one fault, and return what it cost."""
    chance, row = random.Random(f"{kind} {seed}"), Row(kind, seed)
    job = fast_job.make_job(folder, STORY)
    supervisor = fast_job.start(job)
    goal = chance.randrange(1, 22)
    scene = Scene(job, chance, supervisor)
    wait(lambda: fast_job.journal_lines(job) >= goal or supervisor.poll() is not None, 120)
    wait(lambda: supervisor.poll() is not None, chance.uniform(0, 0.4))
    FAULTS[kind](scene)
    try:
        row.ends.append(supervisor.wait(timeout=PATIENCE_SECONDS))
        while row.ends[-1] != 0 and len(row.ends) < STARTS:
            row.ends.append(fast_job.start(job).wait(timeout=PATIENCE_SECONDS))
    except subprocess.TimeoutExpired:
        row.said = "it did not end"
    return judge(job, row)


def judge(job: Path, row: Row) -> Row:
    """Fill in what the run's own files say of it."""
    row.lost_run = not row.ends or row.ends[-1] != 0
    if row.lost_run:
        row.said = row.said or fast_job.terminal(job)[-600:]
    try:
        events = list(read_journal(fast_job.run_folder(job) / "journal.jsonl"))
    except Exception as error:
        row.lost_run, row.said = True, f"the journal: {error}"
        return row
    if not any(isinstance(event, RunStarted) for event in events):
        row.lost_run, row.said = True, "the journal tells of no run"
        return row
    trained = fast_job.trained_steps(job)
    row.missing = len(set(range(1, STEPS + 1)) - set(trained)) + len(trained) - len(set(trained))
    begun = [event.attempt for event in events if isinstance(event, AttemptStarted)]
    row.double_launches = len(begun) - len(set(begun))
    row.orphans = len(fast_job.left_behind(job))
    attempts = fold(iter(events)).attempts
    for before, after in itertools.pairwise(attempts):
        row.wrong_rungs += before.plan != after.plan and before.failure is not Failure.DEVICE_OOM
    return row


def table(rows: list[dict[str, object]]) -> Iterator[str]:
    """Sum the rows kind by kind, as Markdown."""
    yield "| fault | runs | lost | steps missing or doubled | orphans | double launches | wrong rungs |"  # noqa: E501
    yield "|---|---|---|---|---|---|---|"
    for kind in [*FAULTS, ""]:
        of = [row for row in rows if kind in ("", row["kind"])]
        keys = ("lost_run", "missing", "orphans", "double_launches", "wrong_rungs")
        sums = (sum(int(row[key]) for row in of) for key in keys)  # type: ignore[call-overload]
        yield f"| {kind or 'all'} | {len(of)} | " + " | ".join(map(str, sums)) + " |"


def main() -> None:
    """Draw faults until as many are in the file as were asked for."""
    parser = argparse.ArgumentParser()
    parser.add_argument("out", type=Path)
    parser.add_argument("--faults", type=int, default=100)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--kinds", default=",".join(FAULTS))
    parser.add_argument("--table", action="store_true")
    asked = parser.parse_args()
    path = asked.out / "chaos.jsonl"
    if asked.table:
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        print("\n".join(table(rows)))
        return
    asked.out.mkdir(parents=True, exist_ok=True)
    kinds = asked.kinds.split(",")
    for number in range(asked.faults):
        kind, seed = kinds[number % len(kinds)], asked.seed * 100_000 + number
        folder = asked.out / f"{kind}-{seed}"
        with place_of(folder, kind) as place:
            row = suffer(kind, seed, place)
            bad = row.lost_run or row.missing or row.orphans or row.wrong_rungs
            if bad and kind == "fill_the_disk":
                shutil.copytree(place, asked.out / f"kept-{kind}-{seed}", symlinks=True)
        with path.open("a") as file:
            file.write(json.dumps(asdict(row)) + "\n")
        if bad or row.double_launches:
            print(row, file=sys.stderr, flush=True)
        else:
            shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
