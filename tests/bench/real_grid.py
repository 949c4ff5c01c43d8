"""Runs real small trainings under memory limits: predicted, blind, exhaustive, and HF's own way.

`python -m tests.bench.real_grid FOLDER [--cells NAME …] [--ways WAY …] [--few] [--lock FILE]
[--table]` needs the training stack and two free cores. For each cell its plans are measured without
a limit, which gives the limit, the plans that fit it and the fastest of them; then the job runs
under it with `start: predicted`, with `start: as_given`, and with HF's `auto_find_batch_size`.
Results are lines of FOLDER/results.jsonl; what stands there is not run again.
"""

import argparse
import contextlib
import fcntl
import itertools
import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from tests.bench.grid_cells import (
    CELLS,
    CORES,
    DTYPE,
    STEPS,
    Cell,
    Word,
    job_of,
    make_rows,
    make_tokenizer,
)
from tests.bench.grid_table import Results, table

ROOT = Path(__file__).parents[2]
WAYS = ("plans", "predicted", "as_given", "hf")
LONGEST_SECONDS = 300  # of one run


def main() -> int:
    """Run what is asked for and not yet done, one cell after the other."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--cells", nargs="*", default=[cell.name for cell in CELLS])
    parser.add_argument("--ways", nargs="*", default=list(WAYS), choices=WAYS)
    parser.add_argument("--lock", type=Path, help="a file to hold an flock of in each training")
    parser.add_argument(
        "--few", action="store_true", help="of the plans measure only those that give the limit"
    )
    parser.add_argument("--table", action="store_true", help="only print what is known")
    asked = parser.parse_args()
    folder = asked.folder.absolute()
    folder.mkdir(parents=True, exist_ok=True)
    results = Results(folder / "results.jsonl")
    chosen = [cell for cell in CELLS if cell.name in asked.cells]
    if not asked.table:
        make_tokenizer(folder / "tokenizer")
        for cell in chosen:
            plans = tuple(one for one in cell.limit if isinstance(one, str))
            ways = asked.ways
            run_cell(cell, folder, results, ways, plans if asked.few else cell.plans, asked.lock)
    print("\n".join(table(chosen, results)))
    return 0


@contextlib.contextmanager
def alone(lock: Path | None) -> Iterator[None]:
    """Wait until no other training of this machine runs that holds the same lock."""
    with contextlib.ExitStack() as held:
        if lock is not None:
            fcntl.flock(held.enter_context(lock.open("a")), fcntl.LOCK_EX)
        yield


def run_cell(
    cell: Cell,
    folder: Path,
    results: Results,
    ways: list[str],
    plans: tuple[str, ...],
    lock: Path | None,
) -> None:
    """Measure the plans of a cell, then run it in each way under the limit they give."""
    (folder / cell.name).mkdir(exist_ok=True)
    rows = make_rows(cell, folder / cell.name)
    for text in plans if "plans" in ways else ():
        if results.of(cell.name, "plan", text) is None:
            job = job_of(cell, Word.of(text), folder, None, "as_given")
            with alone(lock):
                found = supervised(job, folder / cell.name, f"plan-{text}")
            add(results, cell, "plan", text, found)
    peaks = results.peaks(cell.name)
    if not all(peaks.get(text) for text in cell.limit if isinstance(text, str)):
        print(f"{cell.name}: its plans were not measured, so there is no limit", file=sys.stderr)
        return
    limit = cell.limit_bytes(peaks)
    for way in ("predicted", "as_given"):
        if way in ways and results.of(cell.name, way) is None:
            job = job_of(cell, Word.of(cell.plans[0]), folder, limit, way)
            with alone(lock):
                found = supervised(job, folder / cell.name, way)
            add(results, cell, way, "", found)
    if "hf" in ways and results.of(cell.name, "hf") is None:
        with alone(lock):
            found = with_hf(cell, folder, rows, limit)
        add(results, cell, "hf", "", found)


def add(results: Results, cell: Cell, way: str, plan: str, found: dict[str, Any]) -> None:
    """Say one result and keep it, unless nothing came of it: then it is tried again.

    A run that gave up before it launched anything (exit code 1) is a result.
    """
    if found["attempts"] or found.get("exit") == 1:
        results.add({"cell": cell.name, "way": way, "plan": plan, **found})
    print(f"{cell.name} {way} {plan}: {json.dumps(found)}", file=sys.stderr, flush=True)


def supervised(job: dict[str, Any], folder: Path, name: str) -> dict[str, Any]:
    """Run a job to its end and return what came of it."""
    path, run = folder / f"{name}.yaml", folder / f"run-{name}"
    with path.open("w") as file:
        YAML().dump(job, file)
    shutil.rmtree(run, ignore_errors=True)
    # A store of its own: what one way taught must not help the next.
    environment = {
        **os.environ, "DS_ACCELERATOR": "cpu", "XDG_STATE_HOME": str(run) + "-state",
        "PYTHONPATH": str(ROOT),
    }  # fmt: skip
    command = [sys.executable, "-m", "autotune.cli.app", "run", str(path), "--run-dir", str(run)]
    began = time.time()
    with (folder / f"{name}.log").open("w") as log:
        code = finish(subprocess.Popen(command, stdout=log, stderr=log, env=environment))
    found = {"exit": code, "seconds": round(time.time() - began, 1), **read_run(run, began, job)}
    for heavy in ("checkpoints", "staged", "known-good", "ops"):
        shutil.rmtree(run / heavy, ignore_errors=True)
    return found


def finish(process: "subprocess.Popen[Any]") -> int:
    """Wait for a process; one that takes too long is asked to end, as by Ctrl-C, then killed."""
    for patience in (LONGEST_SECONDS, 60, 30):
        try:
            return process.wait(timeout=patience)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGINT)
    process.kill()
    return process.wait()


def read_run(run: Path, began: float, job: dict[str, Any]) -> dict[str, Any]:
    """Return attempts, seconds to the first step that stayed, speed, peak and the last plan."""
    journal = run / "journal.jsonl"
    if not journal.is_file():
        return {"attempts": 0}
    events = [json.loads(line) for line in journal.read_text().splitlines()]
    launches = [e for e in events if e["event"] == "decided" and e["step"] == "launch"]
    if not launches:
        return {"attempts": 0}
    last = launches[-1]
    attempt = run / "attempts" / f"{last['attempt']:03d}" / "events"
    ranks = [lines_of(file) for file in sorted(attempt.glob("rank*.jsonl"))]
    steps = [event for event in (ranks or [[]])[0] if event["kind"] == "step"]
    memory = [event["memory"] for rank in ranks for event in rank if event.get("memory")]
    finished = any(e["event"] == "ended" and e["state"] == "finished" for e in events)
    plan = {
        name: last["plan"][name]
        for name in ("micro_batch", "activation_checkpointing", "quantization", "loss",
                     "zero_stage", "reduce_bucket")
        if name in last["plan"]
    }  # fmt: skip
    return {
        "finished": finished,
        "attempts": len(launches),
        "first_step_seconds": round(steps[0]["t"] - began, 1) if finished and steps else None,
        "samples_per_second": speed([event["t"] for event in steps], job["batch"]["global"]),
        "peak_bytes": max((m.get("peak_data_bytes") or 0 for m in memory), default=0),
        "limit_bytes": job["devices"].get("memory_limit"),
        "dtype": job["settings"]["dtype"],
        "last_plan": plan,
    }


def lines_of(file: Path) -> list[dict[str, Any]]:
    """Return the events of one rank; a torn last line is left out."""
    found = []
    for line in file.read_text().splitlines():
        try:
            found.append(json.loads(line))
        except ValueError:
            continue
    return found


def speed(times: list[float], samples: int) -> float | None:
    """Return samples per second from the moments at which steps ended; the first step warms up."""
    if len(times) < 3:
        return None
    gaps = [later - earlier for earlier, later in itertools.pairwise(times)]
    return round(samples / statistics.median(gaps), 2)


def with_hf(cell: Cell, folder: Path, rows: Path, limit: int) -> dict[str, Any]:
    """Run the cell with HF Trainer alone and return what came of it."""
    micro = Word.of(cell.plans[0]).micro
    spec = {
        "model": dict(cell.model), "method": cell.method, "dtype": DTYPE, "steps": STEPS,
        "sequence": cell.sequence, "micro": micro, "limit": limit, "rows": str(rows),
        "accumulation": cell.global_ // (micro * cell.ranks),
        "tokenizer": str(folder / "tokenizer"), "out": str(folder / cell.name / "hf"),
    }  # fmt: skip
    path = folder / cell.name / "hf.json"
    path.write_text(json.dumps(spec))
    script = str(Path(__file__).with_name("hf_auto_batch.py"))
    command = [sys.executable, script, str(path)]
    if cell.ranks > 1:
        launcher = ["-m", "torch.distributed.run", "--standalone"]
        command[1:1] = [*launcher, "--nproc-per-node", str(cell.ranks)]
    began = time.time()
    with (folder / cell.name / "hf.log").open("w") as log:
        # A session of its own, so that ranks which wait for a dead one can be ended with it.
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=log, text=True, start_new_session=True,
            env={**os.environ, "OMP_NUM_THREADS": str(CORES // cell.ranks)},
        )  # fmt: skip
        try:
            output, _ = process.communicate(timeout=LONGEST_SECONDS)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            output, _ = process.communicate()
    said = [json.loads(line) for line in output.splitlines() if line.startswith("{")]
    return read_hf(said, began, cell) | {
        "exit": process.returncode, "seconds": round(time.time() - began, 1), "limit_bytes": limit,
    }  # fmt: skip


def read_hf(said: list[dict[str, Any]], began: float, cell: Cell) -> dict[str, Any]:
    """Return the same of HF's way as of ours; its last attempt is the one that counts."""
    starts = [place for place, one in enumerate(said) if "attempt" in one]
    steps = [one for one in said[starts[-1] :] if "step" in one] if starts else []
    finished = any("finished" in one for one in said)
    micro = steps[-1]["micro"] if steps else None
    per_step = cell.global_ // Word.of(cell.plans[0]).micro * (micro or 0)
    return {
        "finished": finished,
        "attempts": len(starts) or 1,
        "first_step_seconds": round(steps[0]["t"] - began, 1) if finished and steps else None,
        "samples_per_second": speed([one["t"] for one in steps], per_step),
        "last_plan": {"micro_batch": micro, "global_batch": per_step},
        "died": next((one["died"] for one in said if "died" in one), ""),
    }


if __name__ == "__main__":
    sys.exit(main())
