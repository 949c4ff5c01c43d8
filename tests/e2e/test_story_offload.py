"""A copied configuration offloads the optimizer of a program that brings its own.

DeepSpeed refuses that at start, for real on the CPU too. The offload is dropped, then memory is
short, then it runs: three starts, and nobody had to be awake.
"""

import json
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from tests.e2e import real_job
from tests.e2e.test_plain_script import LIMIT, MODEL, launches

SCRIPT = Path(__file__).parent / "engine_script.py"
COPIED: dict[str, Any] = {
    "train_micro_batch_size_per_gpu": 8, "gradient_accumulation_steps": 1,
    "zero_optimization": {
        "stage": 2, "offload_optimizer": {"device": "cpu", "pin_memory": False},
        "reduce_bucket_size": 5e5, "allgather_bucket_size": 5e5,
    },
}  # fmt: skip


@pytest.mark.train
@pytest.mark.slow
def test_an_offload_that_is_refused_is_dropped_and_what_remains_is_made_to_fit(
    tmp_path: Path,
) -> None:
    (tmp_path / "model.json").write_text(json.dumps(MODEL))
    (tmp_path / "ds.json").write_text(json.dumps(COPIED))
    start = ["deepspeed", "--num_gpus", "1"]
    job = {
        "name": "plain", "framework": "deepspeed", "start": "as_given",
        "settings": {
            "command": [*start, str(SCRIPT), "--deepspeed_config", "ds.json"],
            "batch_from_config": True,
        },
        "devices": {"use": 1, "memory_limit": LIMIT}, "env": {"OMP_NUM_THREADS": "1"},
    }  # fmt: skip
    with (tmp_path / "job.yaml").open("w") as file:
        YAML().dump(job, file)

    ended = real_job.begin(tmp_path / "job.yaml").wait(timeout=500)

    assert ended == 0, (tmp_path / "terminal").read_text()
    run = tmp_path / "runs" / "plain"
    journal = [json.loads(line) for line in (run / "journal.jsonl").read_text().splitlines()]
    failures = [one["diagnosis"]["failure"] for one in journal if one["event"] == "attempt_ended"]
    plans = [one["plan"] for one in launches(run)]
    assert failures[0] == "offload_device"
    assert [plan["offload_optimizer"] for plan in plans] == [True, *[False] * (len(plans) - 1)]
    assert set(failures[1:-1]) == {"device_oom"}
    assert failures[-1] == "none"
    assert plans[-1]["micro_batch"] < 8
    assert json.loads((tmp_path / "ds.json").read_text()) == COPIED
    held = json.loads((run / "known-good" / "ds_config.json").read_text())
    assert "offload_optimizer" not in held["zero_optimization"]
    assert real_job.nobody_left(run)
