"""Measures what a supervisor costs while a training runs: CPU, wake-ups, memory, threads, files.

Run it with `python -m tests.bench.supervisor_cost [--seconds N] [--step S] [--waiting]`; the ranks
are those of tests/zoo, so that nearly all of what is measured is the supervisor. With `--waiting`
it waits all the time for a GPU that another process has leased. It asserts nothing.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from autotune.world.leases import Leases
from tests.e2e.fast_job import make_job, run_folder, until
from tests.e2e.test_deeds import ON_FAKE_GPUS

TICKS = os.sysconf("SC_CLK_TCK")
SAMPLE_SECONDS = 5.0


@dataclass(frozen=True)
class Reading:
    """One process at one moment, as /proc tells; children are not counted."""

    at: float
    cpu_seconds: float
    wakeups: int  # voluntary context switches of all threads: each ends in one
    resident_kib: int
    threads: int
    descriptors: int


def read(pid: int) -> Reading:
    """Return what a process has cost so far and holds now."""
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    wakeups = 0
    for status in Path(f"/proc/{pid}/task").glob("*/status"):
        wakeups += int(_field(status, "voluntary_ctxt_switches"))
    status = Path(f"/proc/{pid}/status")
    return Reading(
        time.monotonic(),
        (int(fields[11]) + int(fields[12])) / TICKS,
        wakeups,
        int(_field(status, "VmRSS")),
        int(_field(status, "Threads")),
        sum(1 for _ in Path(f"/proc/{pid}/fd").iterdir()),
    )


def _field(status: Path, name: str) -> str:
    lines = status.read_text().splitlines()
    return next(line.split()[1] for line in lines if line.startswith(name + ":"))


def start(folder: Path, step: float, waiting: bool) -> tuple[subprocess.Popen[bytes], Path]:
    """Start a run that lasts longer than anybody measures."""
    told = {"seconds": step, "total": 100_000}
    changes: dict[str, object] = {"checkpoints": {"every": 50, "keep": 3}}
    env = {**os.environ, "XDG_STATE_HOME": str(folder / "state")}
    command = [sys.executable, "-m", "autotune.cli.app"]
    if waiting:
        changes |= {"devices": {"use": [0]}, "batch": {"global": 8, "micro": 8}}
        env |= {"FAKE_GPUS": "0", "FAKE_PLACE": str(folder), "FAST_TORCH": "2.13.0"}
        env["PYTHONPATH"] = os.pathsep.join(sys.path)
        command = [sys.executable, str(ON_FAKE_GPUS)]
    else:
        env["DS_ACCELERATOR"] = "cpu"
    job = make_job(folder, told, **changes)
    with (folder / "terminal").open("wb") as said:
        started = subprocess.Popen([*command, "run", str(job)], stdout=said, stderr=said, env=env)
    return started, job


def main() -> None:
    """Print the figures of one run, the start-up left out."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--seconds", type=float, default=240)
    parser.add_argument("--step", type=float, default=1.0, help="seconds of an optimizer step")
    parser.add_argument("--waiting", action="store_true")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o1777)
        neighbour = Leases("neighbour", folder)
        if given.waiting:
            neighbour.take(["GPU-fake-0"])
        supervisor, job = start(folder, given.step, given.waiting)
        try:
            journal = run_folder(job) / "journal.jsonl"
            word = '"wait"' if given.waiting else '"attempt_started"'
            until(lambda: journal.exists() and word in journal.read_text(), "it is under way")
            time.sleep(15)  # the first polls are quicker, and ranks start
            readings = [read(supervisor.pid)]
            while readings[-1].at - readings[0].at < given.seconds:
                time.sleep(SAMPLE_SECONDS)
                readings.append(read(supervisor.pid))
        finally:
            supervisor.send_signal(signal.SIGTERM)
            supervisor.wait(60)
    first, last = readings[0], readings[-1]
    seconds = last.at - first.at
    print(json.dumps({
        "seconds": round(seconds, 1),
        "cpu_percent_of_a_core": round(100 * (last.cpu_seconds - first.cpu_seconds) / seconds, 2),
        "wakeups_per_minute": round(60 * (last.wakeups - first.wakeups) / seconds, 1),
        "resident_mib": [round(first.resident_kib / 1024, 1), round(last.resident_kib / 1024, 1)],
        "threads": sorted({one.threads for one in readings}),
        "descriptors": sorted({one.descriptors for one in readings}),
    }, indent=1))  # fmt: skip


if __name__ == "__main__":
    main()
