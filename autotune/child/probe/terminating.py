"""Turns SIGTERM, where the program has no handler, into a save at the next step boundary.

The answer is given by a thread, woken by the signal's arrival in C: the main thread may be waiting
in a collective where no handler of Python's would ever run. A second signal, one that the
supervisor sends to end things, one after a peer's death and one before the first step end the
process as if we were not there.
"""

from __future__ import annotations

import functools
import os
import signal
import threading
from typing import Any

from . import control, faults, moments, settings, state

STACK_BYTES = 256 * 1024  # of the thread; a default one would count 8 MiB against the limit


def listen() -> None:
    """Begin to answer when the steps begin; before that there is nothing to save."""
    moments.on("steps_begin", answer)


def answer(**_: Any) -> None:
    """Take the signal where Python's default has it, in the main thread, once."""
    if signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        return
    if threading.current_thread() is not threading.main_thread() or state.trainer is None:
        return
    awake, wake = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
    os.set_blocking(awake, True)
    before = signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
    if before != -1:  # an event loop of the program's own listens there
        signal.set_wakeup_fd(before)
        os.close(awake)
        os.close(wake)
        return
    signal.signal(signal.SIGTERM, nothing)
    signal.siginterrupt(signal.SIGTERM, False)  # system calls of native code go on
    size = threading.stack_size(STACK_BYTES)
    threading.Thread(target=listen_for, args=(awake,), name="autotune-term", daemon=True).start()
    threading.stack_size(size)
    # A forked child, a loader's worker above all, must die of the signal as ever.
    # Held back meanwhile: it must not reach the child while that still answers as we do.
    os.register_at_fork(
        before=functools.partial(mask, signal.SIG_BLOCK),
        after_in_parent=functools.partial(mask, signal.SIG_UNBLOCK),
        after_in_child=faults.guarded(forget),
    )


def nothing(*_: Any) -> None:
    """Python's own part of the answer."""


def forget() -> None:
    """Be as if we had never been, in a child that was forked."""
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    mask(signal.SIG_UNBLOCK)


def mask(how: int) -> None:
    signal.pthread_sigmask(how, {signal.SIGTERM})


def listen_for(awake: int) -> None:
    """Wait for the signal's number; others come along here too."""
    while True:
        for number in os.read(awake, 64):
            if number == signal.SIGTERM:
                faults.guarded(told_to_end)()


def told_to_end() -> None:
    """Ask for a stop, or end now where no boundary will come or nobody waits for one."""
    if signal.getsignal(signal.SIGTERM) is not nothing:  # the program has one of its own by now
        return
    if not state.training or control.command() in ("stop", "end", "release") or a_peer_is_gone():
        end_now()
    else:
        control.ask_stop(f"supervisor: rank {state.rank()} was told to end by SIGTERM")


def end_now() -> None:
    """Die of SIGTERM by the kernel's default, whatever the main thread waits for."""
    import ctypes

    ctypes.CDLL(None).signal(int(signal.SIGTERM), None)
    os.kill(os.getpid(), signal.SIGTERM)


def a_peer_is_gone() -> bool:
    """Whether a rank on this machine that began beside this one runs no more."""
    import json

    folder = settings.get("events")
    for name in os.listdir(folder):
        with open(os.path.join(folder, name), encoding="utf-8", errors="replace") as file:
            for _, line in zip(range(8), file, strict=False):
                event = json.loads(line)
                if event.get("kind") in ("armed", "start") and not alive(int(event["pid"])):
                    return True
    return False


def alive(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as file:
            return file.read().rpartition(")")[2].split()[0] not in "ZX"
    except (OSError, IndexError):
        return False
