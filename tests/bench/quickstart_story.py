"""Runs the quickstart recovered and undisturbed and prints its losses, memory and own cost.

`python tests/bench/quickstart_story.py FOLDER` needs the training stack and about ten minutes.
"""

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

ROOT = Path(__file__).parents[2]
MIB = 2**20


def main() -> int:
    """Run the three jobs one after the other and print what came of them."""
    folder = Path(sys.argv[1]).absolute()
    folder.mkdir(parents=True, exist_ok=True)
    data = folder / "quickstart_data"
    script = ROOT / "configs" / "quickstart_data.py"
    subprocess.run([sys.executable, str(script), str(data)], check=True)
    runs = {
        "recovered": supervise(folder, "recovered", limit=True, micro=8),
        "undisturbed, micro-batch 8": supervise(folder, "undisturbed-8", limit=False, micro=8),
        "undisturbed, micro-batch 2": supervise(folder, "undisturbed-2", limit=False, micro=2),
    }
    print_losses(runs)
    print_attempts(folder / "recovered")
    return 0


def supervise(folder: Path, name: str, limit: bool, micro: int) -> Path:
    """Run one variant of the quickstart, measuring the supervisor alone."""
    job: dict[str, Any] = YAML(typ="safe").load((ROOT / "configs" / "quickstart.yaml").read_text())
    job["name"] = name
    job["batch"]["micro"] = micro
    job["learn"] = False  # no run is to know of another
    if not limit:
        del job["devices"]["memory_limit"]
    path = folder / f"{name}.yaml"
    with path.open("w") as file:
        YAML().dump(job, file)
    began = time.monotonic()
    command = [sys.executable, "-m", "autotune.cli.app", "run", str(path)]
    command += ["--run-dir", str(folder / name)]
    supervisor = subprocess.Popen(command)
    peak, seconds = 0, 0.0
    while supervisor.poll() is None:
        peak, seconds = max(peak, resident_peak(supervisor.pid)), cpu_seconds(supervisor.pid)
        time.sleep(0.2)
    wall = time.monotonic() - began
    share = 100 * seconds / wall
    print(
        f"{name}: exit {supervisor.returncode}, {wall:.0f} s; supervisor {peak / MIB:.0f} MiB at "
        f"most, {seconds:.1f} CPU seconds ({share:.2f} % of one core)"
    )
    return folder / name


def resident_peak(pid: int) -> int:
    """Return VmHWM of a process, bytes; 0 when it is gone."""
    try:
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    return 0


def cpu_seconds(pid: int) -> float:
    """Return user and system time of a process without its children."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / 100


def losses(run: Path) -> dict[int, float]:
    """Return the loss of each step that made it into the final weights."""
    kept: dict[int, float] = {}
    journal = [json.loads(line) for line in (run / "journal.jsonl").read_text().splitlines()]
    for launch in journal:
        if launch.get("step") != "launch":
            continue
        kept = {k: v for k, v in kept.items() if k <= launch["checkpoint_step"]}
        events = run / "attempts" / f"{launch['attempt']:03d}" / "events" / "rank0.jsonl"
        for line in events.read_text().splitlines():
            event = json.loads(line)
            if event["kind"] == "step":
                kept[event["step"]] = float(event["loss"])
    return kept


def print_losses(runs: dict[str, Path]) -> None:
    """Print losses side by side and the largest differences."""
    curves = {name: losses(run) for name, run in runs.items()}
    print("step  " + "  ".join(curves))
    for step in sorted(next(iter(curves.values()))):
        print(f"{step:4d}  " + "  ".join(f"{curve[step]:.5f}" for curve in curves.values()))
    recovered, eight, two = curves.values()
    print(f"largest difference, recovered against micro-batch 8: {gap(recovered, eight):.5f}")
    print(f"largest difference, recovered against micro-batch 2: {gap(recovered, two):.5f}")
    print(f"largest difference of the two undisturbed runs: {gap(eight, two):.5f}")


def gap(one: dict[int, float], other: dict[int, float]) -> float:
    """Return the largest difference of two curves."""
    return max(abs(one[step] - other[step]) for step in one)


def print_attempts(run: Path) -> None:
    """Print what each attempt took of its limit."""
    for path in sorted(run.glob("attempts/0*/diagnosis.json")):
        found = json.loads(path.read_text())
        memory = found["evidence"]["memory"]
        peak, limit = memory["peak_bytes"] / MIB, memory["limit_bytes"] / MIB
        reported = rank_peak(path.parent) / MIB
        print(
            f"attempt {path.parent.name}: {found['diagnosis']['failure']}, at most "
            f"{max(peak, reported):.0f} of {limit:.0f} MiB"
        )


def rank_peak(attempt: Path) -> int:
    """Return the highest VmData the ranks saw of themselves, bytes."""
    most = 0
    for file in attempt.glob("events/rank*.jsonl"):
        for line in file.read_text().splitlines():
            memory = json.loads(line).get("memory") or {}
            most = max(most, memory.get("peak_data_bytes") or memory.get("data_bytes") or 0)
    return most


if __name__ == "__main__":
    sys.exit(main())
