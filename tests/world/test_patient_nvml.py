"""A driver that hangs is mute until it answers again, and no card of it is taken for lost."""

import threading
from collections.abc import Iterator

import pynvml
import pytest

from autotune.cli.devices import choose_devices
from autotune.core.fault import CannotLaunch
from autotune.world.gpu import Gpus, changed
from autotune.world.patient_nvml import PatientNvml
from tests import builders
from tests.world.test_gpu import FakeNvml, Held, Memory


class Hanging(FakeNvml):
    """NVML whose card tells its memory only once it may."""

    may = threading.Event()
    done = threading.Event()

    def nvmlDeviceGetMemoryInfo(self, handle: int) -> Memory:  # noqa: N802
        """Return the memory of a card, in a while."""
        self.may.wait()
        self.done.set()
        return Memory()


@pytest.fixture
def driver() -> Iterator[Hanging]:
    """Return a driver that answers until it is told to hang."""
    driver = Hanging([[Held(1, 30)], [Held(2, 30)]])
    driver.may, driver.done = threading.Event(), threading.Event()
    driver.may.set()
    yield driver
    driver.may.set()


def test_of_a_driver_that_hangs_nothing_is_known_and_no_card_is_lost(driver: Hanging) -> None:
    gpus = Gpus(PatientNvml(driver, seconds=0.05))
    gpus.indices = (0, 1)
    before, heard = gpus.health(), gpus.xid_events()
    assert gpus.uuid_of(0) == "GPU-0-0000"
    driver.may.clear()

    assert gpus.free_bytes() is None
    assert gpus.silent() == ()
    assert gpus.crowd(0) is None
    assert gpus.use([1])[1] is None
    assert not any(card.lost for card in changed(before, gpus.health()))
    assert gpus.uuid_of(0) == "GPU-0-0000"  # or its lease would be given up
    assert heard.read() == []


def test_what_answers_again_is_asked_again(driver: Hanging) -> None:
    gpus = Gpus(PatientNvml(driver, seconds=0.05))
    assert gpus.free_bytes() == 40
    heard = gpus.xid_events()
    driver.may.clear()
    assert gpus.free_bytes() is None

    driver.may.set()
    driver.done.wait()

    driver.xids = [(1, 79)]
    while gpus.free_bytes() is None:  # the late answer is still on its way
        pass
    assert [event.code for event in heard.read()] == [79]


def test_a_call_that_raises_raises_in_who_asked() -> None:
    nvml = PatientNvml(FakeNvml([[]], broken={0}), seconds=5)
    with pytest.raises(pynvml.NVMLError, match="GPU is lost"):
        nvml.nvmlDeviceGetName(0)
    assert nvml.NVML_VOLATILE_ECC == pynvml.NVML_VOLATILE_ECC


def test_a_driver_that_hangs_from_the_start_is_said_to(driver: Hanging) -> None:
    driver.may.clear()
    gpus = Gpus(PatientNvml(driver, seconds=0.05))
    with pytest.raises(CannotLaunch, match="does not answer"):
        choose_devices(builders.job(), gpus, {"torch": "2.13.0"}, "job.yaml")
