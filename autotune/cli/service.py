"""`autotune service install|list|remove`: a job as a systemd service, a user's or the machine's."""

import getpass
import json
import os
import pwd
import sys
from pathlib import Path

from autotune.cli.speech import speak
from autotune.cli.wiring import run_folder_of
from autotune.core.fault import AutotuneError, Fault, InputError
from autotune.core.job import Job
from autotune.core.sentence import printable
from autotune.core.service_unit import ServiceJob, drop_in, faults_of, unit_of
from autotune.world.systemd_units import STOP_SECONDS, Installed, UnitFolder, lingers
from autotune.world.yaml_files import read_document, validate


def install(job: Path, system: bool, as_user: str | None, run_dir: Path | None, now: bool) -> int:
    """Write the units of a job, and have it started at each boot; with `now` at once too."""
    document = read_document(job.absolute())
    held = validate(Job, document)
    run = run_folder_of(held, document.path, run_dir).path
    service = ServiceJob(
        name=held.name,
        job=_plain(document.path),
        run=_plain(run),
        program=_program(),
        path=_search_path(os.environ.get("PATH", os.defpath)),
        user=_user(as_user) if system else None,
    )
    faults = faults_of(service)
    if as_user is not None and not system:
        faults.append(Fault("a user's manager trains as that user alone", "--as", "add --system"))
    if faults:
        raise InputError(*faults)
    units = UnitFolder(user=not system)
    _refuse_another_job(units, service)
    units.reach()
    unit = units.install(service.name, drop_in(service))
    units.systemctl("daemon-reload")
    units.systemctl("enable", *(("--now",) if now else ()), "--no-block", "--", unit)
    _tell_what_next(unit, units, now)
    return 0


def remove(job: str, system: bool) -> int:
    """Stop a job's service, let it save, and take its unit away; `job` is its name or its file."""
    units = UnitFolder(user=not system)
    found = _find(units, job)
    units.reach()
    print(f"stopping {found.unit}; its training saves first", file=sys.stderr)
    units.systemctl("disable", "--", found.unit)
    units.systemctl("stop", "--", found.unit, longest=STOP_SECONDS)
    units.remove(found.unit)
    units.systemctl("daemon-reload")
    print(f"removed; the run folder stays: {printable(found.run)}", file=sys.stderr)
    return 0


def show(system: bool, as_json: bool) -> int:
    """Print the jobs that are installed as services, and how they are."""
    units = UnitFolder(user=not system)
    installed = list(units.installed())
    try:
        states = units.states([one.unit for one in installed])
    except AutotuneError as error:
        speak(error)
        states = {}  # what is installed is known all the same
    rows = []
    for one in installed:
        state = states.get(one.unit, {})
        rows.append(
            {
                "unit": one.unit,
                "state": f"{state.get('ActiveState', '?')} ({state.get('SubState', '?')})",
                "boot": state.get("UnitFileState", "?"),
                "status": state.get("StatusText", ""),
                "job": one.job,
                "run": one.run,
            }
        )
    if as_json:
        print(json.dumps(rows))
        return 0
    for row in rows:
        print(f"{row['unit']}: {row['state']}, at boot {row['boot']}")
        print(f"  {printable(row['status'])}") if row["status"] else None
        print(f"  job {printable(row['job'])}, run folder {printable(row['run'])}")
    if not rows:
        print(f"no job is installed below {units.path}", file=sys.stderr)
    return 0


def _find(units: UnitFolder, job: str) -> Installed:
    """Return the service of a job's name or file; raises InputError where there is none."""
    installed = list(units.installed())
    named = {unit_of(job), job, f"{job}.service"}
    file = _plain(Path(job).absolute())
    for one in installed:
        if one.unit in named or one.job == file:
            return one
    text = f"no service of this name or job file is installed below {units.path}"
    hint = "installed: " + (", ".join(one.unit for one in installed) or "none")
    raise InputError(Fault(text, job, f"{hint}; --user and --system are asked apart"))


def _refuse_another_job(units: UnitFolder, service: ServiceJob) -> None:
    for one in units.installed():
        if one.unit == unit_of(service.name) and (one.job, one.run) != (service.job, service.run):
            text = f"another job of this name is installed as {one.unit}"
            hint = f"`autotune service remove {service.name}` first, or give this job another name"
            raise InputError(Fault(text, one.job, hint))


def _plain(path: Path) -> str:
    """Return a path without `..`, links left as they are: their owner may move what they name."""
    return os.path.normpath(path)


def _program() -> tuple[str, ...]:
    """Return what starts this autotune: its command, else its interpreter and module."""
    command = Path(sys.executable).with_name("autotune")
    if command.is_file():
        return (str(command),)
    return (sys.executable, "-m", "autotune.cli.app")


def _search_path(path: str) -> str:
    """Return the absolute folders of a PATH, each once: others mean something else in a service."""
    return os.pathsep.join(dict.fromkeys(p for p in path.split(os.pathsep) if p.startswith("/")))


def _user(named: str | None) -> str:
    """Return whom the machine's manager is to train as; raises InputError."""
    user = named or os.environ.get("SUDO_USER")
    if user is None:
        text = "nobody is named to train as, and root is seldom meant"
        raise InputError(Fault(text, "--as", "--system --as NAME"))
    try:
        return pwd.getpwnam(user).pw_name
    except (KeyError, ValueError):
        text = f"there is no user {user!r} on this machine"
        raise InputError(Fault(text, "--as", "")) from None


def _tell_what_next(unit: str, units: UnitFolder, now: bool) -> None:
    manager = " --user" if units.user else ""
    told = [f"installed {unit}; it starts at each boot and goes on where it was"]
    told += [] if now else [f"start it now: systemctl{manager} start '{unit}'"]
    told += [f"its story: journalctl{manager} -u '{unit}' -f"]
    if units.user and not lingers(getpass.getuser()):
        told += ["it ends when you log out, unless you say: loginctl enable-linger"]
    print("\n".join(told), file=sys.stderr)
