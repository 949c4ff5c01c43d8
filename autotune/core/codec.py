"""Turns the frozen types of core into plain JSON values and back, refusing a wrong shape."""

import dataclasses
import types
import typing
from enum import Enum
from functools import cache
from typing import Any, TypeVar

T = TypeVar("T")


_AS_THEY_ARE = frozenset({type(None), bool, int, float, str})


class CodecError(ValueError):
    """A plain value does not have the shape of the type it should become."""


def to_plain(value: Any) -> Any:
    """Return `value` as JSON-ready dicts, lists, strings and numbers."""
    if type(value) in _AS_THEY_ARE:
        return value
    if isinstance(value, Enum):
        return value.value
    names = _fields(value.__class__)
    if names is not None:
        return {name: to_plain(getattr(value, name)) for name in names}
    if isinstance(value, dict):
        return {str(key): to_plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [to_plain(item) for item in value]
    if isinstance(value, (set, frozenset)):
        return sorted(to_plain(item) for item in value)
    return value


def from_plain(kind: type[T], plain: Any) -> T:
    """Build `kind` from plain values; unknown keys are ignored so that newer files still load.

    Raises CodecError when a field is missing without a default or has another type.
    """
    return typing.cast(T, _decode(kind, plain, kind.__name__))


@cache  # a forecast has thousands of values of a few types
def _fields(kind: type) -> tuple[str, ...] | None:
    if not dataclasses.is_dataclass(kind):
        return None
    return tuple(field.name for field in dataclasses.fields(kind))


@cache
def _hints(kind: type) -> dict[str, Any]:
    return typing.get_type_hints(kind)


def _decode(kind: Any, plain: Any, where: str) -> Any:
    if kind is Any:
        return plain
    origin = typing.get_origin(kind)
    if origin is not None:
        return _decode_generic(origin, typing.get_args(kind), plain, where)
    if dataclasses.is_dataclass(kind) and isinstance(kind, type):
        return _decode_dataclass(kind, plain, where)
    if isinstance(kind, type) and issubclass(kind, Enum):
        try:
            return kind(plain)
        except ValueError as error:
            raise CodecError(f"{where}: {plain!r} is not a {kind.__name__}") from error
    if kind is float and isinstance(plain, int) and not isinstance(plain, bool):
        try:
            return float(plain)
        except OverflowError as error:
            raise CodecError(f"{where}: the number is too large") from error
    if kind is type(None) and plain is None:
        return None
    if isinstance(kind, type) and isinstance(plain, kind):
        if isinstance(plain, bool) and kind is int:
            raise CodecError(f"{where}: expected a number, found {plain!r}")
        return plain
    raise CodecError(f"{where}: expected {getattr(kind, '__name__', kind)}, found {plain!r}")


def _decode_generic(origin: Any, arguments: tuple[Any, ...], plain: Any, where: str) -> Any:
    if origin is typing.Union or origin is types.UnionType:
        for option in arguments:
            try:
                return _decode(option, plain, where)
            except CodecError:
                continue
        raise CodecError(f"{where}: {plain!r} fits none of {arguments}")
    if origin is typing.Literal:
        if plain in arguments:
            return plain
        raise CodecError(f"{where}: {plain!r} is none of {arguments}")
    if origin is dict:
        if not isinstance(plain, dict):
            raise CodecError(f"{where}: expected a mapping, found {plain!r}")
        return {key: _decode(arguments[1], item, f"{where}.{key}") for key, item in plain.items()}
    if not isinstance(plain, list):
        raise CodecError(f"{where}: expected a list, found {plain!r}")
    if origin is tuple and not (len(arguments) == 2 and arguments[1] is Ellipsis):
        if len(plain) != len(arguments):
            raise CodecError(f"{where}: expected {len(arguments)} items, found {len(plain)}")
        return tuple(_decode(a, p, where) for a, p in zip(arguments, plain, strict=True))
    return origin(_decode(arguments[0], item, where) for item in plain)


def _decode_dataclass(kind: type, plain: Any, where: str) -> Any:
    if not isinstance(plain, dict):
        raise CodecError(f"{where}: expected a mapping, found {plain!r}")
    hints = _hints(kind)
    known = {}
    for field in dataclasses.fields(kind):
        if field.name in plain:
            name = field.name
            known[name] = _decode(hints[name], plain[name], f"{where}.{name}")
    try:
        return kind(**known)
    except TypeError as error:
        raise CodecError(f"{where}: {error}") from error
