"""Starts, counts and ends the processes of an attempt, wherever they hide."""

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil

from autotune.core.fault import CannotLaunch, Fault
from autotune.core.record import AttemptStarted
from autotune.edges import Command, Exit
from autotune.world.kernel_text import read

MARK = "AUTOTUNE_ATTEMPT"  # in the environment of everything an attempt starts
SAME_START_SECONDS = 0.05  # the kernel counts starts in hundredths of a second
_PR_SET_CHILD_SUBREAPER = 36
_PR_SET_DUMPABLE = 4
# Enters a cgroup before it becomes the launcher: moved in from outside, a quick launcher would
# have started ranks that stay out.
_ENTER = (
    sys.executable, "-I", "-S", "-c",
    "import os, sys; open(sys.argv[1], 'w').write(str(os.getpid())); "
    "os.execvp(sys.argv[2], sys.argv[2:])",
)  # fmt: skip


def become_subreaper() -> bool:
    """Make orphans of our children our own children, so that none escapes by double-forking."""
    libc = ctypes.CDLL(None, use_errno=True)
    return bool(libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) == 0)


def keep_memory_private() -> bool:
    """Let no process of our own user look into us; the training reads what it is given alone.

    Our environment holds the secrets that were kept from it, and /proc shows them. Root still sees.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    return bool(libc.prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0) == 0)


def boot_id() -> str:
    """Return what names this boot of the machine; process ids mean nothing across boots."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""


def process_started(pid: int) -> float:
    """Return when a process began, in seconds as the kernel counts it; 0 when it is gone."""
    try:
        return float(psutil.Process(pid).create_time())
    except psutil.Error:
        return 0.0


class RunningAttempt:
    """An attempt we started: its launcher and all that came of it."""

    def __init__(
        self,
        attempt: int,
        mark: str,
        command: Command,
        output: Path,
        cgroup: Path | None = None,
    ) -> None:
        """Start the command, its output going straight to a file; raises CannotLaunch.

        `cgroup` is the folder of a cgroup in which everything it starts is born.
        """
        self._mark = mark
        enter = () if cgroup is None else (*_ENTER, str(cgroup / "cgroup.procs"))
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW
        descriptor = os.open(output, flags, 0o600)
        try:
            self._popen = subprocess.Popen(
                (*enter, *command.argv),
                env={**command.env, MARK: mark},
                cwd=command.folder,
                stdin=subprocess.DEVNULL,
                stdout=descriptor,
                stderr=descriptor,
                start_new_session=True,
            )
        except OSError as error:
            text = f"the training could not be started ({error.strerror}: {error.filename})"
            hint = "check `python:` in the job, and `launcher:`"
            raise CannotLaunch(Fault(text, command.argv[0], hint)) from error
        finally:
            os.close(descriptor)
        pid = self._popen.pid
        self.identity = AttemptStarted(attempt, pid, process_started(pid), boot_id())

    def poll(self) -> Exit | None:
        """Return how the launcher ended, or None while it runs; collects adopted children too."""
        code = self._popen.poll()
        _collect_adopted(self._popen.pid)
        if code is None:
            return None
        return Exit(code, None) if code >= 0 else Exit(128 - code, -code)

    def alive(self) -> tuple[int, ...]:
        """Return the process ids of this attempt that still run."""
        return tuple(process.pid for process in self._members())

    def end(self, term_grace: float, hurry: bool = False) -> bool:
        """End every process of this attempt and return whether none is left."""
        return end_all(self, term_grace, hurry)

    def terminate(self) -> None:
        """Ask every process of this attempt to end."""
        _signal(self._members(), signal.SIGTERM)

    def kill(self) -> None:
        """End every process of this attempt."""
        _signal(self._members(), signal.SIGKILL)

    def _members(self) -> list[psutil.Process]:
        # We are a subreaper and run one attempt at a time: every descendant of ours belongs to
        # it. The mark finds what was adopted by another subreaper on the way.
        ours = [p for p in psutil.Process().children(recursive=True) if _runs(p)]
        seen = {process.pid for process in ours}
        return ours + [p for p in marked(self._mark) if p.pid not in seen]


class Survivors:
    """An attempt that another supervisor started and left behind, found by its mark."""

    def __init__(self, mark: str, launcher: AttemptStarted | None = None) -> None:
        """Look for processes that carry `mark`, and for the launcher as it was written down.

        A mark holds the run's random name; the launcher's id counts only in the boot and with the
        start time it had.
        """
        self._mark = mark
        self._launcher = launcher

    def alive(self) -> tuple[int, ...]:
        """Return the process ids that still run."""
        return tuple(process.pid for process in self._members())

    def terminate(self) -> None:
        """Ask all of them to end."""
        _signal(self._members(), signal.SIGTERM)

    def kill(self) -> None:
        """End all of them."""
        _signal(self._members(), signal.SIGKILL)

    def _started(self) -> list[psutil.Process]:
        if self._launcher is None:
            return []
        with contextlib.suppress(psutil.Error):
            process = psutil.Process(self._launcher.pid)
            if _runs(process) and _is(process, self._launcher):
                return [process]
        return []

    def _members(self) -> list[psutil.Process]:
        found = {process.pid: process for process in (*marked(self._mark), *self._started())}
        for process in list(found.values()):
            with contextlib.suppress(psutil.Error):
                found.update({p.pid: p for p in process.children(recursive=True) if _runs(p)})
        return list(found.values())


def process_alive(pid: int) -> bool:
    """Return whether a process runs; one that only waits to be collected does not."""
    try:
        state = read(f"/proc/{pid}/stat").rpartition(b")")[2].split(maxsplit=1)[0]
    except (OSError, IndexError):
        return False
    return state not in (b"Z", b"X")


def _is(process: psutil.Process, started: AttemptStarted) -> bool:
    same = abs(process.create_time() - started.process_started) < SAME_START_SECONDS
    return same and started.boot_id == boot_id()


def marked(mark: str) -> list[psutil.Process]:
    """Return the running processes whose environment carries `mark`."""
    wanted = f"{MARK}={mark}".encode()
    found = []
    for pid in psutil.pids():
        try:
            environment = Path(f"/proc/{pid}/environ").read_bytes()
        except OSError:
            continue  # gone, or not ours to read: then we did not start it
        if wanted in environment.split(b"\0"):
            with contextlib.suppress(psutil.Error):
                process = psutil.Process(pid)
                if _runs(process) and pid != os.getpid():
                    found.append(process)
    return found


def end_all(group: RunningAttempt | Survivors, term_grace: float, hurry: bool = False) -> bool:
    """End every process of `group`: SIGTERM, a grace, then SIGKILL until none is left.

    Returns whether none is left; a process in an uninterruptible wait can outlive us all.
    """
    if not hurry and group.alive():
        group.terminate()
        _wait_gone(group, term_grace)
    deadline = time.monotonic() + 30
    while group.alive() and time.monotonic() < deadline:
        group.kill()
        _wait_gone(group, 1.0)
    return not group.alive()


def _wait_gone(group: RunningAttempt | Survivors, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if isinstance(group, RunningAttempt):
            group.poll()
        if not group.alive():
            return
        time.sleep(0.05)


def _runs(process: psutil.Process) -> bool:
    try:
        return bool(process.status() != psutil.STATUS_ZOMBIE)
    except psutil.Error:
        return False


def _signal(processes: list[psutil.Process], number: signal.Signals) -> None:
    for process in processes:
        # psutil compares the start time first, so a reused process id is never hit.
        with contextlib.suppress(psutil.Error):
            process.send_signal(number)


def _collect_adopted(launcher: int) -> None:
    # Peeks (WNOWAIT) so that the launcher's own exit stays for Popen; a few system calls where a
    # walk over /proc would cost milliseconds on a busy server.
    while True:
        try:
            seen = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        except ChildProcessError:
            return
        if seen is None or seen.si_pid == launcher:
            return
        with contextlib.suppress(ChildProcessError):
            os.waitpid(seen.si_pid, os.WNOHANG)
