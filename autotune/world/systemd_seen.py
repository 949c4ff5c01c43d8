"""What systemd, and programs that kill for memory, would do to us; they are only asked."""

import contextlib
import os
import pwd
import re
import subprocess
from pathlib import Path

import psutil

from autotune.core.doctor.facts import Service

ASK_SECONDS = 5.0
_RUNS = Path("/run/systemd/system")
_LINGER = Path("/var/lib/systemd/linger")
_KILLERS = ("systemd-oomd", "earlyoom", "nohang", "oomd")
_UNIT = re.compile(r"([\w@.:\\-]{1,200}\.(?:service|scope))")


def look_at_systemd() -> Service:
    """Return what is known; everything in it may be missing in a container."""
    unit = unit_of(Path("/proc/self/cgroup"))
    running = _RUNS.is_dir()
    told = _properties(unit) if running and unit else {}
    return Service(
        systemd=running,
        unit=unit,
        oom_policy=told.get("OOMPolicy") or None,
        managed_oom=told.get("ManagedOOMMemoryPressure") or None,
        lingers=_lingers() if running else None,
        killers=_killers(),
    )


def unit_of(cgroup: Path) -> str:
    """Return the innermost unit that a process lives in; nothing where it is in none."""
    try:
        lines = cgroup.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return ""
    for line in lines:
        _, controllers, path = [*line.split(":", 2), "", ""][:3]
        if controllers in ("", "name=systemd"):
            units = _UNIT.findall(path)
            if units:
                return str(units[-1])
    return ""


def _properties(unit: str) -> dict[str, str]:
    manager = ["--user"] if os.geteuid() and unit.endswith(".service") else []
    command = [
        "systemctl",
        *manager,
        "show",
        "-p",
        "OOMPolicy,ManagedOOMMemoryPressure",
        "--",
        unit,
    ]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=ASK_SECONDS, check=True,
            stdin=subprocess.DEVNULL,
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError):
        return {}
    return {key: value for key, _, value in (x.partition("=") for x in done.stdout.splitlines())}


def _lingers() -> bool | None:
    with contextlib.suppress(KeyError, OSError):
        return (_LINGER / pwd.getpwuid(os.getuid()).pw_name).exists()
    return None


def _killers() -> tuple[str, ...]:
    names = {process.info["name"] for process in psutil.process_iter(["name"])}
    return tuple(name for name in _KILLERS if name in names)
