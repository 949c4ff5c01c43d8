"""A driver that does not answer is not the job's fault: such a start is tried again."""

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from autotune.cli import wiring
from autotune.cli.check import check
from autotune.core.fault import AutotuneError, CannotLaunch, InputError
from autotune.world.gpu import Gpus
from autotune.world.patient_nvml import PatientNvml
from tests.e2e.fast_job import make_job
from tests.world.test_gpu import FakeNvml


class Mute(FakeNvml):
    """NVML that does not answer before it may."""

    may = threading.Event()

    def nvmlDeviceGetCount(self) -> int:  # noqa: N802
        """Return how many cards there are, one day."""
        self.may.wait()
        return 2


@pytest.fixture(autouse=True)
def mute_driver(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Hang whoever asks the driver, and have the job's torch know of CUDA."""
    driver = Mute([[], []])
    driver.may = threading.Event()
    monkeypatch.delenv("DS_ACCELERATOR", raising=False)
    monkeypatch.setenv("FAST_TORCH", "2.13.0")
    monkeypatch.setattr(wiring, "find_gpus", lambda: Gpus(PatientNvml(driver, seconds=0.05)))
    yield
    driver.may.set()


def refused(job: Path) -> AutotuneError:
    """Return what a start of the job is refused with."""
    with pytest.raises(AutotuneError) as caught:
        wiring.lay_ground(job, None, "run")
    return caught.value


def test_a_sound_job_may_be_started_again_later(tmp_path: Path) -> None:
    error = refused(make_job(tmp_path, devices={"use": 2}, batch={"global": 12, "micro": 6}))
    assert isinstance(error, CannotLaunch)
    assert error.exit_code == 3
    assert [fault.what for fault in error.faults] == [
        "the NVIDIA driver is installed and does not answer (NVML: Timeout)"
    ]


def test_a_job_that_is_wrong_as_well_is_not(tmp_path: Path) -> None:
    error = refused(make_job(tmp_path, policy="defualt"))
    assert isinstance(error, InputError)
    assert error.exit_code == 2
    assert {fault.what[:20] for fault in error.faults} == {
        "the NVIDIA driver is", "`defualt` is not a p",
    }  # fmt: skip


def test_a_check_knows_no_later(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="does not answer"):
        check(make_job(tmp_path))
