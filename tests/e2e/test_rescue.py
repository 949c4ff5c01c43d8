"""A rank is refused memory in the middle of a real run, and not one optimizer step is lost."""

import json
import os
import signal
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.e2e.fast_job import until
from tests.e2e.real_job import (
    MODEL,
    begin,
    make_data,
    make_job,
    nobody_left,
    refuse_more_memory,
    steps,
    story_of_steps,
)

STEPS = 8

POLICY = """
name: again
summary: the same plan again
choose: in_order
limits: {same_cause: 3, stop_grace: 5m, rank_grace: 30s, rescue_grace: 60s, term_grace: 5s,
         release: 5s, cuda_context: 0, silence_start: 30m, silence_step: 10m, silence_aside: 30m,
         silence_factor: 10, stack_pause: 10s, stall_looks: 5, diverged_steps: 50}
rules:
  - {when: device_oom, try: [retry_unchanged], spend: "no", at_most: 2, why: a test}
  - {when: anything, try: [], spend: "no", why: a test}
"""


def job_of(folder: Path, data: Path, stage: int, method: str, ranks: int, **changes: Any) -> Path:
    """Write a job that saves nothing before its end, with dropout to tell a lost random state."""
    folder.mkdir(parents=True)
    (folder / "again.yaml").write_text(POLICY)
    settings = {
        "model": {**MODEL, "attention_dropout": 0.1},
        "method": method,
        "lora": {"rank": 8, "alpha": 16, "dropout": 0.1},
        "data": {"train": str(data / "short.jsonl"), "sequence": 256, "shuffle": True},
        "epochs": None,
        "max_steps": STEPS,
        "zero_stage": stage,
    }
    rest = {
        "policy": str(folder / "again.yaml"),
        "batch": {"global": 16, "micro": 4},
        "checkpoints": {"every": 100, "keep": 2},
        "devices": {"use": ranks},
        "proof": False,
        "learn": False,
    }
    return make_job(folder, data, None, settings=settings, **{**rest, **changes})


def events(run: Path, attempt: str, rank: int) -> list[dict[str, Any]]:
    path = run / "attempts" / attempt / "events" / f"rank{rank}.jsonl"
    lines = path.read_text().splitlines(keepends=True) if path.exists() else []
    return [json.loads(line) for line in lines if line.endswith("\n")]


def last_words(run: Path, ranks: int) -> str:
    """What the first attempt said at its end, for whoever has to find out why it was not saved."""
    told = [f"{event}" for rank in range(ranks) for event in events(run, "001", rank)[-6:]]
    output = (run / "attempts" / "001" / "output.log").read_text(errors="replace")
    return "\n".join([*told, *output.splitlines()[-30:]])


def reached(run: Path, step: int) -> bool:
    return any(e["kind"] == "step" and e["step"] >= step for e in events(run, "001", 0))


def journal(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "journal.jsonl").read_text().splitlines()]


@pytest.mark.parametrize(
    ("stage", "method", "ranks"),
    [
        pytest.param(2, "full", 1, marks=pytest.mark.train),
        pytest.param(3, "full", 2, marks=[pytest.mark.train, pytest.mark.slow]),
        pytest.param(1, "full", 2, marks=[pytest.mark.train, pytest.mark.slow]),
        pytest.param(2, "lora", 2, marks=[pytest.mark.train, pytest.mark.slow]),
        pytest.param(3, "lora", 1, marks=[pytest.mark.train, pytest.mark.slow]),
        pytest.param(2, "qlora", 1, marks=[pytest.mark.train, pytest.mark.slow]),
    ],
)
def test_a_training_that_is_refused_memory_goes_on_bit_for_bit_where_it_was(
    stage: int, method: str, ranks: int, tmp_path: Path
) -> None:
    data = make_data(tmp_path)
    plain = job_of(tmp_path / "plain", data, stage, method, ranks, probe="off")
    assert begin(plain).wait() == 0, (plain.parent / "terminal").read_text()
    job = job_of(tmp_path / "refused", data, stage, method, ranks)
    run = job.parent / "runs" / "real"

    supervisor = begin(job)
    until(lambda: reached(run, 3), "the third step", seconds=300)
    refuse_more_memory(run, ranks - 1)

    assert supervisor.wait(timeout=400) == 0, (job.parent / "terminal").read_text()
    ended = next(e for e in journal(run) if e["event"] == "attempt_ended")
    assert ended["diagnosis"]["failure"] == "device_oom"
    rescued = ended["evidence"]["rescued"]
    assert rescued is not None, last_words(run, ranks)
    assert rescued["ok"], (rescued, last_words(run, ranks))
    last = max(event["step"] for event in steps(run, "001"))
    launches = [e for e in journal(run) if e.get("step") == "launch"]
    assert [launch["checkpoint_step"] for launch in launches] == [0, last]
    assert launches[1]["carry"]["kind"] == "same"
    ours, theirs = story_of_steps(run), story_of_steps(plain.parent / "runs" / "real")
    assert list(ours) == list(range(1, STEPS + 1))
    assert ours == theirs
    assert not (run / "attempts" / "001" / "rescue").exists()
    assert nobody_left(run)


@pytest.mark.train
@pytest.mark.slow
def test_ranks_whose_supervisor_is_gone_do_not_hold_for_ever(tmp_path: Path) -> None:
    data = make_data(tmp_path)
    job = job_of(tmp_path / "alone", data, 2, "full", 1)
    (job.parent / "again.yaml").write_text(POLICY.replace("rescue_grace: 60s", "rescue_grace: 3s"))
    run = job.parent / "runs" / "real"
    supervisor = begin(job)
    until(lambda: reached(run, 3), "the third step", seconds=300)
    supervisor.send_signal(signal.SIGSTOP)
    refuse_more_memory(run, 0)
    until(
        lambda: any(e["kind"] == "exception" for e in events(run, "001", 0)),
        "the end of the rank",
        seconds=60,
    )
    os.kill(supervisor.pid, signal.SIGKILL)
    supervisor.wait()
    assert begin(job).wait(timeout=400) == 0, (job.parent / "terminal").read_text()
    launches = [e for e in journal(run) if e.get("step") == "launch"]
    assert [launch["checkpoint_step"] for launch in launches] == [0, 0]
    assert nobody_left(run)


@pytest.mark.train
@pytest.mark.slow
def test_a_scheduler_that_signals_all_but_the_supervisor_loses_no_step(tmp_path: Path) -> None:
    data = make_data(tmp_path)
    job = job_of(tmp_path / "told", data, 2, "full", 2)
    again = POLICY.replace("when: device_oom", "when: preempted")
    (job.parent / "again.yaml").write_text(again)
    run = job.parent / "runs" / "real"
    supervisor = begin(job)
    until(lambda: reached(run, 3), "the third step", seconds=300)

    for process in psutil.Process(supervisor.pid).children(recursive=True):
        process.send_signal(signal.SIGTERM)

    assert supervisor.wait(timeout=400) == 0, (job.parent / "terminal").read_text()
    ended = next(e for e in journal(run) if e["event"] == "attempt_ended")
    assert ended["diagnosis"]["failure"] == "preempted"
    assert ended["evidence"]["ended_by_us"] == "preempted"
    last = max(event["step"] for event in steps(run, "001"))
    assert 3 <= last < STEPS
    launches = [e for e in journal(run) if e.get("step") == "launch"]
    assert [launch["checkpoint_step"] for launch in launches] == [0, last]
    assert list(story_of_steps(run)) == list(range(1, STEPS + 1))
    assert nobody_left(run)
