"""A training with ms-swift, from a refusal under a limit to a known-good that starts by itself."""

import json
import subprocess
from pathlib import Path

import pytest

from tests import environments
from tests.e2e import test_llamafactory
from tests.e2e.real_job import begin, nobody_left, steps
from tests.e2e.test_llamafactory import ROOM, ROWS, final_state, job_at, journal, losses

pytestmark = pytest.mark.slow

COMMAND = (
    "NPROC_PER_NODE=2 swift sft --model model --model_type llama --template default "
    "--dataset tiny.jsonl --split_dataset_ratio 0 --dataset_shuffle false "
    "--train_dataloader_shuffle false --max_length 512 --tuner_type lora "
    "--target_modules all-linear --torch_dtype float32 --fp16 false --bf16 false "
    "--deepspeed zero2 --num_train_epochs 1 --per_device_train_batch_size 8 "
    "--gradient_accumulation_steps 1 --learning_rate 1e-3 --logging_steps 1 --output_dir out "
    "--report_to none"
)

LAST = f"checkpoint-{ROWS // 16}"


def prepare(folder: Path) -> Path:
    """Write the model, its tokenizer and the rows, as ms-swift reads them."""
    test_llamafactory.prepare(folder)
    rows = json.loads((folder / "data" / "tiny.json").read_text())
    with (folder / "tiny.jsonl").open("w") as file:
        for row in rows:
            said = (("user", row["instruction"]), ("assistant", row["output"]))
            turns = [{"role": role, "content": text} for role, text in said]
            file.write(json.dumps({"messages": turns}) + "\n")
    return folder


def job(work: Path, name: str, limit: int | None) -> Path:
    """Write a job on the user's command line and return its file."""
    given = {"command": COMMAND.split(), "folder": str(work)}
    python = str(environments.python("ms_swift"))
    return job_at(work, python, name, limit, framework="ms_swift", settings=given)


def test_from_a_refusal_under_a_limit_to_a_command_that_starts_by_itself(tmp_path: Path) -> None:
    (tmp_path / "work").mkdir()
    work = prepare(tmp_path / "work")
    free = job(work, "free", None)
    assert begin(free).wait() == 0, (free.parent / "terminal").read_text()
    undisturbed = free.parent / "runs" / "free"
    held = min(int(one["memory"]["data_bytes"]) for one in steps(undisturbed, "001"))

    limited = job(work, "limited", held + ROOM)
    assert begin(limited).wait() == 0, (limited.parent / "terminal").read_text()
    run = limited.parent / "runs" / "limited"
    failures = [e["diagnosis"]["failure"] for e in journal(run) if e["event"] == "attempt_ended"]
    assert failures[0] == "device_oom"
    assert set(failures[:-1]) == {"device_oom"}
    launches = [e for e in journal(run) if e["event"] == "decided" and e["step"] == "launch"]
    assert launches[-1]["plan"]["micro_batch"] < 8
    assert nobody_left(run)
    assert json.loads((run / "known-good" / "proof.json").read_text())["proven"], "it resumed"
    ours, theirs = (final_state(one / "checkpoints" / LAST) for one in (run, undisturbed))
    assert losses(ours) == pytest.approx(losses(theirs), rel=2e-3)

    script = str(run / "known-good" / "launch.sh")
    done = subprocess.run(["sh", script], capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-4000:]
    assert final_state(run / "known-good" / "output" / LAST)["global_step"] == ROWS // 16
