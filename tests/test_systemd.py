"""The systemd unit agrees with the exit codes and the default policy, and systemd accepts it."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from autotune.core.units import parse_seconds
from autotune.world.yaml_files import read_document

ROOT = Path(__file__).parents[1]
UNIT = ROOT / "systemd" / "autotune@.service"


def settings() -> dict[str, str]:
    lines = UNIT.read_text(encoding="utf-8").splitlines()
    pairs = [line.partition("=") for line in lines if "=" in line and not line.startswith("#")]
    return {key: value for key, _, value in pairs}


def test_what_is_done_is_success_and_what_needs_a_person_is_not_restarted() -> None:
    unit = settings()
    assert unit["SuccessExitStatus"].split() == ["4"]
    assert {"1", "2"} <= set(unit["RestartPreventExitStatus"].split())
    assert set(unit["RestartPreventExitStatus"].split()) & {"3", "70"} == set()
    assert unit["Restart"] == "on-failure"


def test_stopping_waits_longer_than_the_default_policy_gives_the_ranks() -> None:
    limits = read_document(ROOT / "policies" / "default.yaml").value["limits"]
    graces = ("stop_grace", "term_grace", "rank_grace", "rescue_grace", "release")
    needed = sum(parse_seconds(limits[name]) for name in graces)
    assert parse_seconds(settings()["TimeoutStopSec"].replace("min", "m")) > needed


def test_only_the_supervisor_is_told_to_stop_and_a_killed_rank_ends_nothing() -> None:
    unit = settings()
    assert unit["KillMode"] == "mixed"
    assert unit["OOMPolicy"] == "continue"
    assert unit["UMask"] == "0077"


@pytest.mark.parametrize("manager", ["--system", "--user"])
def test_systemd_accepts_the_unit_without_a_complaint(manager: str, tmp_path: Path) -> None:
    analyze = shutil.which("systemd-analyze")
    if analyze is None:
        pytest.skip("systemd-analyze is not installed, so nobody can say what systemd thinks")
    done = subprocess.run(
        [analyze, manager, "verify", str(UNIT)],
        env={**os.environ, "XDG_RUNTIME_DIR": str(tmp_path)},
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    # It exits with 0 where it only ignores what it does not understand.
    assert "autotune@" not in done.stderr, done.stderr
    assert done.returncode == 0, done.stderr
