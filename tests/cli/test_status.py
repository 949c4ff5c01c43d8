"""`autotune status` answers from the journal and the events, whether or not anybody supervises."""

import io
import json
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import pytest

from autotune.cli.explain import explain
from autotune.cli.remedies import remedies_for
from autotune.cli.status import status
from autotune.cli.stop import stop
from autotune.core.fault import InputError
from tests.e2e.fast_job import kill_when, make_job, run, run_folder, start, trained_steps, until

pytestmark = pytest.mark.e2e


def asked(job: Path, as_json: bool = True) -> Any:
    """Return what status says of the job's run."""
    said = io.StringIO()
    with redirect_stdout(said):
        assert status(run_folder(job), watch=False, as_json=as_json) == 0
    return json.loads(said.getvalue()) if as_json else said.getvalue()


def test_a_finished_run_tells_its_whole_history(tmp_path: Path) -> None:
    job = make_job(tmp_path, {"fits": {"0": 4, "6": 2}})
    assert run(job) == 0

    told = asked(job)

    assert (told["state"], told["attempt"], told["step"], told["total_steps"]) == (
        "finished", 3, 12, 12,
    )  # fmt: skip
    assert [(h["attempt"], h["failure"], h["lost_steps"]) for h in told["history"]] == [
        (1, "device_oom", None),
        (2, "device_oom", 0),
        (3, "none", 0),
    ]
    change = {"setting": "micro_batch", "before": "8", "after": "4"}
    assert change in told["history"][1]["changes"]
    assert told["plan"]["micro_batch"] == 2
    assert told["waiting_for"] is None
    text = asked(job, as_json=False)
    assert "known-good:" in text
    assert "attempt 2: smaller_micro_batch" in text


def test_a_running_run_tells_its_step_and_a_dead_one_that_it_stopped(tmp_path: Path) -> None:
    job = make_job(tmp_path, {"total": 100, "seconds": 0.1})
    supervisor = start(job)
    events = run_folder(job) / "attempts" / "001" / "events" / "rank0.jsonl"
    until(lambda: events.exists() and '"step"' in events.read_text(), "a step")
    assert asked(job)["state"] == "running"
    assert asked(job)["step"] >= 1

    stop(run_folder(job))
    assert asked(job)["state"] in ("stopping", "stopped")
    assert supervisor.wait(timeout=60) == 4
    assert asked(job)["state"] == "stopped"


def test_a_run_whose_supervisor_was_killed_is_stopped_and_can_be_gone_on_with(
    tmp_path: Path,
) -> None:
    job = make_job(tmp_path, {"total": 20, "seconds": 0.05})
    kill_when(start(job), lambda: (run_folder(job) / "attempts" / "001").exists(), "an attempt")

    # The training may live on without a supervisor, and can be told to end all the same.
    assert asked(job)["state"] in ("running", "stopped")
    assert stop(run_folder(job)) == 0
    until(lambda: asked(job)["state"] == "stopped", "the training to end")

    assert run(job, "--json") == 0
    assert trained_steps(job) == list(range(1, 21))


def test_a_folder_without_a_journal_is_no_run(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="not a run folder"):
        status(tmp_path, watch=False, as_json=False)
    with pytest.raises(InputError, match="not a run folder"):
        stop(tmp_path)


def test_stopping_a_run_that_nobody_supervises_changes_nothing(tmp_path: Path) -> None:
    job = make_job(tmp_path)
    assert run(job) == 0
    before = (run_folder(job) / "control.json").read_text()

    assert stop(run_folder(job)) == 0

    assert (run_folder(job) / "control.json").read_text() == before


def test_explain_of_a_run_tells_what_ended_its_newest_attempt(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    job = make_job(tmp_path, {"fits": {"0": 0}}, limits={"attempts": 1})
    assert run(job) == 1

    assert explain([str(run_folder(job))], as_json=True, remedy_for=remedies_for) == 0

    told = json.loads(capsys.readouterr().out)
    assert (told["failure"], told["rank"], told["phase"]) == ("device_oom", 0, "forward")
    assert told["memory"]["limit_bytes"] == 2 * 2**30
    assert told["remedy"][0]["rung"] == "shrink_buckets"
