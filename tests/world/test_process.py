"""Processes of an attempt are found and ended wherever they hide; strangers are left alone."""

import dataclasses
import os
import subprocess
import sys
import time
from pathlib import Path

from autotune.edges import Command
from autotune.world.process import (
    MARK,
    RunningAttempt,
    Survivors,
    boot_id,
    end_all,
    marked,
    process_alive,
)

GRANDCHILD = Path(__file__).parents[1] / "zoo" / "grandchild.py"


def attempt(tmp_path: Path, *argv: str, mark: str = "run/001") -> RunningAttempt:
    """Start a program as an attempt."""
    command = Command((sys.executable, *argv), dict(os.environ), str(tmp_path))
    return RunningAttempt(1, mark, command, tmp_path / "output.log")


def wait_for(path: Path) -> int:
    """Return the process id a program of the zoo writes down."""
    deadline = time.monotonic() + 30
    while not path.exists():
        assert time.monotonic() < deadline
        os.sched_yield()
    return int(path.read_text())


def test_a_grandchild_with_a_session_of_its_own_that_ignores_term_is_ended(
    tmp_path: Path,
) -> None:
    # In a process of its own: being a subreaper cannot be undone.
    told = tmp_path / "pid"
    script = (
        "import sys, time\n"
        "from pathlib import Path\n"
        "from tests.world.test_process import attempt, wait_for\n"
        "from autotune.world.process import become_subreaper, process_alive\n"
        "assert become_subreaper()\n"
        f"told = Path({str(told)!r})\n"
        f"running = attempt(told.parent, {str(GRANDCHILD)!r}, str(told))\n"
        "pid = wait_for(told)\n"
        "while running.poll() is None: pass\n"
        "assert running.alive() == (pid,), running.alive()\n"
        "assert running.end(term_grace=0.2)\n"
        "assert not process_alive(pid)\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True, timeout=60)


def test_what_a_dead_supervisor_left_is_found_by_its_mark_and_nothing_else(
    tmp_path: Path,
) -> None:
    told = tmp_path / "pid"
    env = {**os.environ, MARK: "gone/001"}
    left = subprocess.Popen([sys.executable, str(GRANDCHILD), str(told)], env=env)
    stranger = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    pid = wait_for(told)
    left.wait()
    survivors = Survivors("gone/001")
    assert survivors.alive() == (pid,)
    assert Survivors("gone/002").alive() == ()

    assert end_all(survivors, term_grace=0.2)

    assert marked("gone/001") == []
    assert stranger.poll() is None
    stranger.kill()
    stranger.wait()


def test_a_launcher_is_known_by_id_start_and_boot_and_by_nothing_less(tmp_path: Path) -> None:
    running = attempt(tmp_path, "-c", "import time; time.sleep(60)", mark="known/001")
    known = running.identity
    another_start = dataclasses.replace(known, process_started=known.process_started - 1)
    another_boot = dataclasses.replace(known, boot_id="another")

    assert Survivors("lost/001", known).alive() == (known.pid,)
    assert Survivors("lost/001", another_start).alive() == ()
    assert Survivors("lost/001", another_boot).alive() == ()
    assert end_all(Survivors("lost/001", known), term_grace=5)


def test_the_exit_of_a_launcher_is_told_as_a_shell_tells_it(tmp_path: Path) -> None:
    for script, code, number in (("exit(3)", 3, None), ("import os; os.kill(0, 9)", 137, 9)):
        running = attempt(tmp_path, "-c", script)
        deadline = time.monotonic() + 30
        while (ended := running.poll()) is None:
            assert time.monotonic() < deadline
        assert (ended.code, ended.signal) == (code, number)


def test_a_started_attempt_can_be_named_without_doubt(tmp_path: Path) -> None:
    running = attempt(tmp_path, "-c", "import time; time.sleep(60)", mark="named/001")

    assert running.identity.boot_id == boot_id() != ""
    assert running.identity.process_started > 0
    assert process_alive(running.identity.pid)
    # For a moment after a program has begun the kernel shows its environment as empty.
    while not (found := marked("named/001")) and process_alive(running.identity.pid):
        os.sched_yield()
    assert [p.pid for p in found] == [running.identity.pid]
    assert running.end(term_grace=5)
    assert not process_alive(running.identity.pid)


def test_the_output_goes_to_a_file_that_outlives_us(tmp_path: Path) -> None:
    running = attempt(tmp_path, "-c", "import sys; print('out'); print('err', file=sys.stderr)")
    while running.poll() is None:
        os.sched_yield()

    assert sorted((tmp_path / "output.log").read_text().split()) == ["err", "out"]
