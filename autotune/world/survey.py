"""Runs the trainer's survey of the rows in the training's Python and returns what it found."""

import json
import os
import select
import subprocess
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from autotune.core.codec import CodecError, from_plain
from autotune.core.memory.survey import Surveyed
from autotune.world.process import MARK, Survivors, end_all

LONGEST_SECONDS = 600.0  # a very large file is read to its end, and packed rows are all encoded
LISTEN_SECONDS = 0.5
KEPT_BYTES = 64 * 2**10  # of what it prints, the last


def survey(
    python: str,
    trainer: Path,
    train_json: Path,
    env: Mapping[str, str],
    mark: str,
    stop_asked: Callable[[], bool],
    longest_seconds: float = LONGEST_SECONDS,
) -> Surveyed | str:
    """Return what was found, or the sentence why nothing was.

    `mark` names the survey among processes, so that one that a dead supervisor left can be found
    and ended. Nothing of it runs any more when this returns.
    """
    try:
        running = subprocess.Popen(
            [python, str(trainer), "--survey", str(train_json)],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, stdin=subprocess.DEVNULL,
            env={**env, MARK: mark}, start_new_session=True,
        )  # fmt: skip
    except OSError as error:
        return f"the survey of the rows could not be started ({error})"
    try:
        said, complaint, ended = _listen(running, stop_asked, longest_seconds)
    finally:
        end_all(Survivors(mark), term_grace=1)
        running.wait()
    if ended:
        return f"the survey of the rows was ended: {ended}"
    return _read(said, complaint, running.returncode)


def _listen(
    running: "subprocess.Popen[bytes]", stop_asked: Callable[[], bool], longest_seconds: float
) -> tuple[str, str, str]:
    """Return the ends of its output and of its complaints, and why it must be ended, if so."""
    assert running.stdout is not None
    assert running.stderr is not None
    began = time.monotonic()
    kept = {running.stdout.fileno(): b"", running.stderr.fileno(): b""}
    still, why = set(kept), ""
    with running.stdout, running.stderr:
        # A process that it left may hold the pipes open for ever.
        while still and not why:
            ready = select.select(list(still), [], [], LISTEN_SECONDS)[0]
            for descriptor in ready:
                piece = os.read(descriptor, KEPT_BYTES)
                kept[descriptor] = (kept[descriptor] + piece)[-KEPT_BYTES:]
                still -= set() if piece else {descriptor}
            if not ready and running.poll() is not None:
                break
            why = "a stop was asked for" if stop_asked() else ""
            if time.monotonic() - began > longest_seconds:
                why = why or f"it took more than {longest_seconds:g} seconds"
    said, complaint = (piece.decode(errors="replace") for piece in kept.values())
    return said, complaint, why


def _read(said: str, complaint: str, code: int) -> Surveyed | str:
    if code != 0:
        last = (complaint.strip().splitlines() or [f"exit code {code}"])[-1]
        return f"the survey of the rows failed: {last[:500]}"
    try:
        return from_plain(Surveyed, json.loads(said.strip().splitlines()[-1]))
    except (CodecError, ValueError, IndexError, RecursionError) as error:
        return f"the survey of the rows gave no answer that can be read ({str(error)[:200]})"
