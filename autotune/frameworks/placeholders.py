"""Named places in a command, filled in for each attempt: `--bs {micro_batch=8}`."""

import re
from collections.abc import Mapping, Sequence
from typing import Any, get_args, get_type_hints

from autotune.core.fault import Fault, nearest
from autotune.core.plan import KNOBS, Plan
from autotune.frameworks.arguments import flag, integer

# These reach every program through its environment, without a place of their own.
FROM_OUTSIDE = frozenset({"allocator", "blocking_launches", "excluded", "pins"})
FIELDS = KNOBS - FROM_OUTSIDE
RESUME, OUTPUT, CONFIG = "resume", "output", "deepspeed_config"
OTHERS = frozenset({RESUME, OUTPUT, CONFIG, "global_batch", "port", "devices"})
_PLACE = re.compile(r"\{\{|\}\}|\{([a-z_]+)(?:=([^{}]*))?\}|[{}]")
_HINTS = get_type_hints(Plan)


def escaped(word: str) -> str:
    """Return a word that stands for itself, braces and all."""
    return word.replace("{", "{{").replace("}", "}}")


def places(command: Sequence[str]) -> dict[str, str | None]:
    """Return the named places of a command, each with what stands behind its `=`."""
    found: dict[str, str | None] = {}
    for word in command:
        for match in _PLACE.finditer(word):
            if match.group(1) and found.get(match.group(1)) is None:
                found[match.group(1)] = match.group(2)
    return found


def place_faults(command: Sequence[str], where: str) -> list[Fault]:
    """Return what is wrong with the places of a command."""
    faults = []
    for word in command:
        for match in _PLACE.finditer(word):
            name, value = match.group(1), match.group(2)
            if match.group() in ("{", "}"):
                text = f"a brace in `{word}` names no place"
                hint = "double it where it is meant as it is: {{ and }}"
                faults.append(Fault(text, where, hint))
            elif name and name not in FIELDS | OTHERS:
                text = f"`{{{name}}}` is no place that autotune can fill in"
                faults.append(Fault(text, where, nearest(name, FIELDS | OTHERS)))
            elif name in FIELDS and value is not None and value_of(name, value) is None:
                text = f"`{{{name}={value}}}` starts at no value that `{name}` can have"
                faults.append(Fault(text, where, f"accepted: {_accepted(name)}"))
    return faults


def value_of(name: str, text: str) -> Any:
    """Return a plan field's value from its text; None where the text is none."""
    hint = _HINTS[name]
    if hint is bool:
        return flag(text)
    if hint is int:
        number = integer(text)
        return number if number is not None and number >= 0 else None
    return text if text in get_args(hint) else None


def filled(command: Sequence[str], values: Mapping[str, str | None]) -> tuple[str, ...]:
    """Return the command with its places filled in.

    A word whose value is None is left out, and so is the option in front of it.
    """
    words: list[str] = []
    for word in command:
        named = [match.group(1) for match in _PLACE.finditer(word) if match.group(1)]
        if any(values.get(name) is None for name in named):
            alone = not word.startswith("-")
            if alone and words and words[-1].startswith("-") and "=" not in words[-1]:
                words.pop()
            continue
        words.append(_PLACE.sub(lambda match: _text(match, values), word))
    return tuple(words)


def restarted(command: Sequence[str], values: Mapping[str, str | None]) -> list[str]:
    """Return the command with its places kept, each of a plan's fields starting at its value."""

    def started(match: re.Match[str]) -> str:
        name = match.group(1)
        if name in FIELDS | {CONFIG} and values.get(name) is not None:
            return f"{{{name}={values[name]}}}"
        return match.group()

    return [_PLACE.sub(started, word) for word in command]


def texts_of(plan: Plan) -> dict[str, str | None]:
    """Return what stands for each of a plan's fields in a command."""
    values: dict[str, str | None] = {"global_batch": str(plan.global_batch)}
    for name in FIELDS:
        value = getattr(plan, name)
        values[name] = str(value).lower() if isinstance(value, bool) else str(value)
    return values


def _text(match: re.Match[str], values: Mapping[str, str | None]) -> str:
    if match.group() in ("{{", "}}"):
        return match.group()[0]
    return (values.get(match.group(1)) or "") if match.group(1) else match.group()


def _accepted(name: str) -> str:
    hint = _HINTS[name]
    if hint is bool:
        return "true or false"
    return "a whole number" if hint is int else ", ".join(get_args(hint))
