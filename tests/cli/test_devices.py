"""Only the GPUs that were given are used, and what cannot be told is refused."""

import pytest

from autotune.cli.devices import Chosen, choose_devices
from autotune.core.fault import CannotLaunch, InputError
from autotune.core.seats import Seat
from autotune.world.gpu import Gpus
from tests import builders
from tests.world.test_gpu import FakeNvml

CUDA = {"torch": "2.13.0"}
FOUR = [[], [], [], []]  # type: ignore[var-annotated]


@pytest.fixture(autouse=True)
def nothing_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    """Begin with every GPU visible."""
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)


def chosen(
    use: object = "auto",
    torch: str = "2.13.0",
    taken: tuple[Seat, ...] = (),
    began: int | None = None,
    **changes: object,
) -> Chosen:
    """Return the devices of a job on a machine with four GPUs."""
    job = builders.job(devices={"use": use}, **changes)
    seats = {index: Seat(index) for index in range(4)} | {seat.index: seat for seat in taken}
    return choose_devices(
        job, Gpus(FakeNvml(FOUR)), {"torch": torch}, "job.yaml:1",
        lambda given: tuple(seats[index] for index in given), began,
    )  # fmt: skip


def test_auto_takes_every_gpu_and_a_number_that_many() -> None:
    assert chosen() == Chosen("cuda", (0, 1, 2, 3), 4, (0, 1, 2, 3))
    assert chosen(2) == Chosen("cuda", (0, 1), 2, (0, 1, 2, 3))
    assert chosen([3, 1]) == Chosen("cuda", (3, 1), 2, (3, 1))


LEASED = Seat(0, holder="alice's job")
USED = Seat(1, 9 * 2**30, empty=False, others="bob")


def test_auto_leaves_others_their_gpus_and_a_number_takes_the_freest() -> None:
    assert chosen(taken=(LEASED, USED)).indices == (2, 3)
    assert chosen(1, taken=(LEASED, USED)).indices == (2,)
    assert chosen(3, taken=(LEASED, USED)).indices == (1, 2, 3)
    assert chosen(4, taken=(LEASED, USED)).indices == (0, 1, 2, 3)
    assert chosen(2, taken=(Seat(0, 2**33), Seat(3, 2**35))).indices == (0, 3)
    # These and no others, whoever is there: it waits for them.
    assert chosen([0, 1], taken=(LEASED, USED)).indices == (0, 1)


def test_auto_takes_as_many_as_share_the_batch_and_one_to_wait_for_where_none_is_free() -> None:
    assert chosen(taken=(LEASED,)).ranks == 2  # three would not share 16 samples equally
    everywhere = tuple(Seat(n, holder="alice's job") for n in range(4))
    assert chosen(taken=everywhere).ranks == 1
    assert chosen(taken=(*everywhere[:3], USED)).ranks == 1


def test_a_run_that_has_begun_keeps_its_number_of_ranks_whoever_is_there_now() -> None:
    assert chosen(began=4, taken=(LEASED, USED)).indices == (0, 1, 2, 3)
    assert chosen(began=2).indices == (0, 1)
    assert chosen(2, began=4).ranks == 2  # that the owner's word has changed is said elsewhere


@pytest.mark.parametrize("use", [5, [4], [1, 1]])
def test_more_or_other_gpus_than_there_are_is_refused(use: object) -> None:
    with pytest.raises(InputError, match="asks for"):
        chosen(use)


@pytest.mark.parametrize(
    ("visible", "indices"),
    [
        ("2,3", (2, 3)),
        ("3", (3,)),
        ("GPU-1", (1,)),
        ("0,-1,2", (0,)),
        ("1,NoDevFiles", (1,)),
        ("0,9,1", (0,)),
    ],
)
def test_what_was_hidden_is_not_used(
    visible: str, indices: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert chosen().indices == indices


@pytest.mark.parametrize("visible", ["", "-1", "NoDevFiles"])
def test_with_every_gpu_hidden_it_trains_on_the_cpu(
    visible: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert chosen(2) == Chosen("cpu", (), 2)


@pytest.mark.parametrize("visible", ["MIG-abc", "GPU-9", "first"])
def test_a_gpu_that_cannot_be_told_is_refused(
    visible: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    with pytest.raises(InputError, match="not a GPU that can be told"):
        chosen()


def test_hiding_gpus_through_the_jobs_environment_is_refused() -> None:
    with pytest.raises(InputError, match="the launcher overrides"):
        chosen(env={"CUDA_VISIBLE_DEVICES": "1"})


def test_a_torch_without_cuda_trains_on_the_cpu() -> None:
    assert chosen(torch="2.13.0+cpu").device == "cpu"


def test_a_driver_that_does_not_answer_is_not_a_machine_without_gpus() -> None:
    gpus = Gpus(None, "NVML: Driver/library version mismatch")
    gpus.broken = True
    with pytest.raises(CannotLaunch, match="does not answer"):
        choose_devices(builders.job(), gpus, CUDA, "job.yaml:1", lambda _: ())
