"""Measures what autotune costs a real training: the supervisor, and its threads in the ranks.

`python -m tests.bench.rank_cost FOLDER [--seconds N]` trains tests/e2e/plain_script.py
under DeepSpeed ZeRO-2 with two ranks for N seconds and stops it. CPU seconds are the kernel's, by
thread; each rank names its own threads at its end. The hooks run in the thread that trains and
are told by the probe itself, as they passed by the clock.
"""

import argparse
import json
import signal
import sys
import time
from pathlib import Path
from typing import Any

from tests.bench.supervisor_cost import TICKS, read
from tests.e2e import real_job
from tests.e2e.fast_job import until
from tests.e2e.test_plain_script import SCRIPT, make_job

# Stands in the place of the user's script, and says at its end what each of its threads cost.
TELLING = f"""
import json, os, runpy, sys, threading
from pathlib import Path

def spent(thread):
    text = Path(f"/proc/self/task/{{thread}}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(text[11]) + int(text[12])) / {TICKS}

sys.argv[0] = {str(SCRIPT)!r}
try:
    runpy.run_path(sys.argv[0], run_name="__main__")
finally:
    told = {{thread.name: spent(thread.native_id) for thread in threading.enumerate()}}
    times = os.times()
    told["the whole rank"] = times.user + times.system
    Path(__file__).with_name("threads-" + os.environ["RANK"]).write_text(json.dumps(told))
"""
STARTER = (str(Path(sys.executable).with_name("torchrun")), "--nproc_per_node", "2")


def make(folder: Path) -> Path:
    """Write a job that trains for longer than anybody measures, and return its file."""
    job = make_job(
        folder, "--deepspeed", "ds.json", "--num_train_epochs", "10000",
        start=STARTER, devices={"use": 2}, checkpoints={"every": 1000, "keep": 2}, proof=False,
    )  # fmt: skip
    telling = folder / "telling.py"
    telling.write_text(TELLING)
    job.write_text(job.read_text().replace(str(SCRIPT), str(telling)))
    return job


def events(run: Path, kind: str) -> list[list[dict[str, Any]]]:
    """Return the events of one kind, by rank."""
    files = sorted((run / "attempts" / "001" / "events").glob("rank*.jsonl"))
    told = [[json.loads(line) for line in file.read_text().splitlines()] for file in files]
    return [[event for event in one if event["kind"] == kind] for one in told]


def main() -> None:
    """Print the figures of one training, its start left out."""
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seconds", type=float, default=180)
    given = parser.parse_args()
    job = make(given.folder)
    supervisor = real_job.begin(job)
    run = given.folder / "runs" / "plain"
    try:
        until(lambda: any(events(run, "step")), "the first step is done", seconds=300)
        first, begun = read(supervisor.pid), time.time()
        time.sleep(given.seconds)
        last, ended = read(supervisor.pid), time.time()
    finally:
        supervisor.send_signal(signal.SIGTERM)
        supervisor.wait(120)
    seconds, own = last.at - first.at, last.cpu_seconds - first.cpu_seconds
    print(f"supervisor: {own:.2f} s of CPU in {seconds:.0f} s, {own / seconds:.2%}")
    for rank, steps in enumerate(events(run, "step")):
        told = json.loads((given.folder / f"threads-{rank}").read_text())
        ours = {name: spent for name, spent in told.items() if name.startswith("autotune")}
        hooks = events(run, "probe_cost")[rank][-1]
        inside = [one["seconds"] for one in steps if begun <= one["t"] <= ended]
        lived = steps[-1]["t"] - steps[0]["t"]
        print(f"rank {rank}: {len(inside)} steps measured, {len(steps)} in all, {lived:.0f} s")
        print(f"  threads of ours {ours}, all of the rank {told['the whole rank']:.1f} s of CPU")
        print(f"  of the training's seconds {sum(ours.values()) / lived:.3%}")
        print(f"  hooks {hooks['seconds']:.2f} s by the clock, {hooks['seconds'] / lived:.3%}")


if __name__ == "__main__":
    main()
