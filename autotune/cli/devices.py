"""Chooses the devices of a job among those its owner was given, and refuses what is unclear."""

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from autotune.core.fault import CannotLaunch, Fault, InputError
from autotune.core.job import Job
from autotune.core.plan import Device
from autotune.core.seats import Seat, first_devices
from autotune.world.gpu import Gpus

MOST_CPU_RANKS = 2
VISIBLE = "CUDA_VISIBLE_DEVICES"


@dataclass(frozen=True)
class Chosen:
    """What a job trains on; `indices` are NVML's, empty on the CPU, and so are `given`."""

    device: Device
    indices: tuple[int, ...]
    ranks: int
    given: tuple[int, ...] = ()  # all that the owner let it have


def choose_devices(
    job: Job,
    gpus: Gpus,
    installed: Mapping[str, str],
    where: str,
    look: Callable[[tuple[int, ...]], tuple[Seat, ...]] | None = None,
    began: int | None = None,
) -> Chosen:
    """Return the devices of the job; raises InputError when they cannot be had or told.

    Raises CannotLaunch where the driver does not answer.

    `look` says how GPUs are now (without it nobody is on any), and `began` with how many ranks an
    earlier start of the run did.
    """
    if VISIBLE in job.env:
        text = f"`env` sets {VISIBLE}, which the launcher overrides"
        raise InputError(Fault(text, where, "name the GPUs under `devices.use`"))
    cpu_build = installed.get("torch", "").endswith("+cpu")
    gpus.present()  # asking tells whether the driver answers
    if gpus.broken and not cpu_build:
        text = f"the NVIDIA driver is installed and does not answer ({gpus.why_none})"
        hint = "mend the driver, or set DS_ACCELERATOR=cpu to train on the CPU"
        # Not the job's fault, and it may pass: a service is started again.
        raise CannotLaunch(Fault(text, where, hint))
    given = _given(gpus, os.environ.get(VISIBLE), where)
    use = job.devices.use
    if cpu_build or not given:
        if isinstance(use, list):
            text = "`devices.use` names GPUs, and the training would run on the CPU"
            why = "the torch build has no CUDA" if cpu_build else gpus.why_none
            raise InputError(Fault(text, where, why or f"{VISIBLE} hides them"))
        ranks = use if isinstance(use, int) else min(MOST_CPU_RANKS, os.cpu_count() or 1)
        return Chosen("cpu", (), ranks)
    # A list is these and no others, whoever is there.
    seats = tuple(map(Seat, given))
    if look is not None and not isinstance(use, list):
        seats = look(tuple(given))
    chosen = first_devices(use, seats, job.batch.global_ if job.batch else 0, began)
    if chosen is None:
        text = f"`devices.use` asks for {use}, and the GPUs given to us are {given}"
        raise InputError(Fault(text, where, "name fewer, or say auto"))
    return Chosen("cuda", chosen, len(chosen), chosen if isinstance(use, list) else tuple(given))


def _given(gpus: Gpus, visible: str | None, where: str) -> list[int]:
    """Return the GPUs that CUDA_VISIBLE_DEVICES leaves us; unset leaves all of them."""
    present = [gpu.index for gpu in gpus.present()]
    if visible is None:
        return present
    given: list[int] = []
    for part in (part.strip() for part in visible.split(",")):
        if part.isdigit() and int(part) in present:
            given.append(int(part))
        elif part.startswith("GPU-") and (index := gpus.index_of(part)) is not None:
            given.append(index)
        elif part in ("", "-1", "NoDevFiles") or part.isdigit():
            break  # CUDA reads up to the first one that is none
        elif present:
            text = f"{VISIBLE} names `{part}`, which is not a GPU that can be told here"
            raise InputError(Fault(text, where, "name indices or GPU UUIDs; MIG is not supported"))
    return given
