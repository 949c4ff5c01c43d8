"""A user's own HF Trainer script, as its command stands, from a refusal to a known-good."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from tests.e2e import real_job
from tests.e2e.fast_job import until

SCRIPT = Path(__file__).parent / "plain_script.py"
MODEL = {**real_job.MODEL, "vocab_size": 16384}
LIMIT = 1000 * 2**20  # bytes; short rows train in half of it, eight long ones at once in no less
ZERO_2 = {
    "zero_optimization": {"stage": 2, "reduce_bucket_size": 5e5, "allgather_bucket_size": 5e5},
    "train_micro_batch_size_per_gpu": "auto", "gradient_accumulation_steps": "auto",
    "train_batch_size": "auto",
}  # fmt: skip


def make_job(
    folder: Path, *more: str, start: tuple[str, ...] = ("python",), **changes: Any
) -> Path:
    """Write a job that starts the script as its user would, and return its file."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "model.json").write_text(json.dumps(MODEL))
    (folder / "ds.json").write_text(json.dumps(ZERO_2))
    command = [
        *start, str(SCRIPT), "--output_dir", "out", "--config_name", "model.json", "--rows", "48",
        "--per_device_train_batch_size", "8", "--num_train_epochs", "1", "--learning_rate", "1e-3",
        "--train_sampling_strategy", "sequential", "--disable_tqdm", "true", *more,
    ]  # fmt: skip
    job: dict[str, Any] = {
        "name": "plain", "framework": "hf", "settings": {"command": command},
        "start": "as_given", "devices": {"memory_limit": LIMIT},
        "checkpoints": {"every": 1, "keep": 2}, "env": {"OMP_NUM_THREADS": "1"},
    }  # fmt: skip
    path = folder / "job.yaml"
    with path.open("w") as file:
        YAML().dump({**job, **changes}, file)
    return path


def launches(run: Path) -> list[dict[str, Any]]:
    """Return every launch of the journal."""
    journal = [json.loads(line) for line in (run / "journal.jsonl").read_text().splitlines()]
    return [one for one in journal if one["event"] == "decided" and one["step"] == "launch"]


def losses(run: Path, attempt: str) -> dict[int, float]:
    return {one["step"]: one["loss"] for one in real_job.steps(run, attempt)}


def relaunch(run: Path) -> Path:
    """Run the known-good's script where autotune cannot be imported; return what it trained."""
    env = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        ["sh", str(run / "known-good" / "launch.sh")],
        env=env, capture_output=True, text=True, timeout=600, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return run / "known-good" / "output"


@pytest.mark.train
def test_a_script_that_runs_out_of_memory_late_goes_on_with_less_and_leaves_its_own_command(
    tmp_path: Path,
) -> None:
    job = make_job(tmp_path, proof=False)
    assert real_job.begin(job).wait(timeout=600) == 0, (job.parent / "terminal").read_text()
    run = tmp_path / "runs" / "plain"
    first, *rest = launches(run)
    assert first["plan"]["micro_batch"] == 8
    assert rest, "the limit was never felt"
    assert rest[0]["checkpoint_step"] > 0
    assert rest[-1]["plan"]["micro_batch"] < 8
    last = f"{rest[-1]['attempt']:03d}"
    steps = [step for number in range(1, int(last) + 1) for step in losses(run, f"{number:03d}")]
    assert sorted(set(steps)) == [1, 2, 3, 4, 5, 6]
    assert not (tmp_path / "out").exists()  # the user's own output folder is left alone
    assert real_job.nobody_left(run)
    script = (run / "known-good" / "launch.sh").read_text()
    assert f"--per_device_train_batch_size {rest[-1]['plan']['micro_batch']}" in script
    held = YAML(typ="safe").load((run / "known-good" / "job.yaml").read_text())
    assert (held["framework"], held["start"]) == ("hf", "as_given")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("start", "more", "ranks"),
    [
        (("python",), (), 1),
        (("deepspeed", "--num_gpus", "2"), ("--deepspeed", "ds.json"), 2),
        (("torchrun", "--nproc_per_node", "2"), ("--deepspeed", "ds.json"), 2),
        (("accelerate", "launch", "--num_processes", "1", "--cpu"), (), 1),
    ],
)
def test_every_way_to_start_a_script_ends_with_a_proven_known_good_that_relaunches(
    tmp_path: Path, start: tuple[str, ...], more: tuple[str, ...], ranks: int
) -> None:
    job = make_job(tmp_path, *more, start=start)
    assert real_job.begin(job).wait(timeout=900) == 0, (job.parent / "terminal").read_text()
    run = tmp_path / "runs" / "plain"
    first, *rest = launches(run)
    assert first["plan"]["world_size"] == ranks
    assert rest, "the limit was never felt"
    assert all(one["checkpoint_step"] > 0 for one in rest)
    proof = json.loads((run / "known-good" / "proof.json").read_text())
    assert proof["proven"], proof["why"]
    assert (relaunch(run) / "model.safetensors").exists()


@pytest.mark.slow
def test_a_stop_saves_the_script_at_its_next_step_and_the_same_command_goes_on(
    tmp_path: Path,
) -> None:
    job = make_job(tmp_path, proof=False, checkpoints={"every": 100, "keep": 2})
    run = tmp_path / "runs" / "plain"
    events = run / "attempts" / "001" / "events" / "rank0.jsonl"
    begun = real_job.begin(job)
    until(lambda: events.exists() and '"kind": "step"' in events.read_text(), "its first step")
    begun.send_signal(signal.SIGTERM)
    assert begun.wait(timeout=120) == 4
    saved = [one.name for one in (run / "checkpoints").glob("checkpoint-*")]
    assert len(saved) == 1
    assert real_job.begin(job).wait(timeout=600) == 0
    assert launches(run)[1]["checkpoint_step"] == int(saved[0].rpartition("-")[2])


@pytest.mark.slow
def test_the_resumed_script_trains_what_an_undisturbed_one_would_have(tmp_path: Path) -> None:
    calm = make_job(tmp_path / "calm", proof=False, devices={"use": 1})
    assert real_job.begin(calm).wait(timeout=600) == 0
    job = make_job(tmp_path / "short", proof=False)
    assert real_job.begin(job).wait(timeout=600) == 0
    run, still = (tmp_path / one / "runs" / "plain" for one in ("short", "calm"))
    last = launches(run)[-1]["attempt"]
    trained = {k: v for n in range(1, last + 1) for k, v in losses(run, f"{n:03d}").items()}
    undisturbed = losses(still, "001")
    assert trained.keys() == undisturbed.keys()
    for step, loss in undisturbed.items():
        assert trained[step] == pytest.approx(loss, rel=1e-4), step


def test_the_script_is_one_that_this_python_can_read() -> None:
    subprocess.run([sys.executable, "-m", "py_compile", str(SCRIPT)], check=True)
