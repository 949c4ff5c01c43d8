"""The systemd units agree with the exit codes and the default policy, and systemd accepts them."""

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from autotune.core.service_unit import ServiceJob, drop_in
from autotune.core.units import parse_seconds
from autotune.world.notify import START_SECONDS
from autotune.world.systemd_units import UnitFolder
from autotune.world.yaml_files import read_document

ROOT = Path(__file__).parents[1]
SLICE = ROOT / "systemd" / "autotune.slice"
UNITS = {
    "--system": ROOT / "systemd" / "autotune@.service",
    "--user": ROOT / "systemd" / "user" / "autotune@.service",
}
# What a user's manager cannot do, or does without: namespaces, limits and ordering of the machine.
ONLY_SYSTEM = {
    "After", "Wants", "CapabilityBoundingSet", "KeyringMode", "LimitMEMLOCK",
    "ManagedOOMPreference", "ProtectHostname", "ProtectKernelModules", "ProtectKernelTunables",
    "ProtectSystem", "RemoveIPC",
}  # fmt: skip
HARDER = {"SystemCallFilter", "Environment", "WantedBy"}  # in both, and not the same
KILL_SECONDS = 30.0  # `end_all` tries as long with SIGKILL
MEDIUM = 7.0  # systemd-analyze calls an exposure below it medium, from it on exposed


def settings(manager: str = "--system") -> dict[str, str]:
    lines = UNITS[manager].read_text(encoding="utf-8").splitlines()
    pairs = [line.partition("=") for line in lines if "=" in line and not line.startswith("#")]
    return {key: value for key, _, value in pairs}


def analyze(*arguments: str | Path, folder: Path) -> str:
    tool = shutil.which("systemd-analyze")
    if tool is None:
        pytest.skip("systemd-analyze is not installed, so nobody can say what systemd thinks")
    done = subprocess.run(
        [tool, "--no-pager", *arguments],
        env={**os.environ, "XDG_RUNTIME_DIR": str(folder)},
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    # It exits with 0 where it only ignores what it does not understand.
    assert "autotune" not in done.stderr, done.stderr
    return done.stdout


def test_the_two_units_differ_only_in_what_a_users_manager_cannot_do() -> None:
    system, user = settings(), settings("--user")
    assert set(system) - set(user) == ONLY_SYSTEM
    assert set(user) <= set(system)
    for key in set(user) - HARDER:
        assert user[key] == system[key], key


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


def test_systemd_waits_for_ready_and_the_loop_beats_often_enough() -> None:
    unit = settings()
    assert (unit["Type"], unit["NotifyAccess"]) == ("notify", "main")
    assert parse_seconds(unit["TimeoutStartSec"]) == START_SECONDS
    # Ending ranks is the longest that the loop does in one go.
    limits = read_document(ROOT / "policies" / "default.yaml").value["limits"]
    longest = parse_seconds(limits["term_grace"]) + KILL_SECONDS
    assert parse_seconds(unit["WatchdogSec"].replace("min", "m")) > 4 * longest


@pytest.mark.parametrize("manager", UNITS)
def test_systemd_accepts_the_unit_without_a_complaint(manager: str, tmp_path: Path) -> None:
    analyze(manager, "verify", UNITS[manager], folder=tmp_path)
    analyze(manager, "verify", SLICE, folder=tmp_path)


@pytest.mark.parametrize("manager", UNITS)
def test_systemd_calls_the_unit_medium_or_better(manager: str, tmp_path: Path) -> None:
    said = analyze("security", "--offline=true", UNITS[manager], folder=tmp_path)
    found = re.search(r"Overall exposure level for \S+: ([0-9.]+)", said)
    assert found is not None, said
    assert float(found[1]) < MEDIUM


@pytest.mark.parametrize("manager", UNITS)
def test_a_drop_in_of_ours_is_accepted_with_its_unit(manager: str, tmp_path: Path) -> None:
    odd = '/jo bs/50% of $HOME/\\x"y/job.yaml'
    job = ServiceJob("odd", odd, "/runs/odd", ("/bin/true",), "/usr/bin:/bin", "root")
    folder = UnitFolder(user=manager == "--user", path=tmp_path / "units")
    folder.install("odd", drop_in(job))
    for name in ("autotune@.service", "autotune.slice"):
        assert (tmp_path / "units" / name).is_file()
    unit = tmp_path / "units" / "autotune@odd.service"
    shutil.copy(tmp_path / "units" / "autotune@.service", unit)
    analyze(manager, "verify", unit, folder=tmp_path)
    assert [one.job for one in folder.installed()] == [odd]
