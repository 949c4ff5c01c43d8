"""Reads the supervisor's word, control.json, at the price of one look at its date."""

import os

from . import settings

TYPE_CHECKING = False  # typing itself would be an import the program may never make
if TYPE_CHECKING:
    from typing import Any

_seen: "Any" = None
_word: "dict[str, Any]" = {}


def word() -> "dict[str, Any]":
    """What the file says now; empty where there is none, or none that is meant for this attempt."""
    global _seen, _word
    path = settings.get("control")
    if not path:
        return {}
    try:
        found = os.stat(path)
        seen = (found.st_mtime_ns, found.st_ino, found.st_size)
        if seen != _seen:
            import json

            with open(path, encoding="utf-8") as file:
                word = json.load(file)
            meant = isinstance(word, dict) and word.get("attempt") in (
                None,
                settings.get("attempt"),
            )
            _word = word if meant else {}
            _seen = seen
    except (OSError, ValueError):  # a file that cannot be read is no command
        return {}
    return _word


def ask_stop(by: str) -> None:
    """Ask in the supervisor's place that all ranks save and end; `by` says who does."""
    import json

    path = settings.get("control")
    order = {**word(), "seq": int(word().get("seq", 0)) + 1, "command": "stop", "by": by}
    draft = f"{path}.{os.getpid()}"
    with open(draft, "w", encoding="utf-8") as file:
        json.dump(order, file)
    os.replace(draft, path)


def command() -> str:
    """The command alone; empty where there is none."""
    return str(word().get("command", ""))
