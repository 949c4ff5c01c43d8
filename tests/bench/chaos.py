"""Injects seeded faults into runs of the fast trainer, and counts what each run lost by it.

    python -m tests.bench.chaos OUT [--faults N] [--seed S] [--kinds A,B]
    python -m tests.bench.chaos OUT --table

Each fault is one job of two ranks and 24 steps that is refused memory twice; at a moment drawn
from the seed something is killed, torn, filled, stopped or spoiled (tests/bench/chaos_faults.py),
and the same command is started again until it ends. Rows go to OUT/chaos.jsonl. Faults of a disk
mount a small file system, for which one must be root. The same counts for real DeepSpeed trainings
come from tests/bench/refusals.py.
"""

import argparse
import itertools
import json
import random
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path

from autotune.core.history import fold
from autotune.core.record import AttemptStarted, RunStarted
from autotune.world.journal import read_journal
from tests.bench.chaos_faults import FAULTS
from tests.bench.chaos_scene import STEPS, Scene, ground_of, place_of, wait
from tests.e2e import fast_job

STARTS = 6  # of one command, after which the run counts as lost
PATIENCE_SECONDS = 900.0  # the shipped policy waits ten minutes for room on a disk


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
    bad_answers: int = 0  # of readers that failed, or of a supervisor that did not see it
    said: str = ""


def suffer(kind: str, seed: int, folder: Path) -> Row:
    """Run one job through one fault, and return what it cost."""
    chance, row = random.Random(f"{kind} {seed}"), Row(kind, seed)
    of = FAULTS[kind]
    job = folder / "job.yaml"
    fast_job.make_job(folder, dict(of.story(chance, place_of(job))), **of.changes)
    supervisor = of.start(job)
    goal = chance.randrange(1, 22)
    scene = Scene(job, chance, supervisor)
    wait(lambda: fast_job.journal_lines(job) >= goal or supervisor.poll() is not None, 120)
    wait(lambda: supervisor.poll() is not None, chance.uniform(0, 0.4))
    of.strike(scene)
    try:
        row.ends.append(supervisor.wait(timeout=PATIENCE_SECONDS))
        while row.ends[-1] != 0 and len(row.ends) < STARTS:
            row.ends.append(of.start(job).wait(timeout=PATIENCE_SECONDS))
    except subprocess.TimeoutExpired:
        row.said = "it did not end"
    scene.hear_out()
    row.bad_answers = scene.bad_answers
    return judge(scene, row)


def judge(scene: Scene, row: Row) -> Row:
    """Fill in what the run's own files say of it."""
    job = scene.job
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
        row.wrong_rungs += before.plan != after.plan and before.failure not in scene.changing
    return row


COUNTED = {
    "lost_run": "lost", "missing": "steps missing or doubled", "orphans": "orphans",
    "double_launches": "double launches", "wrong_rungs": "wrong rungs",
    "bad_answers": "bad answers",
}  # fmt: skip


def table(rows: list[dict[str, object]]) -> Iterator[str]:
    """Sum the rows kind by kind, as Markdown."""
    heads = (
        "lost | steps missing or doubled | orphans | double launches | wrong rungs | bad answers"
    )
    yield f"| fault | runs | {heads} |"
    yield "|---" * (2 + len(COUNTED)) + "|"
    for kind in [*FAULTS, ""]:
        of = [row for row in rows if kind in ("", row["kind"])]
        sums = (sum(int(row.get(key, 0)) for row in of) for key in COUNTED)  # type: ignore[call-overload]
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
        with ground_of(folder, FAULTS[kind]) as place:
            row = suffer(kind, seed, place)
            bad = any(getattr(row, key) for key in COUNTED)
            if bad and FAULTS[kind].disk:
                shutil.copytree(place, asked.out / f"kept-{kind}-{seed}", symlinks=True)
        with path.open("a") as file:
            file.write(json.dumps(asdict(row)) + "\n")
        if bad:
            print(row, file=sys.stderr, flush=True)
        else:
            shutil.rmtree(folder, ignore_errors=True)
            shutil.rmtree(folder.with_name(folder.name + ".machine"), ignore_errors=True)


if __name__ == "__main__":
    main()
