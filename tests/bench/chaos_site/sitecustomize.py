"""Makes the clock jump and the run folder's file system fail, as the file CHAOS_TROUBLE says.

{"clock": seconds} is added to the time of day in every process that finds this by PYTHONPATH;
{"errors": [numbers], "share": 0.5, "below": folder} makes that share of what the supervisor opens,
writes, syncs and renames below the folder fail. Without the file all is well.
"""

import json
import os
import random
import sys
import time
from collections.abc import Callable
from typing import Any

TROUBLE = os.environ.get("CHAOS_TROUBLE", "")
CHANCE = random.Random(os.environ.get("CHAOS_SEED"))
true_time, true_open = time.time, os.open


def told() -> dict[str, Any]:
    """Return the trouble there is now."""
    try:
        descriptor = true_open(TROUBLE, os.O_RDONLY)
    except OSError:
        return {}
    try:
        return dict(json.loads(os.pread(descriptor, 65536, 0)))
    except ValueError:
        return {}
    finally:
        os.close(descriptor)


def failing(call: Callable[..., Any]) -> Callable[..., Any]:
    """Return a call of `os` that fails while there is trouble where its first argument lies."""

    def tried(first: Any, *arguments: Any, **named: Any) -> Any:
        trouble = told()
        if trouble.get("errors"):
            try:
                place = (
                    os.readlink(f"/proc/self/fd/{first}")  # noqa: PTH115
                    if isinstance(first, int)
                    else os.path.abspath(os.fspath(first))  # noqa: PTH100
                )
            except (OSError, TypeError):
                place = ""
            if str(place).startswith(trouble["below"]) and CHANCE.random() < trouble["share"]:
                number = CHANCE.choice(trouble["errors"])
                raise OSError(number, os.strerror(number), str(place))
        return call(first, *arguments, **named)

    return tried


if TROUBLE:
    time.time = lambda: true_time() + told().get("clock", 0.0)
    if any(word.endswith(("autotune.cli.app", "on_fake_gpus.py")) for word in sys.orig_argv):
        for name in ("open", "write", "fsync", "replace", "rename", "ftruncate", "mkdir", "unlink"):
            setattr(os, name, failing(getattr(os, name)))
