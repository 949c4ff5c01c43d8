"""Asks something that may hang or break of a process that is thrown away, within a time."""

import contextlib
import json
import os
import selectors
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

MOST_BYTES = 2**20


class Late(Exception):
    """The answer did not come in time; what asks may be stuck in the kernel."""


def in_time(look: Callable[[], Any], seconds: float) -> Any:
    """Return what `look` returns, plain values only, asked in a fork of ours.

    Raises Late after `seconds`, and OSError with the words of what it raised. A driver or a file
    server that hangs holds the fork, which is killed and not waited for.
    """
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        _answer(look, read, write)
    os.close(write)
    ended = False
    try:
        said = _read(read, time.monotonic() + seconds, lambda _: False)
        ended = True
    finally:
        os.close(read)
        if not ended:
            with contextlib.suppress(OSError):
                os.kill(pid, signal.SIGKILL)
        with contextlib.suppress(OSError):
            # One that is stuck in the kernel is left to init.
            os.waitpid(pid, 0 if ended else os.WNOHANG)
    try:
        answer = json.loads(said)
    except ValueError as error:
        raise OSError("it ended without an answer") from error
    if "raised" in answer:
        raise OSError(answer["raised"])
    return answer["told"]


def _answer(look: Callable[[], Any], read: int, write: int) -> None:
    """Runs in the fork, which must never come back into our own course."""
    try:
        os.close(read)
        try:
            answer = {"told": look()}
        except Exception as error:
            answer = {"raised": str(error)[:500] or type(error).__name__}
        with os.fdopen(write, "w", encoding="utf-8") as pipe:
            json.dump(answer, pipe)
    finally:
        os._exit(0)


def lines_of(
    argv: Sequence[str],
    env: Mapping[str, str],
    seconds: float,
    goes_on: Callable[[bytes], bool] = lambda _: False,
) -> tuple[list[str], str]:
    """Return what a program wrote to stdout, and why no more came.

    The time begins anew whenever `goes_on` finds that what came is progress. Nothing that it
    started in its own session is left. Raises OSError when it cannot be started.
    """
    running = subprocess.Popen(
        argv, env=dict(env), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL, start_new_session=True,
    )  # fmt: skip
    assert running.stdout is not None
    said, why = b"", ""
    kept = bytearray()
    try:
        said = _read(running.stdout.fileno(), time.monotonic() + seconds, goes_on, seconds, kept)
    except Late:
        said, why = bytes(kept), f"it did not answer within {seconds:g} s"
    finally:
        if not why:
            _wait_ended(running.pid)
        # Before it is collected, so that its number is still its own.
        with contextlib.suppress(OSError):
            os.killpg(running.pid, signal.SIGKILL)
        running.stdout.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            running.wait(timeout=5)
    if not why and running.returncode:
        code = running.returncode
        why = f"it was ended by signal {-code}" if code < 0 else f"it ended with status {code}"
    return said.decode("utf-8", "replace").splitlines(), why


def _wait_ended(pid: int) -> None:
    until = time.monotonic() + 1
    while time.monotonic() < until:
        if os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None:
            return
        time.sleep(0.01)


def _read(
    descriptor: int,
    until: float,
    goes_on: Callable[[bytes], bool],
    seconds: float = 0.0,
    kept: bytearray | None = None,
) -> bytes:
    held = bytearray() if kept is None else kept
    with selectors.DefaultSelector() as selector:
        selector.register(descriptor, selectors.EVENT_READ)
        while (left := until - time.monotonic()) > 0:
            if not selector.select(left):
                continue
            piece = os.read(descriptor, 65536)
            if not piece or len(held) > MOST_BYTES:
                return bytes(held[:MOST_BYTES])
            held += piece
            if goes_on(piece):
                until = time.monotonic() + seconds
    raise Late(f"no answer within {seconds:g} s")
