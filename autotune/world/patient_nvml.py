"""Asks NVML in a thread of its own, so that a driver that hangs is a gap and not our end."""

import threading
from collections.abc import Callable
from concurrent.futures import Future
from concurrent.futures import TimeoutError as Late
from queue import SimpleQueue
from typing import Any

# The first answer of a driver that is not kept loaded takes seconds for each of the cards.
ANSWER_SECONDS = 30.0

Call = tuple["Future[Any]", Callable[..., Any], tuple[Any, ...]]


class PatientNvml:
    """pynvml, of which a call that does not return in time raises NVMLError_Timeout.

    While that call is under way every other raises the same at once: NVML answers one at a time,
    and what hangs in the kernel cannot be called back.
    """

    def __init__(self, nvml: Any, seconds: float = ANSWER_SECONDS) -> None:
        """Ask `nvml`, and wait `seconds` for an answer."""
        self._nvml = nvml
        self._seconds = seconds
        self._calls: SimpleQueue[Call] = SimpleQueue()
        self._thread: threading.Thread | None = None
        self._late: Future[Any] | None = None

    def __getattr__(self, name: str) -> Any:
        """Return a function of NVML that is waited for, or a constant or class as it is."""
        found = getattr(self._nvml, name)
        if isinstance(found, type) or not callable(found):
            return found
        return lambda *arguments: self._ask(found, arguments)

    def _ask(self, call: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
        if self._late is not None and not self._late.done():
            raise self._nvml.NVMLError_Timeout
        if self._thread is None:
            # A daemon: our process ends whether the driver answers or not.
            self._thread = threading.Thread(target=self._answer, name="nvml", daemon=True)
            self._thread.start()
        answer: Future[Any] = Future()
        self._calls.put((answer, call, arguments))
        try:
            return answer.result(self._seconds)
        except Late:
            self._late = answer
            raise self._nvml.NVMLError_Timeout from None

    def _answer(self) -> None:
        while True:
            answer, call, arguments = self._calls.get()
            try:
                answer.set_result(call(*arguments))
            except BaseException as error:
                answer.set_exception(error)
