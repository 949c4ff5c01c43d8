"""What NVML says is read with care; what it does not say is a gap."""

from dataclasses import dataclass, field
from typing import Any

from autotune.world.gpu import Gpus


class NVMLError(Exception):
    """Stands for pynvml's own."""


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
class FakeNvml:
    """Answers as pynvml does for cards given as lists of processes."""

    cards: list[list[Held]]
    broken: set[int] = field(default_factory=set)
    NVMLError: type[Exception] = NVMLError

    def nvmlDeviceGetCount(self) -> int:  # noqa: N802
        """Return the number of cards."""
        return len(self.cards)

    def nvmlDeviceGetHandleByIndex(self, index: int) -> int:  # noqa: N802
        """Return the handle of a card."""
        return index

    def nvmlDeviceGetName(self, handle: int) -> bytes:  # noqa: N802
        """Return the name of a card, which older bindings give as bytes."""
        if handle in self.broken:
            raise NVMLError("GPU is lost")
        return b"card"

    def nvmlDeviceGetUUID(self, handle: int) -> str:  # noqa: N802
        """Return the UUID of a card."""
        return f"GPU-{handle}-0000"

    def nvmlDeviceGetMemoryInfo(self, handle: int) -> Any:  # noqa: N802
        """Return the memory of a card."""
        if handle in self.broken:
            raise NVMLError("GPU is lost")
        return Memory()

    def nvmlDeviceGetComputeRunningProcesses(self, handle: int) -> list[Held]:  # noqa: N802
        """Return who holds memory on a card."""
        if handle in self.broken:
            raise NVMLError("GPU is lost")
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
