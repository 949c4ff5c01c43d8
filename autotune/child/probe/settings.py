"""What the supervisor wrote down for this attempt, from the file beside this package.

Keys of probe.json: schema, attempt, events (folder), stacks (folder), control (file), limit (null
or device and bytes), own_events (the trainer reports for itself), rescue (null or folder and
seconds), snapshot_bytes (the most that a memory snapshot may take on disk; 0: none is made).
"""

import os

from . import state

TYPE_CHECKING = False  # typing itself would be an import the program may never make
if TYPE_CHECKING:
    from typing import Any

SCHEMA = 1

_given: "dict[str, Any] | None" = None


def given() -> "dict[str, Any]":
    """The settings, read once; raises OSError or ValueError where they cannot be."""
    global _given
    if _given is None:
        # Not at the top: a program that never trains may never import it.
        import json

        with open(os.path.join(state.folder or "", "probe.json"), encoding="utf-8") as file:
            found = json.load(file)
        if found.get("schema") != SCHEMA:
            raise ValueError(f"probe.json has schema {found.get('schema')!r}, not {SCHEMA}")
        _given = found
    return _given


def get(key: str) -> "Any":
    """One setting; None where the file does not name it."""
    return given().get(key)
