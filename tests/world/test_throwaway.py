"""What is asked of a throwaway process comes in time, or not at all, and leaves nothing."""

import os
import signal
import sys
import time
from pathlib import Path

import pytest

from autotune.world.process import process_alive
from autotune.world.throwaway import MOST_BYTES, Late, in_time, lines_of


def is_gone(pid: int) -> bool:
    """A killed process takes a moment to go."""
    until = time.monotonic() + 30
    while process_alive(pid) and time.monotonic() < until:
        time.sleep(0.01)
    return not process_alive(pid)


def test_plain_values_come_back() -> None:
    assert in_time(lambda: {"a": [1, None]}, 30) == {"a": [1, None]}


def test_what_it_raises_is_raised_here_in_its_own_words() -> None:
    def breaks() -> None:
        raise ValueError("the driver is odd")

    with pytest.raises(OSError, match="the driver is odd"):
        in_time(breaks, 30)


def test_one_that_dies_is_told_from_one_that_answers() -> None:
    with pytest.raises(OSError, match="without an answer"):
        in_time(lambda: os.kill(os.getpid(), signal.SIGKILL), 30)


def test_one_that_hangs_is_late_and_gone(tmp_path: Path) -> None:
    def hangs() -> None:
        (tmp_path / "pid").write_text(str(os.getpid()))
        signal.pause()

    with pytest.raises(Late):
        in_time(hangs, 1)
    pid = int((tmp_path / "pid").read_text())
    assert is_gone(pid)


def program(tmp_path: Path, text: str) -> list[str]:
    path = tmp_path / "program.py"
    path.write_text(text)
    return [sys.executable, str(path)]


def test_a_flood_is_read_to_its_bound_and_ended(tmp_path: Path) -> None:
    lines, why = lines_of(program(tmp_path, "while True: print('x' * 9999)"), {}, 30)
    assert sum(map(len, lines)) <= MOST_BYTES
    assert "signal" in why


@pytest.mark.long
def test_what_a_program_started_is_ended_with_it(tmp_path: Path) -> None:
    child = "import subprocess, sys; p = subprocess.Popen([sys.executable, '-c', "
    child += "'import signal; signal.pause()']); print(p.pid, flush=True)"
    # The child holds the pipe open, so only the time ends it.
    lines, why = lines_of(program(tmp_path, child), {}, 3)
    assert "did not answer" in why
    assert is_gone(int(lines[0]))


def test_a_program_that_cannot_be_started_says_so() -> None:
    with pytest.raises(OSError, match="No such file"):
        lines_of(["/no/such/python"], {}, 30)
