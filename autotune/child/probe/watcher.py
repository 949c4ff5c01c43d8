"""A thread in each rank that hears the supervisor while the rank itself may sit in a collective."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from typing import Any

from . import control, faults, moments, settings

POLL_SECONDS = 0.2
STACK_BYTES = 512 * 1024  # the default, 8 MiB, would count against a limit as if it were used

heard = 0.0  # monotonic seconds when the control file last changed, or an answer was finished
answering = False
_handlers: dict[str, Callable[[dict[str, Any]], Any]] = {}
_thread: threading.Thread | None = None
_date: int | None = None


def listen() -> None:
    moments.on("engine_made", begin)


def when_told(command: str, handler: Callable[[dict[str, Any]], Any]) -> None:
    """Call `handler` from the thread when the supervisor says `command`, once for each writing."""
    _handlers[command] = faults.guarded(handler)


def begin(**_: Any) -> None:
    """Start the thread, once there is an engine whose state could be saved."""
    global _thread
    if _thread is not None:
        return
    before = threading.stack_size(STACK_BYTES)
    try:
        thread = threading.Thread(target=watch, name="autotune-watcher", daemon=True)
        thread.start()
        _thread = thread
    finally:
        threading.stack_size(before)


def watch() -> None:
    while True:
        faults.guarded(look)()
        time.sleep(POLL_SECONDS)


def look() -> None:
    """Answer what is new. A file that was only touched says that the supervisor is alive."""
    global heard, answering, _date
    try:
        date = os.stat(settings.get("control")).st_mtime_ns
    except OSError:  # there is none yet
        return
    if date == _date:
        return
    _date, heard = date, time.monotonic()
    word = control.word()
    handler = _handlers.get(str(word.get("command")))
    if handler is not None:
        answering = True
        try:
            handler(word)
        finally:
            answering, heard = False, time.monotonic()
