"""A checkpoint of one ZeRO stage becomes the start of another in the middle of a real run."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.fast_job import until
from tests.e2e.real_job import (
    begin,
    make_data,
    make_job,
    nobody_left,
    refuse_more_memory,
    steps,
    story_of_steps,
)

pytestmark = pytest.mark.train

# Only the way up is open, so that the refusal is answered by another ZeRO stage.
POLICY = """
name: stages
summary: another ZeRO stage, and nothing else
choose: in_order
limits: {same_cause: 3, stop_grace: 5m, rank_grace: 30s, term_grace: 5s, release: 5s,
         cuda_context: 0, silence_start: 30m, silence_step: 10m, silence_aside: 30m,
         silence_factor: 10, stack_pause: 10s, stall_looks: 5, diverged_steps: 50,
         loss_departs: 0.0001, loss_departs_16bit: 0.02, unproven: 30m, mean_failure: 24h}
rules:
  - {when: device_oom, try: [zero_up], spend: "yes", why: a test}
  - {when: anything, try: [], spend: "no", why: a test}
"""


def test_zero_2_goes_on_at_zero_3_in_the_second_epoch_with_the_very_same_steps(
    tmp_path: Path,
) -> None:
    data = make_data(tmp_path)
    policy = tmp_path / "stages.yaml"
    policy.write_text(POLICY)
    settings = {
        "epochs": 2,
        "data": {"train": str(data / "short.jsonl"), "sequence": 512, "shuffle": True},
    }
    # Nothing is saved before the refusal: what is converted is what was saved because of it.
    seldom = {"checkpoints": {"every": 100, "keep": 2}}
    same = {"settings": settings, "proof": False, "policy": str(policy), **seldom}
    undisturbed = make_job(tmp_path / "undisturbed", data, None, **same)
    assert begin(undisturbed).wait() == 0
    job = make_job(tmp_path / "disturbed", data, None, **same)
    run = job.parent / "runs" / "real"

    supervisor = begin(job)
    until(lambda: len(steps_so_far(run)) >= 7, "the second epoch", seconds=300)
    refuse_more_memory(run, rank=1)

    assert supervisor.wait(timeout=400) == 0, (job.parent / "terminal").read_text()

    journal = [json.loads(line) for line in (run / "journal.jsonl").read_text().splitlines()]
    launches = [e for e in journal if e["event"] == "decided" and e["step"] == "launch"]
    assert [launch["plan"]["zero_stage"] for launch in launches] == [2, 3]
    assert launches[1]["carry"]["kind"] == "staged"
    ended = next(e for e in journal if e["event"] == "attempt_ended")
    assert ended["evidence"]["rescued"]["ok"]
    assert ended["evidence"]["rescued"]["step"] == launches[1]["checkpoint_step"]
    assert launches[1]["checkpoint_step"] >= 6
    in_force = settings_event(run, "002")
    assert in_force["zero_stage"] == 3
    assert [group["weight_decay"] for group in in_force["param_groups"]] == [0.1, 0.0]
    ours, theirs = story_of_steps(run), story_of_steps(undisturbed.parent / "runs" / "real")
    assert list(ours) == list(theirs) == list(range(1, 11))
    for step, (loss, samples) in theirs.items():
        assert ours[step][1] == samples, step
        assert ours[step][0] == pytest.approx(loss, rel=2e-4), step
    assert list((run / "staged").iterdir()) == []
    assert nobody_left(run)


def steps_so_far(run: Path) -> list[dict[str, object]]:
    """Return what rank 0 of the first attempt did, once its file is there."""
    return steps(run, "001") if (run / "attempts" / "001" / "events").is_dir() else []


def settings_event(run: Path, attempt: str) -> Any:
    """Return what was really in force in rank 0 of an attempt."""
    file = run / "attempts" / attempt / "events" / "rank0.jsonl"
    events: Any = map(json.loads, file.read_text().splitlines())
    return next(event for event in events if event["kind"] == "settings")
