"""What systemd is told, over real sockets, and that nobody who does not listen can fail a run."""

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from autotune.world.notify import BeatingClock, Notifier, listening


class Ear:
    """Stands in for systemd."""

    def __init__(self, address: str) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(address)
        self.socket.setblocking(False)

    def heard(self) -> list[str]:
        found = []
        while True:
            try:
                found.append(self.socket.recv(65536).decode())
            except BlockingIOError:
                return found


@pytest.fixture
def ear(tmp_path: Path) -> Iterator[tuple[Ear, str]]:
    address = str(tmp_path / "notify")
    made = Ear(address)
    yield made, address
    made.socket.close()


class Now:
    """A clock that is told what time it is."""

    def __init__(self) -> None:
        self.seconds = 100.0

    def __call__(self) -> float:
        return self.seconds


def test_each_thing_is_said_in_the_protocols_words(ear: tuple[Ear, str]) -> None:
    notifier = Notifier(ear[1], watchdog_seconds=10, monotonic=Now())
    notifier.ready()
    notifier.status("attempt 1: training\nSTOPPING=1")
    notifier.stop()
    notifier.stop()
    assert ear[0].heard() == [
        "READY=1",
        "WATCHDOG_USEC=10000000",
        "WATCHDOG=1",
        "STATUS=attempt 1: training STOPPING=1",
        "STOPPING=1",
        "EXTEND_TIMEOUT_USEC=120000000",
    ]


def test_an_abstract_address_is_spoken_to_as_well() -> None:
    name = f"autotune-test-{os.getpid()}"
    made = Ear("\0" + name)
    Notifier("@" + name).ready()
    assert made.heard() == ["READY=1"]
    made.socket.close()


def test_the_same_status_is_said_once_and_a_long_one_is_cut(ear: tuple[Ear, str]) -> None:
    notifier = Notifier(ear[1])
    notifier.status("step 1")
    notifier.status("step 1")
    notifier.status("é" * 5000)
    first, long = ear[0].heard()
    assert first == "STATUS=step 1"
    assert set(long.removeprefix("STATUS=")) == {"é"}
    assert len(long.encode()) < 1100


def test_a_beat_is_sent_in_half_the_watchdogs_time_and_only_when_the_loop_turns(
    ear: tuple[Ear, str],
) -> None:
    now = Now()
    notifier = Notifier(ear[1], watchdog_seconds=10, monotonic=now)
    for second in range(12):
        now.seconds = 100.0 + second
        notifier.beat()
    assert ear[0].heard() == ["WATCHDOG=1"] * 3  # at 0, 5 and 10 seconds


def test_a_sleep_of_the_loop_is_a_beat(ear: tuple[Ear, str]) -> None:
    BeatingClock(Notifier(ear[1], watchdog_seconds=10)).sleep(0)
    assert ear[0].heard() == ["WATCHDOG=1"]


def test_a_start_over_is_given_the_time_of_a_start(ear: tuple[Ear, str]) -> None:
    Notifier(ear[1], watchdog_seconds=10).begin_anew()
    Notifier(ear[1]).begin_anew()
    assert ear[0].heard() == ["WATCHDOG_USEC=3600000000"]


def test_more_time_is_asked_for_only_while_the_end_is_under_way(ear: tuple[Ear, str]) -> None:
    now = Now()
    notifier = Notifier(ear[1], monotonic=now)
    notifier.beat()
    assert ear[0].heard() == []
    notifier.stop()
    for second in range(60):
        now.seconds = 100.0 + second
        notifier.beat()
    asked = [said for said in ear[0].heard() if said.startswith("EXTEND_")]
    assert len(asked) == 3  # at 0, 20 and 40 seconds


@pytest.mark.parametrize(
    "address", ["/nowhere/notify", "@autotune-nobody-is-here", "@" + "x" * 500]
)
def test_a_listener_that_is_not_there_fails_nothing(address: str) -> None:
    notifier = Notifier(address, watchdog_seconds=1)
    notifier.ready()
    notifier.status("alone")
    notifier.stop()


def test_a_manager_that_does_not_read_fails_nothing(ear: tuple[Ear, str]) -> None:
    notifier = Notifier(ear[1])
    with pytest.MonkeyPatch.context() as patch:

        def full(*_: object) -> int:
            raise TimeoutError("full")

        patch.setattr(socket.socket, "sendto", full)
        notifier.ready()
    assert ear[0].heard() == []


def test_the_names_leave_the_environment_so_that_no_child_speaks_for_us(
    ear: tuple[Ear, str],
) -> None:
    ours = {"WATCHDOG_USEC": "4000000", "WATCHDOG_PID": str(os.getpid()), "PATH": "/bin"}
    environ = {"NOTIFY_SOCKET": ear[1], **ours}
    notifier = listening(environ)
    assert environ == {"PATH": "/bin"}
    notifier.ready()
    assert ear[0].heard() == ["READY=1", "WATCHDOG_USEC=4000000", "WATCHDOG=1"]


def test_a_watchdog_that_watches_another_process_hears_nothing(ear: tuple[Ear, str]) -> None:
    environ = {"NOTIFY_SOCKET": ear[1], "WATCHDOG_USEC": "4000000", "WATCHDOG_PID": "1"}
    listening(environ).ready()
    assert ear[0].heard() == ["READY=1"]


@pytest.mark.parametrize("address", ["", "notify", "vsock:2:1234"])
def test_an_address_of_another_kind_is_nobody(address: str) -> None:
    listening({"NOTIFY_SOCKET": address}).ready()
