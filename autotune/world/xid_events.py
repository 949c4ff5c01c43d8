"""Hears of Xids through NVML, which tells them where the kernel's log may not be read."""

import contextlib
import time
from typing import Any

from autotune.core.evidence import KernelEvent
from autotune.core.kernel_message import normal_bus_id

MOST_AT_ONCE = 64


class XidEvents:
    """The Xids of some GPUs from now on; silent where the driver does not tell them."""

    def __init__(self, nvml: Any | None, indices: list[int]) -> None:
        """Ask NVML to tell of the Xids of the GPUs at `indices`."""
        self._nvml = nvml
        self._set: Any | None = None
        self._began = time.monotonic()
        if nvml is None or not indices:
            return
        try:
            self._set = nvml.nvmlEventSetCreate()
            for index in indices:
                handle = nvml.nvmlDeviceGetHandleByIndex(index)
                nvml.nvmlDeviceRegisterEvents(handle, nvml.nvmlEventTypeXidCriticalError, self._set)
        except nvml.NVMLError:
            self.close()

    def read(self) -> list[KernelEvent]:
        """Return what was told since the last look, without waiting for more."""
        found: list[KernelEvent] = []
        nvml = self._nvml
        while self._set is not None and nvml is not None and len(found) < MOST_AT_ONCE:
            try:
                data = nvml.nvmlEventSetWait_v2(self._set, 0)
                place = nvml.nvmlDeviceGetPciInfo(data.device).busId
            except nvml.NVMLError_Timeout:
                break
            except nvml.NVMLError:
                self.close()  # a lost card ends the telling; its loss is seen in its health
                break
            bus_id = normal_bus_id(place.decode() if isinstance(place, bytes) else str(place))
            code, seconds = int(data.eventData), round(time.monotonic() - self._began, 1)
            text = f"NVML tells of Xid {code} on the GPU at {bus_id}"
            found.append(KernelEvent("xid", text, seconds=seconds, bus_id=bus_id, code=code))
        return found

    def close(self) -> None:
        """Hear no more."""
        if self._set is not None and self._nvml is not None:
            # A driver past caring keeps the set until our process goes.
            with contextlib.suppress(self._nvml.NVMLError):
                self._nvml.nvmlEventSetFree(self._set)
        self._set = None
