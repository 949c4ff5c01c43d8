"""What NVML says is read with care; what it does not say is a gap."""

import inspect
from dataclasses import dataclass, field
from typing import Any

import pynvml
import pytest

from autotune.core.evidence import Card
from autotune.world.gpu import Gpus, changed

NVMLError = pynvml.NVMLError
GIB = 2**30


def lost() -> Exception:
    """Return what NVML raises for a card that fell off the bus."""
    error: Exception = NVMLError(pynvml.NVML_ERROR_GPU_IS_LOST)
    return error


@dataclass
class Place:
    """Where a GPU sits, as NVML gives it."""

    busId: bytes  # noqa: N815 - NVML's name


@dataclass
class Held:
    """One process on a GPU, as NVML lists it."""

    pid: int
    usedGpuMemory: int | None  # noqa: N815 - NVML's name


@dataclass
class Memory:
    """Memory of a GPU, as NVML gives it."""

    total: int = 100
    free: int = 40


@dataclass
class Told:
    """One event, as NVML gives it."""

    device: int
    eventData: int  # noqa: N815 - NVML's name


@dataclass
class FakeNvml:
    """Answers as pynvml does for cards given as lists of processes."""

    cards: list[list[Held]]
    broken: set[int] = field(default_factory=set)
    memory: Memory = field(default_factory=Memory)
    errors: int | None = 0  # uncorrected; None: a card without such memory
    rows: tuple[int, int, int, int] | None = (0, 0, 0, 0)
    pages_pending: int = 0
    reasons: int = 0
    xids: list[tuple[int, int]] = field(default_factory=list)  # card and code, still to be told
    registered: list[int] = field(default_factory=list)
    freed: int = 0
    NVMLError: type[Exception] = NVMLError
    NVMLError_Timeout: type[Exception] = pynvml.NVMLError_Timeout
    nvmlEventTypeXidCriticalError = 8  # noqa: N815
    NVML_MEMORY_ERROR_TYPE_UNCORRECTED = pynvml.NVML_MEMORY_ERROR_TYPE_UNCORRECTED
    NVML_VOLATILE_ECC = pynvml.NVML_VOLATILE_ECC
    nvmlClocksThrottleReasonHwThermalSlowdown = 64  # noqa: N815
    nvmlClocksThrottleReasonHwPowerBrakeSlowdown = 128  # noqa: N815

    def nvmlDeviceGetCount(self) -> int:  # noqa: N802
        """Return the number of cards."""
        return len(self.cards)

    def nvmlDeviceGetHandleByIndex(self, index: int) -> int:  # noqa: N802
        """Return the handle of a card."""
        return index

    def nvmlDeviceGetName(self, handle: int) -> bytes:  # noqa: N802
        """Return the name of a card, which older bindings give as bytes."""
        if handle in self.broken:
            raise lost()
        return b"card"

    def nvmlDeviceGetUUID(self, handle: int) -> str:  # noqa: N802
        """Return the UUID of a card."""
        return f"GPU-{handle}-0000"

    def nvmlDeviceGetMemoryInfo(self, handle: int) -> Any:  # noqa: N802
        """Return the memory of a card."""
        if handle in self.broken:
            raise lost()
        return self.memory

    def nvmlDeviceGetPciInfo(self, handle: int) -> Place:  # noqa: N802
        """Return where a card sits."""
        return Place(f"00000000:{0x3A + handle:02X}:00.0".encode())

    def nvmlDeviceGetTotalEccErrors(  # noqa: N802
        self, handle: int, error_type: int, counter_type: int
    ) -> int:
        """Return how many errors a card's memory had."""
        assert (error_type, counter_type) == (1, 0)
        if self.errors is None:
            raise NVMLError(pynvml.NVML_ERROR_NOT_SUPPORTED)
        return self.errors

    def nvmlDeviceGetRemappedRows(self, device: int) -> tuple[int, int, int, int]:  # noqa: N802
        """Return corrected and uncorrected rows, and whether one is pending or has failed."""
        if self.rows is None:
            raise NVMLError(pynvml.NVML_ERROR_NOT_SUPPORTED)
        return self.rows

    def nvmlDeviceGetRetiredPagesPendingStatus(self, device: int) -> int:  # noqa: N802
        """Return whether a page waits to be retired."""
        return self.pages_pending

    def nvmlEventSetCreate(self) -> str:  # noqa: N802
        """Return a set that can be told of events."""
        return "set"

    def nvmlDeviceRegisterEvents(  # noqa: N802
        self, handle: int, event_types: int, event_set: str
    ) -> None:
        """Tell the set of a card's events from now on."""
        if handle in self.broken:
            raise NVMLError(pynvml.NVML_ERROR_NOT_SUPPORTED)
        self.registered.append(handle)

    def nvmlEventSetWait_v2(self, event_set: str, timeout_ms: int) -> Told:  # noqa: N802
        """Return the next event, or raise as NVML does where there is none."""
        assert timeout_ms == 0
        if not self.xids:
            raise NVMLError(pynvml.NVML_ERROR_TIMEOUT)
        return Told(*self.xids.pop(0))

    def nvmlEventSetFree(self, event_set: str) -> None:  # noqa: N802
        """Forget a set."""
        self.freed += 1

    def nvmlDeviceGetCurrentClocksThrottleReasons(self, handle: int) -> int:  # noqa: N802
        """Return why a card is slowed."""
        return self.reasons

    def nvmlDeviceGetComputeRunningProcesses(self, handle: int) -> list[Held]:  # noqa: N802
        """Return who holds memory on a card."""
        if handle in self.broken:
            raise lost()
        return self.cards[handle]


def test_without_nvml_there_are_no_gpus_and_a_reason() -> None:
    gpus = Gpus(None, "no driver")

    assert gpus.present() == []
    assert gpus.total_bytes() is None
    assert gpus.use([1]) == ([], None, "no driver")


def test_our_processes_are_told_from_others() -> None:
    gpus = Gpus(FakeNvml([[Held(1, 30), Held(9, 20)], [Held(2, 5)]]))

    assert gpus.use([1, 2]) == ([30, 5], 20, None)


def test_only_the_jobs_own_gpus_count() -> None:
    gpus = Gpus(FakeNvml([[Held(1, 30)], [Held(9, 90)]]))
    gpus.indices = (0,)

    assert gpus.use([1]) == ([30], 0, None)


def test_process_ids_of_another_namespace_are_refused_not_guessed() -> None:
    ours, others, why = Gpus(FakeNvml([[Held(70001, 30)]])).use([1])

    assert (ours, others) == ([], None)
    assert why is not None
    assert "container" in why


def test_a_driver_that_does_not_tell_memory_by_process_is_a_gap() -> None:
    assert Gpus(FakeNvml([[Held(1, None)]])).use([1])[2] is not None


def test_a_card_that_fell_off_the_bus_is_passed_over() -> None:
    gpus = Gpus(FakeNvml([[], []], broken={0}))

    assert [gpu.index for gpu in gpus.present()] == [1]
    assert gpus.use([1])[2] == "NVML: GPU is lost"


def test_free_memory_is_that_of_the_fullest_card_in_use_and_a_gap_when_one_is_mute() -> None:
    gpus = Gpus(FakeNvml([[], [], []]))
    assert gpus.free_bytes() == 40
    assert gpus.only((0, 2)).free_bytes() == 40
    lost = Gpus(FakeNvml([[], [], []], broken={1}))
    assert lost.only((0, 1)).free_bytes() is None
    assert lost.only((0, 2)).free_bytes() == 40
    assert Gpus(None, "no driver").free_bytes() is None


def test_a_card_of_the_job_that_does_not_answer_is_named() -> None:
    lost = Gpus(FakeNvml([[], [], []], broken={1}))
    assert lost.only((0, 1, 2)).silent() == (1,)
    assert lost.only((0, 2)).silent() == ()
    assert lost.silent() == ()
    # Where nothing answers, nothing is known of any card.
    assert Gpus(FakeNvml([[], []], broken={0, 1})).only((0, 1)).silent() == ()
    assert Gpus(None).only((0,)).silent() == ()


@pytest.mark.parametrize("name", [n for n in dir(FakeNvml) if n.startswith("nvml")])
def test_the_fake_keeps_the_contract_of_the_real_module(name: str) -> None:
    real, fake = getattr(pynvml, name), getattr(FakeNvml, name)
    assert callable(real) == callable(fake)
    if callable(real):
        needed = [
            p.name for p in inspect.signature(real).parameters.values() if p.default is p.empty
        ]
        assert len(inspect.signature(fake).parameters) - 1 == len(needed)
    else:
        assert real == fake


def test_memory_that_nobody_is_said_to_hold_hides_us_and_the_reading_is_refused() -> None:
    full = FakeNvml([[]], memory=Memory(80 * GIB, 30 * GIB))
    ours, others, why = Gpus(full).use([1])
    assert (ours, others) == ([], None)
    assert why is not None
    drivers_own = FakeNvml([[]], memory=Memory(80 * GIB, 79 * GIB))
    assert Gpus(drivers_own).use([1]) == ([], 0, None)


def test_the_fullest_of_our_cards_says_what_is_free() -> None:
    assert Gpus(FakeNvml([[], []])).free_bytes() == 40
    part = Gpus(FakeNvml([[], []], broken={1}))
    part.indices = (0, 1)
    assert part.free_bytes() is None
    assert Gpus(None, "no driver").free_bytes() is None


def test_only_what_broke_meanwhile_is_told_of_a_card() -> None:
    nvml = FakeNvml([[]], errors=3, rows=(0, 1, 1, 0))
    gpus = Gpus(nvml)
    before = gpus.health()
    assert changed(before, gpus.health()) == (Card(0, "0000:3a:00", False, 0, False, False),)

    nvml.errors, nvml.rows = 5, (0, 2, 1, 1)
    nvml.reasons = nvml.nvmlClocksThrottleReasonHwThermalSlowdown
    assert changed(before, gpus.health()) == (
        Card(0, "0000:3a:00", False, 2, False, True, ("heat",)),
    )


def test_a_card_that_stops_answering_is_lost_and_one_that_never_did_is_not() -> None:
    nvml = FakeNvml([[], []], broken={1})
    gpus = Gpus(nvml)
    before = gpus.health()
    nvml.broken = {0, 1}
    assert [(card.index, card.lost) for card in changed(before, gpus.health())] == [(0, True)]


def test_what_an_older_card_does_not_count_is_unknown_not_zero() -> None:
    nvml = FakeNvml([[]], errors=None, rows=None)
    gpus = Gpus(nvml)
    before = gpus.health()
    nvml.pages_pending = 1
    (card,) = changed(before, gpus.health())
    assert (card.uncorrected_errors, card.remap_failed) == (None, None)
    assert card.remap_pending is True


def test_the_health_of_cards_that_are_not_ours_is_not_asked() -> None:
    gpus = Gpus(FakeNvml([[], [], []]))
    gpus.indices = (2,)
    assert list(gpus.health()) == [2]


def test_xids_are_heard_through_nvml_without_waiting() -> None:
    nvml = FakeNvml([[], [], []])
    gpus = Gpus(nvml)
    gpus.indices = (0, 1)
    heard = gpus.xid_events()
    assert nvml.registered == [0, 1]
    assert heard.read() == []
    nvml.xids = [(1, 79), (0, 31)]
    assert [(x.bus_id, x.code) for x in heard.read()] == [("0000:3b:00", 79), ("0000:3a:00", 31)]
    heard.close()
    assert nvml.freed == 1
    assert heard.read() == []


def test_a_driver_that_does_not_tell_xids_is_not_asked_again() -> None:
    nvml = FakeNvml([[], []])
    gpus = Gpus(nvml)
    gpus.present()
    nvml.broken = {1}
    silent = gpus.xid_events()
    assert nvml.freed == 1
    assert silent.read() == []


def test_a_flood_of_xids_is_heard_in_parts() -> None:
    nvml = FakeNvml([[]], xids=[(0, 31)] * 100)
    heard = Gpus(nvml).xid_events()
    assert [len(heard.read()), len(heard.read()), len(heard.read())] == [64, 36, 0]
