"""How a GPU is at this moment is told from NVML and its lease, and no name is made up."""

import os
from pathlib import Path

import pytest

from autotune.world import seats
from autotune.world.gpu import Gpus
from autotune.world.leases import Leases
from tests.world.test_gpu import GIB, FakeNvml, Held, Memory


@pytest.fixture
def leases(tmp_path: Path) -> Leases:
    """Return the leases of a place of the test's own."""
    return Leases("our-job", tmp_path)


def test_an_empty_card_is_free_and_one_that_does_not_answer_says_nothing(leases: Leases) -> None:
    gpus = Gpus(FakeNvml([[], []], memory=Memory(80 * GIB, 79 * GIB), broken={1}))
    empty, silent = seats.look(gpus, (0, 1), leases)
    assert (empty.free_bytes, empty.empty, empty.others) == (79 * GIB, True, "")
    assert (silent.free_bytes, silent.total_bytes, silent.others) == (None, None, "")


def test_a_leased_card_names_the_holder(leases: Leases, tmp_path: Path) -> None:
    gpus = Gpus(FakeNvml([[], []], memory=Memory(80 * GIB, 79 * GIB)))
    theirs = Leases("their-job", tmp_path)
    theirs.take([gpus.uuid_of(1)])
    free, leased = seats.look(gpus, (0, 1), leases)
    assert free.holder == ""
    assert f"their-job (process {os.getpid()})" in leased.holder
    theirs.release()


@pytest.mark.parametrize("joins", [True, False])
def test_who_is_on_a_card_is_named_only_where_process_ids_join(
    joins: bool, leases: Leases, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(seats, "ids_are_the_machines", lambda: joins)
    held = [Held(os.getpid(), 50 * GIB), Held(2**22 + 9, None)]
    gpus = Gpus(FakeNvml([held], memory=Memory(80 * GIB, 20 * GIB)))
    (seat,) = seats.look(gpus, (0,), leases)
    assert not seat.empty
    if joins:
        assert f"process {os.getpid()} holds 50.00 GiB" in seat.others
        assert f"process {2**22 + 9} holds some of it" in seat.others
    else:
        assert seat.others == "processes that cannot be named from here hold 60.00 GiB"


def test_memory_that_nobody_is_said_to_hold_is_somebodys(leases: Leases) -> None:
    (seat,) = seats.look(Gpus(FakeNvml([[]], memory=Memory(80 * GIB, 20 * GIB))), (0,), leases)
    assert not seat.empty
    assert "cannot be named" in seat.others
