"""What systemd is told of one job: the name of its instance and the text of its drop-in."""

import re
from dataclasses import dataclass

from autotune.core.fault import Fault

PLAIN = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789:_.-")
USER_NAME = re.compile(r"[a-z_][a-z0-9_-]{0,30}\$?")  # useradd(8)
_JOB = "# job: "
_RUN = "# run folder: "


@dataclass(frozen=True)
class ServiceJob:
    """One job as a service; paths are absolute."""

    name: str
    job: str
    run: str
    program: tuple[str, ...]  # what `run JOB --run-dir DIR` is given to
    path: str  # PATH of the training
    user: str | None = None  # None: the user whose manager it is


def instance_of(name: str) -> str:
    """Return what stands between `autotune@` and `.service` for a job's name.

    As systemd-escape writes it, except that a dash stays: no job's name holds the slash for which
    a dash stands there, and the unit never unescapes (%i, not %I).
    """
    escaped = "".join(
        chr(byte) if chr(byte) in PLAIN else f"\\x{byte:02x}" for byte in name.encode()
    )
    return f"\\x2e{escaped[1:]}" if escaped.startswith(".") else escaped


def unit_of(name: str) -> str:
    """Return the unit of a job's name."""
    return f"autotune@{instance_of(name)}.service"


def faults_of(service: ServiceJob) -> list[Fault]:
    """Return what in a service cannot be said in a unit, or would say something else there."""
    faults = []
    for word in (service.job, service.run, service.path, *service.program):
        if not word.isprintable() or word != word.encode(errors="replace").decode():
            text = "this path holds a line break or another character that a unit cannot"
            faults.append(Fault(text, repr(word), "rename it"))
    # Nothing is replaced in the program's own name, so its signs cannot be written doubled.
    if "$" in service.program[0]:
        text = "autotune lies under a path with a `$`, which no unit can start"
        faults.append(Fault(text, service.program[0], "install it elsewhere"))
    if service.user is not None and not USER_NAME.fullmatch(service.user):
        faults.append(Fault("this is not the name of a user", repr(service.user), "see --as"))
    return faults


def drop_in(service: ServiceJob) -> str:
    """Return the text that makes an instance of `autotune@.service` this job's.

    Raises ValueError for a service that has faults: nothing of it may become a directive.
    """
    if faults_of(service):
        raise ValueError(f"cannot be said in a unit: {service}")
    words = (*service.program, "run", service.job, "--run-dir", service.run)
    lines = [
        "# Written by `autotune service install`; `autotune service remove` takes it away.",
        _JOB + service.job,
        _RUN + service.run,
        "[Unit]",
        f"RequiresMountsFor={quoted(service.job)} {quoted(service.run)}",
        "",
        "[Service]",
        "ExecStart=",
        "ExecStart=" + " ".join(quoted(word, command=True) for word in words),
        f"Environment={quoted('PATH=' + service.path)}",
        "StateDirectory=",
    ]
    lines += [f"User={service.user}"] if service.user is not None else []
    return "\n".join(lines) + "\n"


def read_drop_in(text: str) -> tuple[str, str] | None:
    """Return job file and run folder of a drop-in of ours, or None for another's."""
    held = {}
    for line in text.splitlines()[:3]:
        for begin in (_JOB, _RUN):
            if line.startswith(begin):
                held[begin] = line.removeprefix(begin)
    return (held[_JOB], held[_RUN]) if len(held) == 2 else None


def quoted(word: str, command: bool = False) -> str:
    """Return one word as systemd reads it back unchanged (systemd.syntax(7), systemd.service(5)).

    In a `command` line a dollar sign would begin a variable.
    """
    escaped = word.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%")
    return '"' + (escaped.replace("$", "$$") if command else escaped) + '"'
