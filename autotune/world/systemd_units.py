"""The unit files of our services, and systemctl, called by an argument list."""

import contextlib
import os
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import autotune
from autotune.core.fault import CannotRecord, Fault
from autotune.core.service_unit import read_drop_in, unit_of
from autotune.world.files import write_text

TEMPLATE, SLICE, DROP_IN = "autotune@.service", "autotune.slice", "job.conf"
OURS = "# One training job as a service of "  # begins each version of our template
SHOWN = ("Id", "ActiveState", "SubState", "UnitFileState", "StatusText")
LONGEST_SECONDS = 60.0
STOP_SECONDS = 24 * 3600.0  # a job that saves is waited for; the unit's own limits end it


@dataclass(frozen=True)
class Installed:
    """One job that is installed as a service."""

    unit: str
    job: str
    run: str


class UnitFolder:
    """Where one manager, the machine's or a user's, looks for units."""

    def __init__(self, user: bool, path: Path | None = None) -> None:
        """Look into `path`, else where that manager's administrator puts units."""
        self.user = user
        home = Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config")
        own = home / "systemd" / "user" if user else Path("/etc/systemd/system")
        self.path = path or own

    def install(self, name: str, text: str) -> str:
        """Write template, slice and the job's drop-in; return the unit; raises CannotRecord."""
        shipped = units_folder()
        template = (shipped / "user" if self.user else shipped) / TEMPLATE
        unit = unit_of(name)
        try:
            self._refuse_strangers()
            self.path.mkdir(parents=True, exist_ok=True)
            for source in (template, shipped / SLICE):
                write_text(self.path / source.name, source.read_text("utf-8"), mode=0o644)
            folder = self._folder(unit)
            folder.mkdir(exist_ok=True)
            write_text(folder / DROP_IN, text, mode=0o644)
        except OSError as error:
            place, hint = str(error.filename or self.path), "as root, or with --user"
            text = f"the unit could not be written ({error.strerror})"
            raise CannotRecord(Fault(text, place, hint)) from error
        return unit

    def installed(self) -> Iterator[Installed]:
        """Return what `install` wrote, by name."""
        for path in sorted(self.path.glob(f"autotune@*.service.d/{DROP_IN}")):
            with contextlib.suppress(OSError, UnicodeDecodeError):
                found = read_drop_in(path.read_text("utf-8"))
                if found is not None:
                    yield Installed(path.parent.name.removesuffix(".d"), *found)

    def remove(self, unit: str) -> None:
        """Take a job's drop-in away; raises CannotRecord.

        Template and slice stay, for other jobs and for those that were installed by hand.
        """
        folder = self._folder(unit)
        try:
            (folder / DROP_IN).unlink(missing_ok=True)
        except OSError as error:
            text = f"the unit could not be removed ({error.strerror})"
            raise CannotRecord(Fault(text, str(folder / DROP_IN), "as root, or --user")) from error
        with contextlib.suppress(OSError):  # an owner's own drop-ins stay
            folder.rmdir()

    def reach(self) -> None:
        """Raise CannotRecord where this manager does not answer: then nothing is changed."""
        self.systemctl("show", "--property=Version")

    def systemctl(self, *words: str, longest: float = LONGEST_SECONDS) -> str:
        """Return what systemctl prints; raises CannotRecord with what it complains of."""
        manager = "--user" if self.user else "--system"
        argv = ("systemctl", manager, "--no-pager", "--no-ask-password", *words)
        told = " ".join(argv)
        if shutil.which(argv[0]) is None:
            raise CannotRecord(Fault("this machine has no systemd", told, "use `autotune run`"))
        try:
            done = subprocess.run(
                argv, capture_output=True, text=True, errors="replace", timeout=longest,
                check=False, stdin=subprocess.DEVNULL,
            )  # fmt: skip
        except (OSError, subprocess.TimeoutExpired) as error:
            raise CannotRecord(Fault(f"systemctl did not answer ({error})", told)) from error
        if done.returncode != 0:
            complaint = " ".join(done.stderr.split()) or f"exit code {done.returncode}"
            hint = "log in as that user, or use --system" if self.user else "run it as root"
            raise CannotRecord(Fault(f"systemctl refused: {complaint}", told, hint))
        return done.stdout

    def states(self, units: Sequence[str]) -> dict[str, dict[str, str]]:
        """Return the properties `SHOWN` of each unit; raises CannotRecord."""
        if not units:
            return {}
        said = self.systemctl("show", f"--property={','.join(SHOWN)}", "--", *units)
        blocks = [
            dict(line.split("=", 1) for line in block.splitlines() if "=" in line)
            for block in said.split("\n\n")
        ]
        return {block["Id"]: block for block in blocks if "Id" in block}

    def _folder(self, unit: str) -> Path:
        return self.path / f"{unit}.d"

    def _refuse_strangers(self) -> None:
        template = self.path / TEMPLATE
        if template.exists() and not template.read_text("utf-8").startswith(OURS):
            text = "a unit of this name is there that autotune did not write"
            raise CannotRecord(Fault(text, str(template), "move it away, or use the other manager"))


def units_folder() -> Path:
    """Return the folder of the units shipped with autotune: in a wheel, or beside the package."""
    package = Path(autotune.__file__).resolve().parent
    for folder in (package / "systemd", package.parent / "systemd"):
        if (folder / TEMPLATE).is_file():
            return folder
    text = f"no systemd/{TEMPLATE} lies in or beside the package"
    raise CannotRecord(Fault(text, str(package), "reinstall autotune"))


def lingers(user: str, folder: Path = Path("/var/lib/systemd/linger")) -> bool:
    """Return whether a user's manager runs while that user is not logged in."""
    return (folder / user).exists()
