"""Boots a Debian of its own in systemd-nspawn, with this Python, checkout and packages lent to it.

`sudo python -m tests.nspawn` makes the Debian root, once, in a few minutes and 300 MB; tests that
find none are skipped.
"""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import sysconfig
import time
from collections.abc import Callable, Iterator
from pathlib import Path

REPOSITORY = Path(__file__).parents[1]
SUITE, MIRROR = "bookworm", "http://deb.debian.org/debian"
PACKAGES = "systemd,systemd-sysv,dbus,libpam-systemd,python3"  # python3 for the libraries it loads
TOOLS = ("debootstrap", "systemd-nspawn", "nsenter")
HOW = "sudo python -m tests.nspawn"
REBOOTS = 133  # systemd-nspawn under --keep-unit: whoever started it is to start it again
CHECKOUT, LENT, OWN = "/srv/autotune", "/srv/packages", "/opt/autotune"


def cached_root() -> Path:
    """Return where the Debian root is kept."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return cache / "autotune-tests" / f"debian-{SUITE}-1"


def why_not() -> str | None:
    """Return why no container can be booted here, or None where one can."""
    if os.geteuid() != 0:
        return "only root can boot a container"
    missing = [tool for tool in TOOLS[1:] if shutil.which(tool) is None]
    if missing:
        return f"not installed: {', '.join(missing)} (apt-get install systemd-container)"
    if not cached_root().is_dir():
        return f"there is no Debian root in {cached_root()}; `{HOW}` makes it"
    if Path(sys.base_prefix) == Path("/usr"):
        return "this Python is the system's own, and /usr cannot be lent to another system"
    return None


def make_root() -> None:
    """Make the Debian root, whole or not at all."""
    root = cached_root()
    if root.is_dir():
        print(f"{root} is there already")
        return
    partial = root.with_name(root.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.parent.mkdir(parents=True, exist_ok=True)
    argv = [
        "debootstrap",
        "--variant=minbase",
        f"--include={PACKAGES}",
        SUITE,
        str(partial),
        MIRROR,
    ]
    subprocess.run(argv, check=True)
    for left in (partial / "var/cache/apt/archives").glob("*.deb"):
        left.unlink()
    partial.rename(root)


class Container:
    """One booted Debian; what is written in it is lost with it."""

    def __init__(self, folder: Path) -> None:
        """Copy the root into `folder` and lay our program and a user into it."""
        self.root = folder / "root"
        self._log = folder / "console"
        subprocess.run(["cp", "-a", "--reflink=auto", cached_root(), self.root], check=True)
        (self.root / "root").chmod(0o755)  # this Python may lie below it
        self._lay_program()
        self._nspawn: subprocess.Popen[bytes] | None = None

    def _lay_program(self) -> None:
        """Make a virtual environment with a copy of ours, beside the packages that are lent."""
        own = self.root / OWN.lstrip("/")
        site = own / f"lib/python{sysconfig.get_python_version()}/site-packages"
        for folder in (own / "bin", site):
            folder.mkdir(parents=True)
        python = Path(sys.base_prefix) / "bin" / f"python{sysconfig.get_python_version()}"
        (own / "bin/python").symlink_to(python)
        (own / "pyvenv.cfg").write_text(f"home = {python.parent}\n")
        (site / "lent.pth").write_text(f"{LENT}\n")
        for part, name in (("autotune", ""), ("policies", "policies"), ("systemd", "systemd")):
            ignored = shutil.ignore_patterns("__pycache__")
            shutil.copytree(REPOSITORY / part, site / "autotune" / name, ignore=ignored)
        self.package = site / "autotune"  # as a wheel lays it out
        command = own / "bin/autotune"
        text = f"#!{OWN}/bin/python\nfrom autotune.cli.app import main\n\nmain()\n"
        command.write_text(text)
        command.chmod(0o755)

    def boot(self) -> None:
        """Start it and return when it is up."""
        lent = {sys.base_prefix: sys.base_prefix, str(REPOSITORY): CHECKOUT}
        lent[sysconfig.get_path("purelib")] = LENT
        binds = [f"--bind-ro={outside}:{inside}" for outside, inside in lent.items()]
        with self._log.open("ab") as console:
            self._nspawn = subprocess.Popen(
                ["systemd-nspawn", "--boot", "--quiet", "--register=no", "--keep-unit",
                 "--private-network", "--link-journal=no", "--console=pipe",
                 f"--machine=autotune-{os.getpid()}", f"--directory={self.root}", *binds],
                stdin=subprocess.DEVNULL, stdout=console, stderr=console, start_new_session=True,
            )  # fmt: skip
        self.until(self.is_up, "it boots")

    def is_up(self) -> bool:
        """Return whether its systemd has started all it should."""
        said = self.try_to("systemctl", "is-system-running").stdout.strip()
        return said in ("running", "degraded")

    def init(self) -> int | None:
        """Return the process that is its first, as the machine counts it; it changes by a boot."""
        assert self._nspawn is not None
        pid = self._nspawn.pid
        with contextlib.suppress(OSError):
            for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
                if Path(f"/proc/{child}/comm").read_text().strip() == "systemd":
                    return int(child)
        return None

    def try_to(self, *argv: str) -> "subprocess.CompletedProcess[str]":
        """Run a program in it and return what came of it."""
        enter = [
            "nsenter",
            "-m",
            "-u",
            "-i",
            "-n",
            "-p",
            "-C",
            f"--target={self.init() or 0}",
            "--",
        ]
        clean = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C.UTF-8"}
        return subprocess.run(
            [*enter, *argv], env=clean, capture_output=True, text=True, timeout=120, check=False,
            stdin=subprocess.DEVNULL,
        )  # fmt: skip

    def run(self, *argv: str) -> str:
        """Run a program in it that must succeed, and return what it printed."""
        done = self.try_to(*argv)
        assert done.returncode == 0, f"{argv}: {done.stderr}{done.stdout}"
        return done.stdout

    def until(self, condition: Callable[[], object], what: str, seconds: float = 90) -> None:
        """Return as soon as the condition holds; fail, naming it, when it never does."""
        deadline = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < deadline, f"never happened: {what}\n{self.said()}"
            time.sleep(0.1)

    def said(self) -> str:
        """Return the end of its journal."""
        return self.try_to("journalctl", "--no-pager", "-n", "60").stdout

    def reboot(self) -> None:
        """Have it started anew, as a machine would be."""
        assert self._nspawn is not None
        self.try_to("systemctl", "reboot")
        code = self._nspawn.wait(timeout=90)
        assert code == REBOOTS, f"systemd-nspawn ended with {code}"
        self.boot()

    def shut_down(self) -> None:
        """End it, kindly and then not."""
        if self._nspawn is None:
            return
        self._nspawn.send_signal(signal.SIGTERM)
        try:
            self._nspawn.wait(timeout=60)
        except subprocess.TimeoutExpired:
            self._nspawn.kill()
            self._nspawn.wait()


@contextlib.contextmanager
def booted(folder: Path) -> Iterator[Container]:
    """Lend a booted container; nothing of it is left afterwards."""
    container = Container(folder)
    try:
        container.boot()
        yield container
    finally:
        container.shut_down()
        shutil.rmtree(container.root, ignore_errors=True)


if __name__ == "__main__":
    make_root()
