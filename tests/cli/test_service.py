"""`autotune service` writes units that say what was meant, and calls systemctl by its arguments."""

import json
from pathlib import Path

import pytest

from autotune.cli import service
from autotune.core.fault import AutotuneError, CannotRecord, InputError
from tests.e2e.fast_job import make_job

FAKE = """#!/bin/sh
printf '%s\\n' "$*" >> "$SYSTEMCTL_SAW"
case "$*" in
*Version*) test ! -e "$SYSTEMCTL_SAW.deaf" || { echo 'No medium found' >&2; exit 1; };;
*' show '*)
  printf 'Id=autotune@fast.service\\nActiveState=active\\nSubState=running\\n'
  printf 'UnitFileState=enabled\\nStatusText=attempt 1: x=y\\n';;
*refuse*) echo 'Access denied' >&2; exit 1;;
esac
"""


@pytest.fixture
def saw(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Put a systemctl on the PATH that writes down how it was called."""
    folder = tmp_path / "bin"
    folder.mkdir()
    (folder / "systemctl").write_text(FAKE)
    (folder / "systemctl").chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin:relative")
    monkeypatch.setenv("SYSTEMCTL_SAW", str(tmp_path / "saw"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    return tmp_path / "saw"


def units(tmp_path: Path) -> Path:
    return tmp_path / "config" / "systemd" / "user"


def install(job: Path, now: bool = False, run_dir: Path | None = None) -> int:
    return service.install(job, system=False, as_user=None, run_dir=run_dir, now=now)


def test_install_writes_the_units_and_enables_the_job(tmp_path: Path, saw: Path) -> None:
    job = make_job(tmp_path / "a b%c")

    assert install(job, now=True) == 0

    text = (units(tmp_path) / "autotune@fast.service.d" / "job.conf").read_text()
    assert f'"{tmp_path}/a b%%c/job.yaml" "--run-dir" "{tmp_path}/a b%%c/runs/fast"' in text
    assert f'"PATH={tmp_path}/bin:/usr/bin:/bin"' in text
    assert "User=" not in text
    for name in ("autotune@.service", "autotune.slice"):
        assert (units(tmp_path) / name).is_file()
    assert saw.read_text().splitlines() == [
        "--user --no-pager --no-ask-password show --property=Version",
        "--user --no-pager --no-ask-password daemon-reload",
        "--user --no-pager --no-ask-password enable --now --no-block -- autotune@fast.service",
    ]


def test_installed_twice_it_is_as_installed_once(tmp_path: Path, saw: Path) -> None:
    job = make_job(tmp_path / "job")
    install(job)
    before = {path: path.read_text() for path in units(tmp_path).rglob("*") if path.is_file()}
    install(job)
    assert before == {p: p.read_text() for p in units(tmp_path).rglob("*") if p.is_file()}


def test_another_job_of_the_same_name_takes_nothing_over(tmp_path: Path, saw: Path) -> None:
    install(make_job(tmp_path / "one"))
    with pytest.raises(InputError, match="another job of this name"):
        install(make_job(tmp_path / "two"))
    with pytest.raises(InputError, match="another job of this name"):
        install(tmp_path / "one" / "job.yaml", run_dir=tmp_path / "elsewhere")


def test_a_unit_that_somebody_else_wrote_is_not_overwritten(tmp_path: Path, saw: Path) -> None:
    units(tmp_path).mkdir(parents=True)
    (units(tmp_path) / "autotune@.service").write_text("[Service]\nExecStart=/bin/true\n")
    with pytest.raises(CannotRecord, match="did not write"):
        install(make_job(tmp_path / "job"))


def test_a_path_that_would_inject_a_directive_is_refused_before_anything_is_written(
    tmp_path: Path, saw: Path
) -> None:
    job = make_job(tmp_path / "a\nExecStartPre=/bin/evil")
    with pytest.raises(InputError, match="line break"):
        install(job)
    assert not units(tmp_path).exists()
    assert not saw.exists()


def test_a_wrong_job_is_refused(tmp_path: Path, saw: Path) -> None:
    job = make_job(tmp_path / "job", name="../escape")
    with pytest.raises(InputError):
        install(job)
    assert not units(tmp_path).exists()


def test_a_system_service_names_who_trains(
    tmp_path: Path, saw: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SUDO_USER", raising=False)
    job = make_job(tmp_path / "job")
    for user, words in ((None, "nobody is named"), ("no-such-user", "there is no user")):
        with pytest.raises(InputError, match=words):
            service.install(job, system=True, as_user=user, run_dir=None, now=False)
    with pytest.raises(InputError, match="alone"):
        service.install(job, system=False, as_user="root", run_dir=None, now=False)


def test_list_tells_how_each_job_is(
    tmp_path: Path, saw: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    job = make_job(tmp_path / "job")
    install(job)
    capsys.readouterr()
    assert service.show(system=False, as_json=True) == 0
    (row,) = json.loads(capsys.readouterr().out)
    assert row == {
        "unit": "autotune@fast.service",
        "state": "active (running)",
        "boot": "enabled",
        "status": "attempt 1: x=y",
        "job": str(job),
        "run": str(job.parent / "runs" / "fast"),
    }
    assert service.show(system=False, as_json=False) == 0
    assert "attempt 1: x=y" in capsys.readouterr().out


@pytest.mark.parametrize("named", ["fast", "autotune@fast", "autotune@fast.service", "job.yaml"])
def test_remove_stops_the_job_and_takes_away_what_install_wrote(
    tmp_path: Path, saw: Path, monkeypatch: pytest.MonkeyPatch, named: str
) -> None:
    job = make_job(tmp_path / "job")
    install(job)
    saw.unlink()
    monkeypatch.chdir(job.parent)

    assert service.remove(named, system=False) == 0

    assert [line.split(" -")[-2:] for line in saw.read_text().splitlines()]
    assert "stop -- autotune@fast.service" in saw.read_text()
    assert "disable -- autotune@fast.service" in saw.read_text()
    assert not (units(tmp_path) / "autotune@fast.service.d").exists()
    with pytest.raises(InputError, match="no service"):
        service.remove(named, system=False)


def test_an_owners_own_drop_in_outlives_the_service(tmp_path: Path, saw: Path) -> None:
    install(make_job(tmp_path / "job"))
    own = units(tmp_path) / "autotune@fast.service.d" / "mine.conf"
    own.write_text("[Service]\nCPUWeight=50\n")
    service.remove("fast", system=False)
    assert own.exists()


def test_what_systemctl_complains_of_is_passed_on(tmp_path: Path, saw: Path) -> None:
    with pytest.raises(AutotuneError, match="Access denied"):
        install(make_job(tmp_path / "job", name="refuse"))


def test_where_the_manager_does_not_answer_nothing_is_written(tmp_path: Path, saw: Path) -> None:
    saw.with_name("saw.deaf").touch()
    with pytest.raises(CannotRecord, match="No medium found"):
        install(make_job(tmp_path / "job"))
    assert not units(tmp_path).exists()


def test_list_knows_what_is_installed_where_the_manager_does_not_answer(
    tmp_path: Path,
    saw: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    install(make_job(tmp_path / "job"))
    monkeypatch.setenv("PATH", str(tmp_path))
    capsys.readouterr()
    assert service.show(system=False, as_json=True) == 0
    assert json.loads(capsys.readouterr().out)[0]["state"] == "? (?)"


def test_without_systemd_it_says_so(
    tmp_path: Path, saw: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(CannotRecord, match="no systemd"):
        install(make_job(tmp_path / "job"))
