"""Notices that autotune was replaced on disk while it runs, and becomes the new one."""

import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import autotune

# All that a run needs, as it lies on disk now; the folder we happen to stand in is no place for it.
_TRY = "import sys; del sys.path[0]; import autotune.cli.app, autotune.cli.run"
POLL_SECONDS = 0.2
LONGEST_POLLS = 300


class Upgrade:
    """Compares what lies on disk with what runs, by the file that holds the version."""

    def __init__(self, path: Path | None = None) -> None:
        """Remember what `path`, by default the package's own first file, holds now."""
        self._path = path or Path(autotune.__file__)
        self._began = self._held()

    def is_begun(self) -> bool:
        """Return whether something else lies there by now, or nothing."""
        return self._held() != self._began

    def is_whole(self, sleep: Callable[[float], None]) -> bool:
        """Return whether what lies there can be started, asked in a process of its own.

        `sleep` passes the time until it answers, so that the loop that asks goes on turning.
        """
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
        try:
            trial = subprocess.Popen(
                [sys.executable, "-c", _TRY], env=environment,
                stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            )  # fmt: skip
        except OSError:
            return False
        for _ in range(LONGEST_POLLS):
            if trial.poll() is not None:
                return trial.returncode == 0
            sleep(POLL_SECONDS)
        trial.kill()
        trial.wait()
        return False

    def _held(self) -> bytes | None:
        try:
            return self._path.read_bytes()
        except OSError:
            return None


def become_new(environment: Mapping[str, str]) -> None:
    """Start the same command anew in this process, with `environment` added; returns only by error.

    The process keeps its id, so whoever watches it sees the same one; what is open is closed.
    """
    argv = [sys.executable, *sys.orig_argv[1:]]
    os.execve(sys.executable, argv, {**os.environ, **environment})  # noqa: S606
