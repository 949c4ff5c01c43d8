"""Writes plain YAML that YAML 1.1 (PyYAML) and YAML 1.2 readers take for the same values."""

import math
import re
from collections.abc import Mapping
from typing import Any

# Letters first, perhaps behind dashes, and no sign that means something: text for both versions.
_PLAIN = re.compile(r"(--?(?=[A-Za-z_])|\./)?[A-Za-z_/][A-Za-z0-9_./+=-]*|\.")
_WORDS = {"y", "n", "yes", "no", "on", "off", "true", "false", "null", "none"}
_ESCAPES = {'"': '\\"', "\\": "\\\\", "\n": "\\n", "\t": "\\t", "\r": "\\r"}


def to_yaml(mapping: Mapping[str, Any]) -> str:
    """Return a mapping as YAML text, in block style; raises ValueError for other kinds of value.

    Floats get a point and a signed exponent (1.0e-05), without which PyYAML reads text.
    """
    if not mapping:
        return "{}\n"
    return "\n".join(_lines(mapping, 0)) + "\n"


def scalar(value: Any) -> str:
    """Return one value on one line; raises ValueError for mappings, lists and other kinds."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return str(int(value))
    if isinstance(value, float):
        return _float(value)
    if isinstance(value, str):
        return _text(value)
    raise ValueError(f"{value!r} cannot be written as YAML")


def _lines(node: Any, depth: int) -> list[str]:
    indent, lines = "  " * depth, []
    if depth > 60:
        raise ValueError("values are nested more than 60 deep")
    parts = (
        [(f"{scalar(key)}:", value) for key, value in node.items()]
        if isinstance(node, Mapping)
        else [("-", value) for value in node]
    )
    for head, value in parts:
        if isinstance(value, (Mapping, list, tuple)) and value:
            lines += [f"{indent}{head}", *_lines(value, depth + 1)]
        elif isinstance(value, (Mapping, list, tuple)):
            lines.append(f"{indent}{head} " + ("{}" if isinstance(value, Mapping) else "[]"))
        else:
            lines.append(f"{indent}{head} {scalar(value)}")
    return lines


def _float(value: float) -> str:
    if math.isnan(value):
        return ".nan"
    if math.isinf(value):
        return ".inf" if value > 0 else "-.inf"
    mantissa, _, exponent = repr(float(value)).partition("e")
    if not exponent:
        return mantissa
    return mantissa + ("" if "." in mantissa else ".0") + "e" + exponent


def _text(value: str) -> str:
    if _PLAIN.fullmatch(value) and value.lower() not in _WORDS:
        return value
    return '"' + "".join(_escaped(letter) for letter in value) + '"'


def _escaped(letter: str) -> str:
    if letter in _ESCAPES:
        return _ESCAPES[letter]
    if letter.isprintable():
        return letter
    code = ord(letter)
    return (
        f"\\x{code:02x}" if code < 256 else f"\\u{code:04x}" if code < 65536 else f"\\U{code:08x}"
    )
