"""Says whether DeepSpeed takes a value under a key: its kind, its range, its words."""

import json
import math
from collections.abc import Iterator, Mapping
from typing import Any

from autotune.frameworks.ds_keys import Key
from autotune.frameworks.ds_remark import (
    AUTO,
    FALSE_WORDS,
    TRUE_WORDS,
    Path,
    Remark,
    Use,
    number_in,
)

REFUSES = "DeepSpeed refuses it"
WRITE = "write a value"
# Where DeepSpeed drops an "auto", these do not keep a default that does as well.
_DECIDES = ("enabled", "stage", "device", "offload_optimizer", "offload_param")


def shown(value: Any) -> str:
    """Return a value as JSON writes it, cut short."""
    try:
        text = json.dumps(value)
    except (TypeError, ValueError):
        text = str(value)
    return text if len(text) <= 40 else text[:37] + "..."


def dotted(path: Path) -> str:
    """Return a path as people write it."""
    return ".".join(str(part) for part in path)


def value_remarks(path: Path, key: Key, value: Any, strict: bool, use: Use) -> Iterator[Remark]:
    """Say what is wrong with the value of a key that DeepSpeed knows.

    A strict block is read by pydantic, which takes numbers and switches given as text; any other
    value is used as it stands.
    """
    if value == AUTO and isinstance(value, str):
        yield from _auto(path, key, strict, use)
    elif value is None:
        if strict and not key.null:
            yield Remark(path, f"`{dotted(path)}` is null, and {REFUSES}", "take the key out")
        elif key.kind in ("block", "number") and not key.null:
            what = f"`{dotted(path)}` is null, and DeepSpeed fails on it"
            yield Remark(path, what, "take the key out")
    elif key.kind in ("whole", "number"):
        yield from _number(path, key, value, strict, use)
    elif key.kind == "switch":
        yield from _switch(path, value, strict, use)
    else:
        yield from _other(path, key, value, use)


def _auto(path: Path, key: Key, strict: bool, use: Use) -> Iterator[Remark]:
    name = dotted(path)
    if key.auto or name in use.fills:
        return
    what = f': "auto" is nothing that {use.who} fills in here, and DeepSpeed '
    if not strict:
        yield Remark(path, what + "uses the word itself as the value", WRITE, alike=True)
    elif path[-1] in _DECIDES:
        yield Remark(path, what + "passes it over: this stays off", WRITE, alike=True)
    else:
        what, hint = what + "takes its own default", f"{WRITE}, or take it out"
        yield Remark(path, what, hint, fault=False, alike=True)


def _number(path: Path, key: Key, value: Any, strict: bool, use: Use) -> Iterator[Remark]:
    name, kind = dotted(path), "a whole number" if key.kind == "whole" else "a number"
    if isinstance(value, str):
        read = number_in(value)
        takes = strict and read is not None and (key.kind == "number" or _plain_whole(value))
        if read is None:
            yield Remark(path, f"`{name}` is {shown(value)}, and must be {kind}", "write a number")
            return
        fault = not takes or name in use.literal
        what = f"`{name}` is the text {shown(value)}, "
        what += "and " + (_who_fails(name, use, takes) if fault else "DeepSpeed reads the number")
        yield Remark(path, what, f"write {read} without quotes", fault)
        value = read
    elif isinstance(value, bool) or not isinstance(value, (int, float)):
        yield Remark(path, f"`{name}` is {shown(value)}, and must be {kind}", "write a number")
        return
    yield from _range(path, key, value, kind)


def _who_fails(name: str, use: Use, takes: bool) -> str:
    if takes and name in use.literal:
        return f"{use.who} does not take it for a number"
    return "DeepSpeed does not take it for a number"


def _plain_whole(text: str) -> bool:
    """Return whether pydantic takes a text for a whole number: `5e8` it does not."""
    whole, _, rest = text.strip().lstrip("+-").partition(".")
    return whole.replace("_", "").isdecimal() and not rest.strip("0")


def _range(path: Path, key: Key, value: int | float, kind: str) -> Iterator[Remark]:
    name = dotted(path)
    if isinstance(value, float) and not math.isfinite(value):
        yield Remark(path, f"`{name}` is {value}, which is no number to train with", "write one")
    elif key.kind == "whole" and value != int(value):
        yield Remark(path, f"`{name}` is {value}, and must be {kind}", f"write {int(value)}")
    elif key.least is not None and value < key.least:
        what = f"`{name}` is {value}, and must be at least {key.least:g}"
        yield Remark(path, what, "write a larger number")
    elif key.most is not None and value > key.most:
        what = f"`{name}` is {value}, and must be at most {key.most:g}"
        yield Remark(path, what, "write a smaller number")


def _switch(path: Path, value: Any, strict: bool, use: Use) -> Iterator[Remark]:
    name = dotted(path)
    if isinstance(value, bool):
        return
    if isinstance(value, str) and value.strip().lower() in (*TRUE_WORDS, *FALSE_WORDS):
        meant = "true" if value.strip().lower() in TRUE_WORDS else "false"
        fault = not strict or name in use.literal
        what = f"`{name}` is the text {shown(value)}, "
        what += "and any text counts as true" if fault else "and DeepSpeed reads the switch"
        yield Remark(path, what, f"write {meant} without quotes", fault)
    elif isinstance(value, (int, float)) and value in (0, 1):
        if name in use.literal:
            what = f"`{name}` is {shown(value)}, and {use.who} takes true and false only"
            yield Remark(path, what, f"write {'true' if value else 'false'}")
    else:
        yield Remark(
            path, f"`{name}` is {shown(value)}, and must be true or false", "write true or false"
        )


def _other(path: Path, key: Key, value: Any, use: Use) -> Iterator[Remark]:
    name = dotted(path)
    if key.kind == "block" and not isinstance(value, Mapping):
        if name == "zero_optimization" and isinstance(value, bool):
            what = f"`{name}: {shown(value)}` is the form of 2020 and means stage {int(value)}"
            fault = name in use.literal
            yield Remark(path, what, f'write {{"stage": {int(value)}}}', fault)
            return
        example = '{"enabled": true}' if path[-1] in ("fp16", "bf16", "bfloat16") else "{…}"
        what = f"`{name}` is {shown(value)}, and must be a mapping of keys"
        yield Remark(path, what, f"write it as {example}")
    elif key.kind == "text" and not isinstance(value, str):
        yield Remark(path, f"`{name}` is {shown(value)}, and must be a text", "write a text")
    elif key.kind == "list" and not isinstance(value, (list, tuple)):
        yield Remark(path, f"`{name}` is {shown(value)}, and must be a list", "write a list")
    elif key.words and value not in key.words:
        what = f"`{name}` is {shown(value)}, and {REFUSES}"
        yield Remark(path, what, "write one of " + ", ".join(key.words))
