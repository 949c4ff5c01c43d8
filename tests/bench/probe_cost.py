"""Measures what the probe takes of a real training: time in its hooks and threads over step time.

`python -m tests.bench.probe_cost FOLDER` trains the small Llama of tests/child/two_ranks.py for 220
steps, once under a plain HF Trainer and once under DeepSpeed ZeRO-2, where the boundary is
remembered and the watching thread runs. Both figures are the probe's own, from `probe_cost` and
`step` events; step times leave out what lies between two steps, so the share is not flattered.
"""

from __future__ import annotations

import json
import os
import statistics
import sys
from importlib.metadata import version
from pathlib import Path

from autotune.world import ops_cache
from autotune.world.environment import free_port
from tests.child.probed import Probed

SCRIPT = Path(__file__).parents[1] / "child" / "two_ranks.py"
SIZES = {"hidden": 128, "layers": 4, "length": 256, "micro": 4, "steps": 220, "save": "no"}


def measure(folder: Path, stage: int | None) -> str:
    """Train once and return the row of the table."""
    given = {"rescue": {"folder": str(folder / "rescue"), "seconds": 60}}
    probed = Probed(folder, given)
    ops = folder / "ops"
    ops.mkdir()
    versions = {name: version(name) for name in ("torch", "deepspeed")}
    ops_cache.warm(ops, ops_cache.cache_folder(versions, sys.executable))
    env = {
        **probed.environment(more_path=""), "OMP_NUM_THREADS": "1", "LOCAL_RANK": "0",
        "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()),
        "DS_ACCELERATOR": "cpu", "HF_HUB_OFFLINE": "1", "TORCH_EXTENSIONS_DIR": str(ops),
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),
    }  # fmt: skip
    code, _, err = probed.run(SCRIPT, json.dumps({**SIZES, "stage": stage}), env=env)
    if code:
        raise SystemExit(err)
    seconds = [event["seconds"] for event in probed.events(kinds=["step"])]
    told = probed.events(kinds=["probe_cost"])[-1]
    share = told["seconds"] / sum(seconds)
    of_a_step = told["seconds"] / told["steps"] * 1000
    return (
        f"| {'HF Trainer' if stage is None else f'HF Trainer, DeepSpeed ZeRO-{stage}'} "
        f"| {len(seconds)} | {statistics.median(seconds) * 1000:.0f} ms | {of_a_step:.2f} ms "
        f"| {share:.2%} | {told['faults']} |"
    )


def main() -> None:
    """Print the table."""
    folder = Path(sys.argv[1])
    print("| training | steps | median step | probe, a step | share | faults |")
    print("|---|---|---|---|---|---|")
    for stage in (None, 2):
        place = folder / f"stage-{stage}"
        place.mkdir(parents=True)
        print(measure(place, stage), flush=True)


if __name__ == "__main__":
    main()
