"""Signals that ask for an end are counted, and a notice before one of them does not hurry."""

import os
import signal
from collections.abc import Iterator

import pytest

from autotune.world.interrupts import SignalWatch

ALL = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)


@pytest.fixture
def watch() -> Iterator[SignalWatch]:
    before = {number: signal.getsignal(number) for number in ALL}
    watch = SignalWatch()
    watch.install()
    yield watch
    for number, handler in before.items():
        signal.signal(number, handler)


def heard(watch: SignalWatch, *numbers: signal.Signals) -> tuple[str | None, bool]:
    for number in numbers:
        os.kill(os.getpid(), number)
    read = watch.read()
    return read.stop_by, read.hurry


def test_nothing_is_asked_for_before_a_signal(watch: SignalWatch) -> None:
    assert heard(watch) == (None, False)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2])
def test_each_of_them_asks_to_stop(watch: SignalWatch, number: signal.Signals) -> None:
    assert heard(watch, number) == (number.name, False)


def test_what_a_scheduler_sends_after_its_notice_does_not_hurry(watch: SignalWatch) -> None:
    assert heard(watch, signal.SIGUSR1, signal.SIGTERM) == ("SIGUSR1", False)
    assert heard(watch, signal.SIGTERM) == ("SIGUSR1", True)


def test_notices_alone_never_hurry(watch: SignalWatch) -> None:
    assert heard(watch, signal.SIGUSR1, signal.SIGUSR2, signal.SIGUSR1) == ("SIGUSR1", False)
