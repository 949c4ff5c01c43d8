"""Turns SIGTERM and a scheduler's notices into a save at the next step boundary.

Only where the program has no handler. The answer is given by a thread, woken by the signal's
arrival in C: the main thread may be waiting in a collective where no handler of Python's would ever
run. A SIGTERM by which the supervisor means the end, one after a peer's death and one before the
first step end the process as if we were not there; a scheduler, its launcher and the supervisor
may all send one for the same end, so a second one is no hurry.
"""

from __future__ import annotations

import functools
import os
import signal
import threading
from collections.abc import Iterable
from typing import Any

from . import control, events, faults, moments, settings, state

STACK_BYTES = 256 * 1024  # of the thread; a default one would count 8 MiB against the limit

NOTICES = (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)


def listen() -> None:
    """Begin to answer when the steps begin; before that there is nothing to save."""
    moments.on("steps_begin", answer)


def answer(**_: Any) -> None:
    """Take the signals that the program leaves to their default, in the main thread, once."""
    if threading.current_thread() is not threading.main_thread() or state.trainer is None:
        return
    ours = [number for number in NOTICES if is_free(number)]
    if not ours:
        return
    awake, wake = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
    os.set_blocking(awake, True)
    before = signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
    if before != -1:  # an event loop of the program's own listens there
        signal.set_wakeup_fd(before)
        os.close(awake)
        os.close(wake)
        return
    for number in ours:
        signal.signal(number, nothing)
        signal.siginterrupt(number, False)  # system calls of native code go on
    size = threading.stack_size(STACK_BYTES)
    threading.Thread(target=listen_for, args=(awake,), name="autotune-term", daemon=True).start()
    threading.stack_size(size)
    # A forked child, a loader's worker above all, must die of SIGTERM as ever.
    # Held back meanwhile: it must not reach the child while that still answers as we do.
    os.register_at_fork(
        before=functools.partial(mask, signal.SIG_BLOCK, ours),
        after_in_parent=functools.partial(mask, signal.SIG_UNBLOCK, ours),
        after_in_child=faults.guarded(functools.partial(forget, ours)),
    )


def is_free(number: int) -> bool:
    """Whether nobody has taken this signal, neither in Python nor in native code (faulthandler)."""
    if signal.getsignal(number) is not signal.SIG_DFL:
        return False
    try:
        with open("/proc/self/status", encoding="ascii", errors="replace") as status:
            caught = next(line.split()[1] for line in status if line.startswith("SigCgt:"))
        return not int(caught, 16) >> (number - 1) & 1
    except (OSError, StopIteration, ValueError):
        return number == signal.SIGTERM


def nothing(*_: Any) -> None:
    """Python's own part of the answer."""


def forget(ours: Iterable[int]) -> None:
    """Be as if we had never been, in a child that was forked; a notice is none for it."""
    signal.set_wakeup_fd(-1)
    for number in ours:
        ends = number == signal.SIGTERM
        signal.signal(number, signal.SIG_DFL if ends else signal.SIG_IGN)
    mask(signal.SIG_UNBLOCK, ours)


def mask(how: int, ours: Iterable[int]) -> None:
    signal.pthread_sigmask(how, ours)


def listen_for(awake: int) -> None:
    """Wait for the signal's number; others come along here too."""
    while True:
        for number in os.read(awake, 64):
            if number in NOTICES:
                faults.guarded(told_to_end)(number)


def told_to_end(number: int) -> None:
    """Ask for a stop; end now of SIGTERM where no boundary will come or nobody waits for one."""
    if signal.getsignal(number) is not nothing:  # the program has one of its own by now
        return
    if not state.training or control.command() in ("end", "release") or a_peer_is_gone():
        if number == signal.SIGTERM:
            end_now()
    elif control.command() != "stop":
        name = signal.Signals(number).name
        events.emit("told_to_end", signal=name)
        control.ask_stop(f"supervisor: rank {state.rank()} was told to end by {name}")


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
