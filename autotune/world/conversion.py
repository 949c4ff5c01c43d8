"""Runs the checkpoint converter in the training's Python and returns its one line of answer."""

import json
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path

from autotune.world.process import MARK, Survivors, end_all

LONGEST_SECONDS = 6 * 3600  # a very large checkpoint from a slow disk
LISTEN_SECONDS = 0.5


def convert(
    python: str,
    converter: Path,
    request: Mapping[str, object],
    env: Mapping[str, str],
    mark: str,
    stop_asked: Callable[[], bool],
) -> dict[str, object]:
    """Return the converter's answer; `ok` is false, with the error, where it gave none.

    `mark` names this converter among processes, so that one that a dead supervisor left can be
    found and ended. A stop ends it; its copy is then not used.
    """
    try:
        running = subprocess.Popen(
            [python, str(converter), json.dumps(request)],
            stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, stdin=subprocess.DEVNULL,
            text=True, errors="replace", env={**env, MARK: mark}, start_new_session=True,
        )  # fmt: skip
    except OSError as error:
        return {"ok": False, "error": f"the converter could not be started ({error})"}
    said, _, why = listen(running, mark, stop_asked, LONGEST_SECONDS)
    why = why and f"the converter was ended: {why}"
    try:
        answer = json.loads(said.strip().splitlines()[-1])
    except (ValueError, IndexError, RecursionError):
        return {"ok": False, "error": why or "the converter gave no answer"}
    return answer if isinstance(answer, dict) else {}


def listen(
    running: "subprocess.Popen[str]", mark: str, stop_asked: Callable[[], bool], longest: float
) -> tuple[str, str, str]:
    """Return both outputs of a helper, and why it was ended before it had: a stop, or its time."""
    waited = 0.0
    while True:
        try:
            said, told = running.communicate(timeout=LISTEN_SECONDS)
            return said or "", told or "", ""
        except subprocess.TimeoutExpired:
            waited += LISTEN_SECONDS
        why = "a stop was asked for" if stop_asked() else ""
        why = why or ("it took too long" if waited > longest else "")
        if why:
            end_all(Survivors(mark), term_grace=5)
            running.wait()
            return "", "", why
