"""A run whose autotune is replaced on disk goes on under the new one, at its next attempt."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from autotune.core.record import AttemptEnded, WentOn
from autotune.world.journal import read_journal
from tests.e2e.fast_job import left_behind, make_job, run_folder, trained_steps, until

pytestmark = pytest.mark.e2e
ROOT = Path(__file__).parents[2]


def test_the_next_attempt_after_an_upgrade_is_the_new_ones(tmp_path: Path) -> None:
    for part in ("autotune", "policies"):
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / part, tmp_path / "site" / part, ignore=ignored)
    first = tmp_path / "site" / "autotune" / "__init__.py"
    story = {"fits": {"0": 8, "7": 4}, "seconds": 0.3}
    job = make_job(tmp_path / "job", story)
    environment = {
        **os.environ,
        "PYTHONPATH": str(tmp_path / "site"),
        "DS_ACCELERATOR": "cpu",
        "XDG_STATE_HOME": str(tmp_path / "state"),
    }
    command = [sys.executable, "-m", "autotune.cli.app", "run", str(job)]
    with (tmp_path / "terminal").open("w") as terminal:
        supervisor = subprocess.Popen(
            command, env=environment, cwd=tmp_path, stdout=terminal, stderr=terminal
        )
    events = run_folder(job) / "attempts" / "001" / "events" / "rank0.jsonl"
    until(lambda: events.exists() and '"step"' in events.read_text(), "a step")

    first.write_text(re.sub('__version__ = ".*"', '__version__ = "99.0"', first.read_text()))

    assert supervisor.wait(timeout=120) == 0, (tmp_path / "terminal").read_text()
    told = list(read_journal(run_folder(job) / "journal.jsonl"))
    (went_on,) = [event for event in told if isinstance(event, WentOn)]
    assert (went_on.autotune, went_on.pid) == ("99.0", supervisor.pid)
    ended = [event.attempt for event in told if isinstance(event, AttemptEnded)]
    assert told.index(went_on) > next(i for i, e in enumerate(told) if isinstance(e, AttemptEnded))
    assert ended == [1, 2]
    assert trained_steps(job) == list(range(1, 13))
    assert left_behind(job) == []
