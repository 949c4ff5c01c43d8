"""Refuses memory to running ranks at random instants, and counts what each refusal cost.

    python -m tests.bench.refusals OUT [--minutes M] [--only CELL,...] [--seed N] [--lock FILE]
    python -m tests.bench.refusals OUT --table

Each cell (ZeRO stage, method, ranks) is one job of a tiny Llama in fp32 on the CPU, run once
undisturbed and then, as often as time allows, under `autotune run` while this program lowers the
soft RLIMIT_DATA of one rank, or now and then kills it. Rows go to OUT/refusals.jsonl; a run that
was cut short is thrown away and made anew. Losses are compared bit for bit.
"""

import argparse
import contextlib
import fcntl
import json
import random
import resource
import shutil
import signal
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from autotune.world.host import data_bytes
from tests.e2e.real_job import MODEL, begin, make_data, make_job, steps, story_of_steps

POLICY = """
name: again
summary: the same plan again, whatever it was
choose: in_order
limits: {same_cause: 200, stop_grace: 5m, rank_grace: 30s, rescue_grace: 60s, term_grace: 5s,
         release: 5s, cuda_context: 0, silence_start: 30m, silence_step: 10m, silence_aside: 30m,
         silence_factor: 10, stack_pause: 10s, stall_looks: 5, diverged_steps: 50}
rules:
  - {when: anything, try: [retry_unchanged], spend: "no", at_most: 50, why: a measurement}
"""
STEPS, SAVE_EVERY, EVAL_EVERY = 30, 8, 5
REFUSALS = 5  # of one run
MARGIN_BYTES = 2 * 2**20  # at most left to the rank; a micro-batch here takes more
POLL_SECONDS = 0.02
LULL_SECONDS = 3.0  # after which a rank that went on is left nothing at all
PATIENCE_SECONDS = 600.0
KILLED, IN_EVAL, IN_SAVE = 0.1, 0.2, 0.35  # shares of the instants, each from the one before


@dataclass(frozen=True)
class Cell:
    """One kind of job."""

    stage: int
    method: str
    ranks: int

    @property
    def name(self) -> str:
        return f"zero{self.stage}-{self.method}-{self.ranks}"


CELLS = [
    Cell(stage, method, ranks)
    for ranks in (1, 2)
    for method in ("full", "lora")
    for stage in (2, 3, 1)
]


def job_of(cell: Cell, folder: Path, data: Path, probe: bool) -> Path:
    settings = {
        # Dropout, so that a random state that is not carried over shows in the loss.
        "model": {**MODEL, "attention_dropout": 0.1},
        "method": cell.method,
        "lora": {"rank": 8, "alpha": 16, "dropout": 0.1},
        "data": {
            "train": str(data / "short.jsonl"),
            "sequence": 96,
            "shuffle": True,
            "eval_fraction": 0.1,
        },
        "epochs": None,
        "max_steps": STEPS,
        "eval_every": EVAL_EVERY,
        "zero_stage": cell.stage,
    }
    policy = folder / "again.yaml"
    folder.mkdir(parents=True, exist_ok=True)
    policy.write_text(POLICY)
    return make_job(
        folder,
        data,
        None,
        settings=settings,
        batch={"global": 4, "micro": 2},
        devices={"use": cell.ranks},
        policy=str(policy),
        checkpoints={"every": SAVE_EVERY, "keep": 3},
        climb_back=0,
        proof=False,
        learn=False,
        probe="on" if probe else "off",
    )


@contextlib.contextmanager
def alone(lock: Path | None) -> Iterator[None]:
    """Hold a lock that others take around their trainings too."""
    if lock is None:
        yield
        return
    with lock.open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def measure(cell: Cell, out: Path, chance: random.Random) -> list[dict[str, Any]]:
    """One disturbed run of the cell, to its end; returns a row for each refusal."""
    data = out / "data"
    if not data.is_dir():
        make_data(out)
    reference = out / cell.name / "undisturbed"
    if not (reference / "done").exists():
        shutil.rmtree(reference, ignore_errors=True)
        job = job_of(cell, reference, data, probe=False)
        if begin(job).wait(timeout=1800) != 0:
            raise SystemExit((reference / "terminal").read_text()[-3000:])
        (reference / "done").touch()
    folder = out / cell.name / "disturbed"
    shutil.rmtree(folder, ignore_errors=True)
    job = job_of(cell, folder, data, probe=True)
    run = folder / "runs" / "real"
    made, code = disturb(job, run, chance)
    if code != 0:
        print((folder / "terminal").read_text()[-3000:], file=sys.stderr)
    rows = rows_of(cell, run, made, losses_of(reference / "runs" / "real"), code)
    kept = out / cell.name / f"disturbed-{time.time():.0f}"
    shutil.rmtree(run / "checkpoints", ignore_errors=True)
    shutil.rmtree(run / "ops", ignore_errors=True)
    folder.rename(kept)
    return rows


def disturb(job: Path, run: Path, chance: random.Random) -> tuple[list[dict[str, Any]], int]:
    """Run the job to its end, harming each of its first attempts; what was done, and the exit."""
    supervisor = begin(job)
    made = []
    try:
        for number in range(1, REFUSALS + 1):
            one = refuse(run, f"{number:03d}", supervisor, chance)
            if one is None:
                break
            made.append(one)
        return made, supervisor.wait(timeout=1800)
    finally:
        if supervisor.poll() is None:
            supervisor.terminate()
            supervisor.wait(timeout=120)


def refuse(
    run: Path, attempt: str, supervisor: Any, chance: random.Random
) -> dict[str, Any] | None:
    """Wait for an instant of this attempt and harm a rank; None when the run ended before it."""
    draw, delay, skip = chance.random(), chance.random(), chance.randint(1, 3)
    begun = wait(supervisor, lambda: len(steps_of(run, attempt)) >= skip)
    if not begun:
        return None
    kind = "kill" if draw < KILLED else "refusal"
    if KILLED <= draw < IN_SAVE:
        phase = "eval" if draw < IN_EVAL else "save"
        seen = len(list(phases(run, attempt, phase)))
        if not wait(supervisor, lambda: len(list(phases(run, attempt, phase))) > seen):
            return None
    else:
        seconds = steps_of(run, attempt)[-1].get("seconds") or 0.1
        time.sleep(delay * 2 * float(seconds))
    ranks = ranks_of(run, attempt)
    rank = chance.randrange(len(ranks))
    at = time.time()
    if kind == "kill":
        with contextlib.suppress(ProcessLookupError):
            psutil.Process(ranks[rank]).send_signal(signal.SIGKILL)
    else:
        lower(ranks[rank], int(chance.random() * MARGIN_BYTES))
        # What is left may do for what comes next: then nothing at all is.
        if not wait(supervisor, lambda: held(run, attempt), LULL_SECONDS):
            lower(ranks[rank], -(2**30))
    if not wait(supervisor, lambda: ended(run, attempt), poll=LULL_SECONDS / 10):
        return None
    return {"attempt": int(attempt), "kind": kind, "rank": rank, "at": at}


def lower(pid: int, margin: int) -> None:
    holds = data_bytes(pid)
    if holds is not None:
        with contextlib.suppress(ProcessLookupError):
            hard = resource.prlimit(pid, resource.RLIMIT_DATA)[1]
            resource.prlimit(pid, resource.RLIMIT_DATA, (max(2**20, holds + margin), hard))


def wait(
    supervisor: Any,
    condition: Any,
    seconds: float = PATIENCE_SECONDS,
    poll: float = POLL_SECONDS,
) -> bool:
    """Return whether it came true before the run ended, or the time was up."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        if condition():
            return True
        if supervisor.poll() is not None:
            return bool(condition())
        time.sleep(poll)
    return False


def events(run: Path, attempt: str, rank: int = 0) -> list[dict[str, Any]]:
    path = run / "attempts" / attempt / "events" / f"rank{rank}.jsonl"
    found = []
    with contextlib.suppress(OSError):
        for line in path.read_text().splitlines():
            with contextlib.suppress(ValueError):  # half written
                found.append(json.loads(line))
    return found


def steps_of(run: Path, attempt: str) -> list[dict[str, Any]]:
    return [event for event in events(run, attempt) if event["kind"] == "step"]


def phases(run: Path, attempt: str, phase: str) -> Iterator[dict[str, Any]]:
    for event in events(run, attempt):
        if event["kind"] == "phase" and event.get("phase") == phase:
            yield event


def ranks_of(run: Path, attempt: str) -> list[int]:
    found = sorted((run / "attempts" / attempt / "events").glob("rank*.jsonl"))
    return [
        next(e["pid"] for e in events(run, attempt, rank) if e["kind"] in ("start", "armed"))
        for rank in range(len(found))
    ]


def held(run: Path, attempt: str) -> bool:
    return any(e["kind"] == "holds" for rank in range(8) for e in events(run, attempt, rank))


def journal(run: Path) -> list[dict[str, Any]]:
    found = []
    with contextlib.suppress(OSError):
        for line in (run / "journal.jsonl").read_text().splitlines():
            with contextlib.suppress(ValueError):
                found.append(json.loads(line))
    return found


def ended(run: Path, attempt: str) -> bool:
    over = (e for e in journal(run) if e["event"] == "attempt_ended")
    return any(e["attempt"] == int(attempt) for e in over)


def losses_of(run: Path) -> dict[int, float]:
    return {step: loss for step, (loss, _) in story_of_steps(run).items()}


def rows_of(
    cell: Cell, run: Path, made: list[dict[str, Any]], reference: dict[int, float], code: int
) -> list[dict[str, Any]]:
    """What each refusal cost: steps, and seconds split into ours and the training's own."""
    lines = journal(run)
    launches = {e["attempt"]: e for e in lines if e.get("step") == "launch"}
    starts = {e["attempt"]: e for e in lines if e["event"] == "attempt_started"}
    ends = {e["attempt"]: e for e in lines if e["event"] == "attempt_ended"}
    losses = losses_of(run)
    odd = [step for step in reference if losses.get(step) != reference[step]]
    rows = []
    for one in made:
        number = one["attempt"]
        name, following = f"{number:03d}", f"{number + 1:03d}"
        told = [e for rank in range(cell.ranks) for e in events(run, name, rank)]
        holds = next((e for e in told if e["kind"] == "holds"), None)
        refused = next((e for e in told if e["kind"] == "refused"), None)
        reached = max(event["step"] for event in steps(run, name))
        row = {
            "cell": cell.name,
            **one,
            "phase": (holds or refused or {}).get("phase"),
            "why_not": (holds or {}).get("why"),
            "reached": reached,
            "failure": ends[number]["diagnosis"]["failure"],
            "rescued": ends[number]["evidence"].get("rescued"),
            "exit": code,
            "steps_odd": odd,
        }
        again = steps(run, following) if number + 1 in starts else []
        if again:
            failed = (holds or refused or {"t": one["at"]})["t"]
            start = next(e for e in events(run, following) if e["kind"] == "start")
            row["lost"] = reached - launches[number + 1]["checkpoint_step"]
            row["seconds"] = {
                "rescue": (row["rescued"] or {}).get("seconds"),
                "until_ended": ends[number]["at"] - failed,
                "until_started": starts[number + 1]["at"] - ends[number]["at"],
                "until_rank_begins": start["t"] - starts[number + 1]["at"],
                "until_step": again[0]["t"] - start["t"],
                "in_all": again[0]["t"] - failed,
            }
        rows.append(row)
    return rows


def table(rows: list[dict[str, Any]]) -> None:
    """Lost steps by phase, losses that departed, and the time to the first new step."""
    groups: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        groups.setdefault(row["phase"] or row["kind"], []).append(row)
    print(f"{len(rows)} refusals in {len({row['cell'] for row in rows})} cells")
    for phase, found in sorted(groups.items()):
        lost = [row["lost"] for row in found if row.get("lost") is not None]
        saved = sum(bool((row["rescued"] or {}).get("ok")) for row in found)
        print(f"{phase:10} {len(found):3}  saved {saved:3}  lost steps {sorted(lost)}")
    for row in rows:
        if row["phase"] and not (row["rescued"] or {}).get("ok"):
            print(f"  {row['cell']} attempt {row['attempt']} {row['phase']}: {row['why_not']}")
    odd = {(row["cell"], tuple(row["steps_odd"])) for row in rows if row["steps_odd"]}
    print(f"runs whose losses are not the undisturbed ones to the bit: {sorted(odd)}")
    for part in ("rescue", "until_ended", "until_started", "until_rank_begins", "until_step"):
        found_ = sorted(row["seconds"][part] or 0.0 for row in rows if row.get("seconds"))
        if found_:
            print(f"{part:18} median {found_[len(found_) // 2]:6.2f} s  most {found_[-1]:6.2f} s")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("out", type=Path)
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--only", default="")
    parser.add_argument("--seed", type=int, default=5)
    parser.add_argument("--lock", type=Path)
    parser.add_argument("--table", action="store_true")
    given = parser.parse_args()
    out = given.out.absolute()
    out.mkdir(parents=True, exist_ok=True)
    log = out / "refusals.jsonl"
    rows = [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []
    if given.table:
        table(rows)
        return
    named = {cell.name: cell for cell in CELLS}
    cells = [named[name] for name in given.only.split(",")] if given.only else CELLS
    until = time.monotonic() + given.minutes * 60
    while time.monotonic() < until:
        # The cell with the fewest so far, so that a short measurement is a broad one.
        count = {cell: sum(row["cell"] == cell.name for row in rows) for cell in cells}
        cell = min(cells, key=lambda one: count[one])
        chance = random.Random(f"{given.seed} {cell.name} {count[cell]}")
        with alone(given.lock):
            found = measure(cell, out, chance)
        if not found:
            print(f"{cell.name}: nothing could be refused", file=sys.stderr)
            return
        with log.open("a") as file:
            file.writelines(json.dumps(row) + "\n" for row in found)
        rows += found
        print(cell.name, [(row["phase"] or row["kind"], row.get("lost")) for row in found])
        sys.stdout.flush()


if __name__ == "__main__":
    main()
