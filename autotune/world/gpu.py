"""What NVML says of the GPUs and of who holds their memory; its absence is a gap, not a zero."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from autotune.core.evidence import Card
from autotune.core.kernel_message import normal_bus_id
from autotune.world.patient_nvml import PatientNvml
from autotune.world.xid_events import XidEvents

# Memory in use that NVML's list of processes leaves out: the driver's own share stays below it.
_UNLISTED_BYTES = 2 * 2**30


@dataclass(frozen=True)
class Gpu:
    """One GPU as seen at one moment."""

    index: int
    name: str
    total_bytes: int
    free_bytes: int


@dataclass(frozen=True)
class Crowd:
    """Who is on one GPU at one moment."""

    total_bytes: int
    free_bytes: int
    held: dict[int, int | None] | None  # bytes by process; None: the driver does not list them

    @property
    def nobody(self) -> bool:
        """Whether no process is listed, and no more is held than by the driver itself."""
        return not self.held and self.total_bytes - self.free_bytes <= _UNLISTED_BYTES


@dataclass(frozen=True)
class Health:
    """What NVML tells of the health of one GPU at one moment; None where it does not tell."""

    bus_id: str = ""
    answers: bool | None = True  # None: the driver as a whole did not answer in time
    uncorrected_errors: int | None = None
    remap_pending: bool | None = None
    remap_failed: bool | None = None
    slowed_by: tuple[str, ...] = ()


class Gpus:
    """The GPUs this process may use, or none."""

    def __init__(self, nvml: Any | None, why_none: str = "") -> None:
        """Wrap an initialised pynvml module; None means no GPU can be seen, and why."""
        self._nvml = nvml
        self.why_none = why_none
        self.broken = False  # a driver is installed and cannot be asked
        self.indices: tuple[int, ...] | None = None  # of the job; None: all of the machine
        self._present: list[Gpu] | None = None
        self._uuids: dict[int, str] = {}  # a driver that hangs must not cost us a lease

    def present(self) -> list[Gpu]:
        """Return every GPU that answers, in index order, as it was when first asked."""
        if self._present is None:
            try:
                self._present = self._ask() if self._nvml is not None else []
            except self._nvml.NVMLError as error:  # type: ignore[union-attr]
                self._present, self.broken, self.why_none = [], True, f"NVML: {error}"
        return self._present

    def _ask(self) -> list[Gpu]:
        nvml: Any = self._nvml
        found = []
        for index in range(nvml.nvmlDeviceGetCount()):
            try:
                handle = nvml.nvmlDeviceGetHandleByIndex(index)
                name = nvml.nvmlDeviceGetName(handle)
                memory = nvml.nvmlDeviceGetMemoryInfo(handle)
            except nvml.NVMLError_Timeout:
                raise  # the driver hangs, and nothing is known of any card
            except nvml.NVMLError:
                continue  # a GPU that fell off the bus does not answer
            text = name.decode() if isinstance(name, bytes) else str(name)
            found.append(Gpu(index, text, int(memory.total), int(memory.free)))
        return found

    def total_bytes(self) -> int | None:
        """Return the memory of the job's smallest GPU."""
        sizes = (gpu.total_bytes for gpu in self.present() if self._ours(gpu.index))
        return min(sizes, default=None)

    def free_bytes(self) -> int | None:
        """Return what is free now on the fullest of the job's GPUs, or None where NVML is mute."""
        now = [gpu for gpu in self._answering() if self._ours(gpu.index)]
        if not now or (self.indices is not None and len(now) != len(self.indices)):
            return None
        return min(gpu.free_bytes for gpu in now)

    def _answering(self) -> list[Gpu]:
        if self._nvml is None:
            return []
        try:
            return self._ask()
        except self._nvml.NVMLError:
            return []

    def use(self, pids: Sequence[int]) -> tuple[list[int], int | None, str | None]:
        """Return bytes held by each of `pids`, by others on one of our GPUs, and why not, if not.

        In a container NVML names process ids of the host; then ours cannot be found among them
        and the reading is refused rather than guessed.
        """
        if self._nvml is None:
            return [], None, self.why_none
        ours: list[int] = []
        others = unlisted = 0
        try:
            for index in range(self._nvml.nvmlDeviceGetCount()):
                if not self._ours(index):
                    continue
                handle = self._nvml.nvmlDeviceGetHandleByIndex(index)
                foreign = listed = 0
                for process in self._nvml.nvmlDeviceGetComputeRunningProcesses(handle):
                    held = getattr(process, "usedGpuMemory", None)
                    if held is None:
                        return [], None, "NVML does not tell memory by process here"
                    listed += int(held)
                    if process.pid in pids:
                        ours.append(int(held))
                    else:
                        foreign += int(held)
                others = max(others, foreign)
                memory = self._nvml.nvmlDeviceGetMemoryInfo(handle)
                unlisted = max(unlisted, int(memory.total - memory.free) - listed)
        except self._nvml.NVMLError as error:
            return [], None, f"NVML: {error}"
        if pids and not ours and (others or unlisted > _UNLISTED_BYTES):
            return [], None, "NVML's process ids are not ours (a container?)"
        return ours, others, None

    def crowd(self, index: int) -> Crowd | None:
        """Return who is on one GPU, whosever it is; None where it does not answer."""
        if self._nvml is None:
            return None
        try:
            handle = self._nvml.nvmlDeviceGetHandleByIndex(index)
            memory = self._nvml.nvmlDeviceGetMemoryInfo(handle)
        except self._nvml.NVMLError:
            return None
        try:
            listed = self._nvml.nvmlDeviceGetComputeRunningProcesses(handle)
            held = {one.pid: getattr(one, "usedGpuMemory", None) for one in listed}
        except self._nvml.NVMLError:
            held = None
        return Crowd(int(memory.total), int(memory.free), held)

    def uuid_of(self, index: int) -> str:
        """Return what names a GPU on this machine and any other; "" where it does not answer."""
        if self._nvml is None:
            return ""
        if index not in self._uuids:
            try:
                handle = self._nvml.nvmlDeviceGetHandleByIndex(index)
                found = self._nvml.nvmlDeviceGetUUID(handle)
            except self._nvml.NVMLError:
                return ""
            text = found.decode("ascii", "replace") if isinstance(found, bytes) else str(found)
            self._uuids[index] = text
        return self._uuids[index]

    def health(self) -> dict[int, "Health"]:
        """Return the health of each of the job's GPUs; of one that is lost, only that."""
        found = {}
        for gpu in self.present():
            if self._ours(gpu.index):
                found[gpu.index] = _health(self._nvml, gpu.index)
        return found

    def xid_events(self) -> XidEvents:
        """Return what hears of the Xids of the job's GPUs from now on."""
        return XidEvents(self._nvml, [g.index for g in self.present() if self._ours(g.index)])

    def name_of(self, index: int) -> str:
        """Return what the driver calls a GPU; nothing where it does not answer."""
        return next((gpu.name for gpu in self.present() if gpu.index == index), "")

    def index_of(self, uuid: str) -> int | None:
        """Return the index of the GPU with this UUID, or one that begins so."""
        for gpu in self.present():
            if self.uuid_of(gpu.index).startswith(uuid):
                return gpu.index
        return None

    def _ours(self, index: int) -> bool:
        return self.indices is None or index in self.indices

    def only(self, indices: tuple[int, ...] | None) -> "Gpus":
        """Return these GPUs of the machine; None: all of them."""
        part = Gpus(self._nvml, self.why_none)
        part.indices, part.broken, part._present = indices, self.broken, self._present
        part._uuids = self._uuids
        return part

    def silent(self) -> tuple[int, ...]:
        """Return those of the job's GPUs that do not answer now, where NVML does at all."""
        answering = {gpu.index for gpu in self._answering()}
        return tuple(i for i in self.indices or () if i not in answering) if answering else ()


def find_gpus() -> Gpus:
    """Return the machine's GPUs through NVML; DS_ACCELERATOR=cpu in our environment hides them."""
    if os.environ.get("DS_ACCELERATOR") == "cpu":
        return Gpus(None, "DS_ACCELERATOR=cpu asks for the CPU")
    try:
        import pynvml
    except ImportError:
        return Gpus(None, "pynvml is not installed")
    nvml = PatientNvml(pynvml)
    try:
        nvml.nvmlInit()
    except pynvml.NVMLError_LibraryNotFound:
        return Gpus(None, "no NVIDIA driver is installed")
    except pynvml.NVMLError as error:
        # A driver is there and does not answer: not the same as a machine without GPUs.
        gpus = Gpus(None, f"NVML: {error}")
        gpus.broken = True
        return gpus
    return Gpus(nvml)


def changed(before: dict[int, Health], after: dict[int, Health]) -> tuple[Card, ...]:
    """Return what became of each GPU; a fault it had before is not of this attempt."""
    cards = []
    for index, old in before.items():
        new = after.get(index, Health(answers=False))
        errors = None
        if old.uncorrected_errors is not None and new.uncorrected_errors is not None:
            errors = max(0, new.uncorrected_errors - old.uncorrected_errors)
        cards.append(
            Card(
                index, old.bus_id, bool(old.answers) and new.answers is False, errors,
                _newly(old.remap_pending, new.remap_pending),
                _newly(old.remap_failed, new.remap_failed), new.slowed_by,
            )
        )  # fmt: skip
    return tuple(cards)


def _newly(before: bool | None, after: bool | None) -> bool | None:
    return None if before is None or after is None else after and not before


def _health(nvml: Any, index: int) -> Health:
    try:
        handle = nvml.nvmlDeviceGetHandleByIndex(index)
        nvml.nvmlDeviceGetMemoryInfo(handle)
    except nvml.NVMLError_Timeout:
        return Health(answers=None)
    except nvml.NVMLError:
        return Health(answers=False)

    def ask(read: Any, *arguments: Any) -> Any:
        """What this card, or this driver, does not know is None."""
        try:
            return read(handle, *arguments)
        except nvml.NVMLError:
            return None

    place = ask(nvml.nvmlDeviceGetPciInfo)
    bus_id = getattr(place, "busId", b"")
    text = bus_id.decode("ascii", "replace") if isinstance(bus_id, bytes) else str(bus_id)
    rows = ask(nvml.nvmlDeviceGetRemappedRows)  # corrected, uncorrected, pending, failed
    pages = ask(nvml.nvmlDeviceGetRetiredPagesPendingStatus)  # before Ampere there are no rows
    pending = bool(rows[2]) if rows is not None else None if pages is None else bool(pages)
    errors = ask(
        nvml.nvmlDeviceGetTotalEccErrors,
        nvml.NVML_MEMORY_ERROR_TYPE_UNCORRECTED, nvml.NVML_VOLATILE_ECC,
    )  # fmt: skip
    return Health(
        bus_id=normal_bus_id(text),
        uncorrected_errors=None if errors is None else int(errors),
        remap_pending=pending,
        remap_failed=None if rows is None else bool(rows[3]),
        slowed_by=_slowed_by(nvml, ask(nvml.nvmlDeviceGetCurrentClocksThrottleReasons)),
    )


def _slowed_by(nvml: Any, reasons: int | None) -> tuple[str, ...]:
    names = {
        "heat": nvml.nvmlClocksThrottleReasonHwThermalSlowdown,
        "power brake": nvml.nvmlClocksThrottleReasonHwPowerBrakeSlowdown,
    }
    return tuple(name for name, bit in names.items() if (reasons or 0) & bit)
