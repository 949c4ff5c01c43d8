"""A job as a service of a real systemd 252, booted in a container of its own: it goes on by itself.

The training is the one of milliseconds. The machine that boots the container says which cgroups
there are; version 2 cannot be tried where the machine has version 1.
"""

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest

from autotune.core.history import Story, fold
from autotune.core.record import Ended, Event, WentOn
from autotune.world.journal import read_journal
from tests.e2e.fast_job import make_job
from tests.nspawn import CHECKOUT, OWN, Container, booted, why_not

WHY_NOT = why_not()
pytestmark = [
    pytest.mark.e2e,
    pytest.mark.skipif(WHY_NOT is not None, reason=f"no systemd can be booted here: {WHY_NOT}"),
]
LONG = {"total": 100_000, "seconds": 0.05}
USER, USER_ID = "alice", 1000
SAVE_EVERY = 10
# What the tests cannot wait for, and nothing else, is other than shipped.
QUICK = "[Service]\nRestartSec=1s\nWatchdogSec=15s\n"


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Container]:
    with booted(tmp_path_factory.mktemp("machine")) as container:
        container.run("useradd", "--create-home", f"--uid={USER_ID}", USER)
        works = container.try_to(f"{OWN}/bin/autotune", "--help")
        if works.returncode:
            pytest.skip(f"the container cannot run this Python: {works.stderr}")
        yield container


class Service:
    """One job of the container, as seen from outside."""

    def __init__(
        self, machine: Container, name: str, story: dict[str, Any], **changes: Any
    ) -> None:
        self.machine = machine
        self.unit = f"autotune@{name}.service"
        self.folder = machine.root / "home" / USER / name
        self.job = f"/home/{USER}/{name}/job.yaml"
        make_job(self.folder, story, name=name, **changes)
        wrapper = f'#!/bin/sh\nexec {OWN}/bin/python {CHECKOUT}/tests/zoo/fast_python.py "$@"\n'
        (self.folder / "python").write_text(wrapper)
        machine.run("chown", "-R", f"{USER}:", f"/home/{USER}/{name}")
        self.run_folder = self.folder / "runs" / name

    def install(self, more: str = "") -> None:
        drop_in = self.machine.root / "etc/systemd/system" / f"{self.unit}.d" / "quick.conf"
        drop_in.parent.mkdir(parents=True)
        drop_in.write_text(QUICK + more)
        argv = ("service", "install", self.job, "--system", "--as", USER, "--now")
        self.machine.run(f"{OWN}/bin/autotune", *argv)

    def shown(self, name: str) -> str:
        said = self.machine.run("systemctl", "show", f"--property={name}", "--value", self.unit)
        return said.strip()

    def main_pid(self) -> int:
        return int(self.shown("MainPID"))

    def pids(self) -> set[int]:
        """All of the unit, as the container counts them."""
        folder = self.machine.root  # its cgroups are mounted nowhere else
        assert folder.is_dir()
        said = self.machine.run(
            "systemctl", "status", "--no-pager", "--lines=0", "--full", self.unit
        )
        return {int(pid) for pid in re.findall(r"[├└]─ *(\d+) ", said)}

    def signal(self, name: str) -> None:
        """Send a signal to its supervisor alone."""
        self.machine.run("systemctl", "kill", "--kill-whom=main", f"--signal={name}", self.unit)

    def crash_rank_0(self, attempt: int) -> None:
        """End a rank as a fault in native code would."""
        events = self.run_folder / "attempts" / f"{attempt:03d}" / "events" / "rank0.jsonl"
        pid = json.loads(events.read_text().splitlines()[0])["pid"]
        self.machine.run(f"{OWN}/bin/python", "-c", f"import os; os.kill({pid}, 11)")

    def events(self) -> list[Event]:
        path = self.run_folder / "journal.jsonl"
        return list(read_journal(path)) if path.exists() else []

    def story(self) -> Story:
        return fold(self.events())

    def attempts(self) -> int:
        return len([*self.run_folder.glob("attempts/[0-9]*")])

    def step(self, attempt: int | None = None) -> int:
        """The newest step that an attempt told of, by default any; they are counted through."""
        newest, which = 0, "*" if attempt is None else f"{attempt:03d}"
        for path in self.run_folder.glob(f"attempts/{which}/events/rank0.jsonl"):
            for line in path.read_text().splitlines():
                found = re.search(r'"kind": "step".*"step": (\d+)', line)
                newest = max(newest, int(found[1])) if found else newest
        return newest

    def entries(self, *matches: str) -> list[dict[str, Any]]:
        """What the journal of systemd holds of it."""
        argv = ("journalctl", "--no-pager", "--output=json", f"--unit={self.unit}", *matches)
        return [json.loads(line) for line in self.machine.run(*argv).splitlines()]

    def until_it_trains(self, attempt: int) -> None:
        """Return once that attempt makes steps, seen by a supervisor that is ready."""
        self.machine.until(
            lambda: self.step(attempt) and f"attempt {attempt}:" in self.shown("StatusText"),
            f"{self.unit} trains in attempt {attempt}",
        )

    def until_it_is(self, state: str) -> None:
        self.machine.until(lambda: self.shown("ActiveState") == state, f"{self.unit} is {state}")

    def remove(self) -> None:
        self.machine.run(f"{OWN}/bin/autotune", "service", "remove", self.job, "--system")


@pytest.fixture(scope="module")
def service(machine: Container) -> Service:
    """A training that never ends by itself; each test leaves it running."""
    made = Service(machine, "night-run", LONG, checkpoints={"every": SAVE_EVERY, "keep": 3})
    made.install()
    made.until_it_trains(1)
    return made


def test_it_is_ready_and_its_status_says_what_autotune_status_says(service: Service) -> None:
    assert service.shown("ActiveState") == "active"
    service.machine.until(lambda: "step" in service.shown("StatusText"), "a step in the status")
    status = service.shown("StatusText")
    assert re.match(r"attempt 1: micro-batch 8 .*; step \d+/100000  loss ", status)
    shown = service.machine.run(f"{OWN}/bin/autotune", "status", service.job.replace(
        "job.yaml", "runs/night-run"
    ))  # fmt: skip
    assert status.partition(";")[0] in shown


def test_its_entries_in_the_journal_have_fields(service: Service) -> None:
    entries = service.entries("AUTOTUNE_EVENT=Launch")
    assert entries[0]["AUTOTUNE_ATTEMPT"] == "1"
    assert entries[0]["AUTOTUNE_JOB"] == "night-run"
    assert entries[0]["SYSLOG_IDENTIFIER"] == "autotune"
    assert entries[0]["MESSAGE"].startswith("attempt 1: ")
    run = service.story().started
    assert run is not None
    assert entries[0]["AUTOTUNE_RUN"] == run.run_id


def test_no_rank_can_speak_for_the_supervisor(service: Service) -> None:
    machine, main = service.machine, service.main_pid()
    others = service.pids() - {main}
    assert len(others) >= 3  # the launcher and two ranks
    for pid in others:
        names = machine.run("cat", f"/proc/{pid}/environ").split("\0")
        assert [name for name in names if name.startswith(("NOTIFY_", "WATCHDOG_"))] == []


def test_it_trains_as_its_user_in_the_common_slice(service: Service) -> None:
    assert service.shown("User") == USER
    assert service.shown("Slice") == "autotune.slice"
    assert service.machine.run("stat", "-c", "%U", f"/proc/{service.main_pid()}").strip() == USER


def test_systemd_marks_the_group_it_delegates_as_we_read_it(service: Service) -> None:
    group = "/sys/fs/cgroup/unified" + service.shown("ControlGroup")
    if service.machine.try_to("test", "-d", group).returncode:
        pytest.skip("this machine shows the container no version 2 groups")
    ask = f"import os; print(os.getxattr({group!r}, 'user.delegate').decode())"
    assert service.machine.run(f"{OWN}/bin/python", "-c", ask) == "1\n"


def test_daemon_reload_leaves_it_alone(service: Service) -> None:
    main = service.main_pid()
    service.machine.run("systemctl", "daemon-reload")
    before = service.step(1)
    service.machine.until(lambda: service.step(1) > before + 3, "it trains on")
    assert service.main_pid() == main
    assert service.shown("StatusText").startswith("attempt 1")


def test_a_loop_that_stands_still_is_ended_by_the_watchdog_and_goes_on(service: Service) -> None:
    attempt, ranks = service.attempts(), service.pids()
    service.signal("SIGSTOP")
    service.until_it_trains(attempt + 1)
    assert service.shown("NRestarts") == "1"
    dumped = [entry for entry in service.entries() if "most recent call first" in str(entry)]
    assert dumped  # where the loop stood when the watchdog ended it
    assert service.pids() & ranks == set()
    assert any("atchdog timeout" in str(entry["MESSAGE"]) for entry in service.entries())
    assert any(isinstance(event, WentOn) for event in service.events())


def test_a_killed_supervisor_comes_back_and_leaves_no_orphans(service: Service) -> None:
    attempt, ranks = service.attempts(), service.pids()
    before = service.step(attempt)
    service.signal("SIGKILL")
    service.until_it_trains(attempt + 1)
    went_on = service.story().attempts[-1].launch.checkpoint_step
    assert before - 2 * SAVE_EVERY <= went_on  # what was killed with it was not saved
    assert service.pids() & ranks == set()
    assert len(service.pids()) == len(ranks)


def test_stop_saves_and_counts_as_success_and_start_goes_on(service: Service) -> None:
    before = service.step(service.attempts())
    service.machine.run("systemctl", "stop", service.unit)
    assert service.shown("ActiveState") == "inactive"
    assert service.shown("Result") == "success"
    assert service.shown("ExecMainStatus") == "4"
    assert service.events()[-1] == Ended("stopped", 4)
    last = service.story().attempts[-1].evidence
    assert last is not None
    assert last.checkpoint_step is not None
    assert last.checkpoint_step >= before  # it saved where it stood

    attempt = service.attempts()
    service.machine.run("systemctl", "start", service.unit)
    service.until_it_trains(attempt + 1)
    assert service.story().attempts[-1].launch.checkpoint_step == last.checkpoint_step


def upgrade(machine: Container, version: str) -> None:
    """Put another version in the place of the installed one."""
    path = machine.package / "__init__.py"
    text = re.sub(r'__version__ = ".*"', f'__version__ = "{version}"', path.read_text())
    path.write_text(text)


def versions(service: Service) -> list[str]:
    return [event.autotune for event in service.events() if isinstance(event, WentOn)]


def test_restart_goes_on_with_an_upgraded_autotune(service: Service) -> None:
    attempt = service.attempts()
    before = service.step(attempt)
    upgrade(service.machine, "99.0")

    service.machine.run("systemctl", "restart", service.unit)

    service.until_it_trains(attempt + 1)
    assert versions(service)[-1] == "99.0"
    assert service.story().attempts[-1].launch.checkpoint_step >= before


def test_upgraded_while_it_runs_the_next_attempt_is_the_new_ones(service: Service) -> None:
    attempt, main = service.attempts(), service.main_pid()
    before, restarts = len(versions(service)), service.shown("NRestarts")
    upgrade(service.machine, "99.1")
    service.crash_rank_0(attempt)

    service.until_it_trains(attempt + 1)
    assert versions(service)[before:] == ["99.1"]
    assert service.main_pid() == main
    assert service.shown("NRestarts") == restarts


def test_after_a_reboot_it_goes_on_by_itself(service: Service) -> None:
    attempt = service.attempts()
    before = service.step(attempt)
    service.machine.reboot()
    service.until_it_trains(attempt + 1)
    assert service.shown("ActiveState") == "active"
    assert service.story().attempts[-1].launch.checkpoint_step >= before


def test_a_save_may_take_longer_than_the_unit_allows_while_the_supervisor_says_so(
    machine: Container,
) -> None:
    slow = Service(machine, "slow", {**LONG, "slow_at": {"5": ["step", 12]}})
    slow.install("TimeoutStopSec=3s\n")
    machine.until(lambda: slow.step(1) == 4, "it is in a long step")
    machine.run("systemctl", "stop", slow.unit)
    assert slow.shown("Result") == "success"
    assert slow.events()[-1] == Ended("stopped", 4)
    ended = slow.story().attempts[-1].evidence
    assert ended is not None
    assert ended.checkpoint_step == 5


def test_giving_up_is_not_started_again(machine: Container) -> None:
    words = "KeyError: 'text'"
    made = Service(machine, "hopeless", {"fail_at": {f"{n}:2": words for n in range(1, 9)}})
    made.install()
    made.until_it_is("failed")
    assert made.shown("ExecMainStatus") == "1"
    assert made.shown("NRestarts") == "0"
    assert isinstance(made.events()[-1], Ended)
    assert made.entries("PRIORITY=3", "AUTOTUNE_EVENT=Ended")


def test_a_finished_job_is_done_and_a_wrong_one_needs_a_person(machine: Container) -> None:
    short = Service(machine, "short", {"total": 12})
    short.install()
    short.until_it_is("inactive")
    assert (short.shown("ExecMainStatus"), short.shown("NRestarts")) == ("0", "0")

    (short.folder / "train.jsonl").write_text("not what it began with\n")
    machine.try_to("systemctl", "start", short.unit)
    short.until_it_is("failed")
    assert (short.shown("ExecMainStatus"), short.shown("NRestarts")) == ("2", "0")


def test_remove_lets_it_save_and_leaves_the_run(service: Service) -> None:
    listed = json.loads(
        service.machine.run(f"{OWN}/bin/autotune", "service", "list", "--system", "--json")
    )
    mine = next(one for one in listed if one["unit"] == service.unit)
    assert (mine["state"], mine["boot"]) == ("active (running)", "enabled")
    assert mine["status"].startswith("attempt ")

    service.remove()

    assert service.shown("ActiveState") == "inactive"
    assert service.events()[-1] == Ended("stopped", 4)
    assert service.machine.try_to("systemctl", "is-enabled", service.unit).stdout != "enabled\n"
    text = service.machine.run(f"{OWN}/bin/autotune", "service", "list", "--system", "--json")
    assert service.unit not in text


def test_a_users_own_manager_runs_it_at_boot_without_a_login(machine: Container) -> None:
    made = Service(machine, "mine", LONG)
    machine.run("loginctl", "enable-linger", USER)
    runtime = f"/run/user/{USER_ID}"
    machine.until((machine.root / f"var/lib/systemd/linger/{USER}").exists, "lingering")
    machine.until(
        lambda: not machine.try_to("test", "-S", f"{runtime}/systemd/private").returncode,
        "a manager of the user's own",
    )
    as_user = ("runuser", "-u", USER, "--", "env", f"XDG_RUNTIME_DIR={runtime}")

    machine.run(*as_user, f"{OWN}/bin/autotune", "service", "install", made.job, "--now")

    show = ("systemctl", "--user", "show", "--value", "--property=StatusText", made.unit)
    machine.until(lambda: "; step " in machine.run(*as_user, *show), "its status")
    machine.run(*as_user, f"{OWN}/bin/autotune", "service", "remove", "mine")
    assert made.events()[-1] == Ended("stopped", 4)
