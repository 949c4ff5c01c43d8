"""A script under the DeepSpeed configuration that people copy: refused in words, then in memory.

The copy's mistakes are told before anything starts. Mended, its buckets are more than a rank has
room for at any stage of ZeRO; what fits is found, gone on with, and relaunches by itself.
"""

import json
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from tests.e2e import real_job
from tests.e2e.test_plain_script import SCRIPT, launches, relaunch
from tests.stories.at_size import CONFIGS
from tests.stories.test_tutorial_configs import WRONG

COPIED = CONFIGS / "llama2_7b_full" / "ds_tutorial.json"
# Bytes. A tiny model takes less than half of it, a bucket of 5e8 gradients in fp32 twice as much.
BELOW_A_BUCKET = 1000 * 2**20


def mended(stage: int, ranks: int, **zero: Any) -> dict[str, Any]:
    """Return the copied configuration with every key in its place and a batch that can be."""
    said = json.loads(COPIED.read_text())
    table = {
        key: said["zero_optimization"][key] for key in ("overlap_comm", "contiguous_gradients")
    }
    return {
        "train_batch_size": 8, "train_micro_batch_size_per_gpu": 8 // ranks,
        "gradient_accumulation_steps": 1, "gradient_clipping": said["gradient_cliping"],
        "zero_optimization": {
            **table, "stage": stage, "overlap_comm": False,
            "reduce_bucket_size": said["reduce_bucket_size"], **zero,
        },
    }  # fmt: skip


def make_job(folder: Path, ranks: int, config: str) -> Path:
    """Write a job on the user's command and configuration, begun as given; return its file."""
    (folder / "model.json").write_text(json.dumps(real_job.MODEL))
    (folder / "ds.json").write_text(config)
    command = [
        "deepspeed", "--num_gpus", str(ranks), str(SCRIPT), "--output_dir", "out",
        "--config_name", "model.json", "--rows", "24", "--block_size", "48",
        "--per_device_train_batch_size", str(8 // ranks), "--num_train_epochs", "1",
        "--learning_rate", "1e-3", "--train_sampling_strategy", "sequential",
        "--disable_tqdm", "true", "--deepspeed", "ds.json",
    ]  # fmt: skip
    job = {
        "name": "plain", "framework": "hf", "settings": {"command": command},
        "start": "as_given", "devices": {"use": ranks, "memory_limit": BELOW_A_BUCKET},
        "checkpoints": {"every": 1, "keep": 2}, "env": {"OMP_NUM_THREADS": "1"},
    }  # fmt: skip
    with (folder / "job.yaml").open("w") as file:
        YAML().dump(job, file)
    return folder / "job.yaml"


def failures(run: Path) -> list[str]:
    """Return how each attempt ended."""
    journal = [json.loads(line) for line in (run / "journal.jsonl").read_text().splitlines()]
    return [one["diagnosis"]["failure"] for one in journal if one["event"] == "attempt_ended"]


@pytest.mark.e2e
@pytest.mark.parametrize("ranks", [1, 2])
def test_nothing_is_started_under_the_copy_and_all_that_is_wrong_is_said(
    tmp_path: Path, ranks: int
) -> None:
    job = make_job(tmp_path, ranks, COPIED.read_text())
    assert real_job.begin(job).wait(timeout=120) == 2
    said = (tmp_path / "terminal").read_text()
    for words in WRONG:
        assert words in said, words
    assert "hint: " in said
    assert not (tmp_path / "runs").exists()


def ends_well(job: Path) -> Path:
    """Run a job to its proven known-good, relaunch that, and return the run folder."""
    before = (job.parent / "ds.json").read_text()
    assert real_job.begin(job).wait(timeout=1200) == 0, (job.parent / "terminal").read_text()
    run = job.parent / "runs" / "plain"
    assert failures(run)[-1] == "none"
    assert set(failures(run)[:-1]) == {"device_oom"}
    proof = json.loads((run / "known-good" / "proof.json").read_text())
    assert proof["proven"], proof["why"]
    assert (relaunch(run) / "model.safetensors").exists()
    assert (job.parent / "ds.json").read_text() == before
    assert not (job.parent / "out").exists()  # the user's own folder is left alone
    assert real_job.nobody_left(run)
    return run


def zero_of(run: Path) -> dict[str, Any]:
    """Return what the known-good's own configuration says of ZeRO."""
    held = json.loads((run / "known-good" / "ds_config.json").read_text())
    table: dict[str, Any] = held["zero_optimization"]
    return table


@pytest.mark.train
@pytest.mark.slow
@pytest.mark.parametrize(("ranks", "stage"), [(1, 1), (1, 2), (1, 3), (2, 2)])
def test_the_copied_bucket_is_refused_and_a_smaller_one_is_found(
    tmp_path: Path, ranks: int, stage: int
) -> None:
    # Else a save under ZeRO 3 leaves the weights in pieces, which nothing but DeepSpeed reads.
    whole = {"stage3_gather_16bit_weights_on_model_save": True} if stage == 3 else {}
    config = mended(stage, ranks, **whole)
    run = ends_well(make_job(tmp_path, ranks, json.dumps(config)))
    first, last = launches(run)
    assert first["plan"]["reduce_bucket"] == 500_000_000
    assert last["plan"]["zero_stage"] == stage
    assert last["plan"]["micro_batch"] == 8 // ranks
    assert zero_of(run)["reduce_bucket_size"] == last["plan"]["reduce_bucket"] < 50_000_000
