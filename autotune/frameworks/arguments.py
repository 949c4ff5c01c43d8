"""The options of a training program, read and changed in place: a command line or a flat mapping.

A command line is read as HfArgumentParser reads it: `--key value`, `--key=value`, `--key` alone for
true, `--no_key` for false, several values after one key, dashes for underscores, the last one wins.
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from autotune.frameworks.plain_yaml import to_yaml as to_yaml  # what is read here goes there

_NEGATIVE = re.compile(r"-(\d[\d_]*(\.\d*)?|\.\d+)([eE][+-]?\d+)?")  # a value, and no option
_INTEGER = re.compile(r"[+-]?(0|[1-9]\d*)")
_NUMBER = re.compile(r"[+-]?(\d+\.\d*|\.\d+|\d+(?=[eE]))([eE][+-]?\d+)?")
_BARE = re.compile(r"[A-Za-z_][\w.]*=")  # `key=value`, as OmegaConf takes it
# Names that begin with no_ of themselves and are no other option's opposite.
_OWN_NO = frozenset({"no_cuda", "no_python", "no_local_rank", "no_ssh"})

TRUE, FALSE = ("true", "yes", "on", "t", "y", "1"), ("false", "no", "off", "f", "n", "0")


@dataclass(frozen=True)
class _Span:
    """One option's place among the words, or a word that belongs to none (`key` is empty)."""

    key: str
    start: int
    end: int  # behind its last value
    style: str = ""  # "apart", "joined" (--key=value) or "bare" (key=value)


@dataclass(frozen=True)
class Arguments:
    """The words behind a program, kept as they are written.

    `bare` says that `key=value` without dashes sets a key too, as LLaMA-Factory reads it.
    """

    words: tuple[str, ...]
    bare: bool = False

    def values(self) -> dict[str, Any]:
        """Return every key's value, with underscores for dashes; `--no_x` gives `x: False`.

        Words become numbers, true and false, and inline JSON where they read as such.
        """
        found: dict[str, Any] = {}
        for span in self._spans():
            if span.key:
                key, value = self._read(span)
                found.pop(key, None)
                found[key] = value
        return found

    def get(self, key: str, default: Any = None) -> Any:
        """Return one key's value, or `default` where the line does not name it."""
        return self.values().get(key, default)

    def strays(self) -> tuple[str, ...]:
        """Return the words that belong to no option, such as a subcommand or a config file."""
        return tuple(
            word
            for span in self._spans()
            if not span.key
            for word in self.words[span.start : span.end]
        )

    def changed(self, changes: Mapping[str, Any]) -> "Arguments":
        """Return the line with these values set where they stand; None takes an option out.

        What already has the value keeps its writing; a new key is put at the end. Raises
        ValueError for what no command line can hold, such as an empty list.
        """
        pieces: list[tuple[str, list[str]]] = []  # the style of each, and its words
        spans, before = self._spans(), self.values()
        last = {self._name(span): number for number, span in enumerate(spans) if span.key}
        end = next((n for n, word in enumerate(self.words) if word == "--"), len(self.words))
        new = [key for key in changes if key not in last and changes[key] is not None]
        for number, span in enumerate(spans):
            name = self._name(span) if span.key else ""
            if span.start == end:
                pieces.append(("", self._appended(new, changes)))
            asked = changes.get(name)
            if name in changes and asked is None:
                continue
            stays = name not in changes or last[name] != number or _same(before[name], asked)
            kept = list(self.words[span.start : span.end])
            at = len(pieces)
            while not span.key and span.start != end and at and pieces[at - 1][0] == "apart":
                at -= 1  # what stood between them is gone: it would be read as that one's value
            pieces.insert(at, (span.style, kept if stays else self._written(name, asked, span)))
        if end == len(self.words):
            pieces.append(("", self._appended(new, changes)))
        return Arguments(tuple(word for _, piece in pieces for word in piece), self.bare)

    def _spans(self) -> list[_Span]:
        spans, at, words = [], 0, self.words
        while at < len(words):
            word = words[at]
            if word == "--":
                spans.append(_Span("", at, len(words)))
                break
            if self.bare and _BARE.match(word):
                spans.append(_Span(word.split("=", 1)[0], at, at + 1, "bare"))
            elif not _is_option(word):
                spans.append(_Span("", at, at + 1))
            elif "=" in word:
                spans.append(_Span(_key(word.split("=", 1)[0]), at, at + 1, "joined"))
            else:
                end = at + 1
                while end < len(words) and not self._ends_values(words[end]):
                    end += 1
                spans.append(_Span(_key(word), at, end, "apart"))
            at = spans[-1].end
        return spans

    def _ends_values(self, word: str) -> bool:
        return _is_option(word) or word == "--" or (self.bare and bool(_BARE.match(word)))

    def _name(self, span: _Span) -> str:
        return self._read(span)[0]

    def _read(self, span: _Span) -> tuple[str, Any]:
        head = self.words[span.start]
        if span.style != "apart":
            return span.key, read(head.split("=", 1)[1])
        values = [read(word) for word in self.words[span.start + 1 : span.end]]
        if not values:
            negated = span.key.startswith("no_") and span.key not in _OWN_NO
            return (span.key[3:], False) if negated else (span.key, True)
        return span.key, values[0] if len(values) == 1 else values

    def _written(self, key: str, value: Any, span: _Span) -> list[str]:
        head = self.words[span.start].split("=", 1)[0]
        if span.style == "bare":
            return [f"{head}={written(value)}"]
        if span.style == "apart" and _key(head) != key:
            head = self._dashed(key)  # it was --no_key
        joined = span.style == "joined" or self._looks_bare(value)
        return _words(head, value, joined=joined)

    def _looks_bare(self, value: Any) -> bool:
        return self.bare and isinstance(value, str) and bool(_BARE.match(value))

    def _appended(self, keys: Sequence[str], changes: Mapping[str, Any]) -> list[str]:
        if self.bare and not any(_is_option(word) for word in self.words):
            return [f"{key}={written(changes[key])}" for key in keys]
        return [
            word
            for key in keys
            for word in _words(
                self._dashed(key), changes[key], joined=self._looks_bare(changes[key])
            )
        ]

    def _dashed(self, key: str) -> str:
        # Some parsers know options by dashes alone; a line shows which one it is for.
        names = [word.split("=", 1)[0][2:] for word in self.words if word.startswith("--")]
        dashes = any("-" in name for name in names) and not any("_" in name for name in names)
        return "--" + (key.replace("_", "-") if dashes else key)


@dataclass(frozen=True)
class Table:
    """A flat mapping out of a YAML or JSON file, with the questions and changes of `Arguments`."""

    mapping: Mapping[str, Any]

    def values(self) -> dict[str, Any]:
        """Return the mapping's own values."""
        return dict(self.mapping)

    def get(self, key: str, default: Any = None) -> Any:
        """Return one key's value, or `default` where it is not there."""
        return self.mapping.get(key, default)

    def changed(self, changes: Mapping[str, Any]) -> "Table":
        """Return the mapping with these values set where they stand; None takes a key out."""
        kept = {key: changes.get(key, value) for key, value in self.mapping.items()}
        every = {**kept, **changes}
        gone = {key for key, value in changes.items() if value is None}
        return Table({key: value for key, value in every.items() if key not in gone})


def read(word: str) -> Any:
    """Return a word of a command line as the value a YAML file would have held for it."""
    if word.lower() in ("true", "false"):
        return word.lower() == "true"
    if _INTEGER.fullmatch(word) and len(word) <= 30:
        return int(word)
    if _NUMBER.fullmatch(word):
        return float(word)
    if word[:1] in ("{", "["):
        try:
            inline = json.loads(word)
        except (ValueError, RecursionError):
            return word
        return inline if isinstance(inline, dict) else word
    return word


def written(value: Any) -> str:
    """Return a value as one word; raises ValueError for None and for lists."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, Mapping):
        return json.dumps(value, separators=(",", ":"))
    if isinstance(value, (int, float, str)):
        return str(value)
    raise ValueError(f"{value!r} cannot be written as one word of a command line")


def flag(value: Any) -> bool | None:
    """Return what HfArgumentParser and YAML 1.1 take for true or false, else None."""
    word = str(value).lower()
    return True if word in TRUE else False if word in FALSE else None


def integer(value: Any) -> int | None:
    """Return a whole number, also from its text or as 1e3 is one, else None ("auto" is none)."""
    number = decimal(value)
    return int(number) if number is not None and number == int(number) else None


def decimal(value: Any) -> float | None:
    """Return a finite number, also from its text ("1e-4", which YAML 1.1 keeps as text)."""
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        return None
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return None
    return number if abs(number) < float("inf") else None


def _is_option(word: str) -> bool:
    return len(word) > 1 and word.startswith("-") and word != "--" and not _NEGATIVE.fullmatch(word)


def _key(head: str) -> str:
    return head.lstrip("-").replace("-", "_")


def _words(head: str, value: Any, *, joined: bool = False) -> list[str]:
    if isinstance(value, (list, tuple)):
        each = [written(one) for one in value]
        if not each or any(_is_option(word) or word == "--" for word in each):
            raise ValueError(f"{value!r} cannot be written behind {head}")
        return [head, *each]
    word = written(value)
    if joined or _is_option(word) or word == "--":
        return [f"{head}={word}"]
    return [head, word]


def _same(there: Any, asked: Any) -> bool:
    if isinstance(there, bool) or isinstance(asked, bool):
        return there is asked
    return bool(there == asked)
