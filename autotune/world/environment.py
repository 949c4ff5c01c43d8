"""The training's environment and Python: what is passed on, and which versions are installed."""

import contextlib
import json
import os
import socket
import subprocess
import sys
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path

from autotune.core.fault import Fault, InputError
from autotune.core.secret import names_a_secret

PACKAGES = (
    "torch", "transformers", "peft", "deepspeed", "bitsandbytes", "accelerate", "datasets",
    "tokenizers", "liger-kernel",
)  # fmt: skip
_ASK = (
    "import json, sys, importlib.metadata as m\n"
    "found = {}\n"
    "for name in sys.argv[1:]:\n"
    "    try: found[name] = m.version(name)\n"
    "    except m.PackageNotFoundError: pass\n"
    "print(json.dumps(found))\n"
)


def training_python(named: str | None, job_folder: Path) -> str:
    """Return the training's interpreter: the one the job names, else the one we run in."""
    return sys.executable if named is None else str(job_folder / Path(named).expanduser())


def versions(python: str, needs: Collection[str]) -> dict[str, str]:
    """Return what is installed in the training's Python, asked without importing any of it.

    Raises InputError when that Python does not start or lacks a distribution of `needs`.
    """
    try:
        done = subprocess.run(
            [python, "-c", _ASK, *dict.fromkeys((*PACKAGES, *needs))],
            capture_output=True, text=True, timeout=60, check=True, stdin=subprocess.DEVNULL,
            env=child_environment(python, {}, [], {}),
        )  # fmt: skip
        found: dict[str, str] = json.loads(done.stdout)
    except (OSError, subprocess.SubprocessError, ValueError) as error:
        text = "the training's Python does not start"
        hint = f"`python:` in the job must name an interpreter ({error})"
        raise InputError(Fault(text, python, hint)) from error
    missing = [name for name in needs if name not in found]
    if missing:
        text = f"the training's Python lacks {', '.join(missing)}"
        ours = set(PACKAGES).issuperset(missing)
        wanted = "'autotune-supervisor[train]'" if ours else " ".join(missing)
        hint = f"install what is missing there: {python} -m pip install {wanted}"
        raise InputError(Fault(text, python, hint))
    return found


def child_environment(
    python: str, env: Mapping[str, str], env_from: Iterable[str], more: Mapping[str, str]
) -> dict[str, str]:
    """Return the training's whole environment.

    Ours, without what looks like a secret unless `env_from` names it; then the job's; then `more`.
    """
    allowed = set(env_from)
    base = {k: v for k, v in os.environ.items() if k in allowed or not names_a_secret(k)}
    for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
        base.pop(name, None)  # a stranger's rendezvous would be joined
    folder = str(Path(python).parent)
    # JIT builds look for ninja beside the interpreter, which a bare venv path does not offer.
    base["PATH"] = os.pathsep.join([folder, base.get("PATH", os.defpath)])
    base["PYTHONUNBUFFERED"] = "1"
    return {**base, **env, **more}


def missing_names(env_from: Iterable[str]) -> list[str]:
    """Return the names to pass through that our own environment does not hold."""
    return [name for name in env_from if name not in os.environ]


def free_port(but: Collection[int] = ()) -> int:
    """Return a TCP port that was free on this machine a moment ago, and none of `but`.

    Bound without SO_REUSEADDR, so that one in TIME_WAIT is not drawn.
    """
    with contextlib.ExitStack() as held:
        while True:  # what was drawn stays taken until the end, so each draw gives another
            probe = held.enter_context(socket.socket())
            probe.bind(("127.0.0.1", 0))
            port = int(probe.getsockname()[1])
            if port not in but:
                return port
