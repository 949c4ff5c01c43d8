"""Reads the text of a DeepSpeed configuration: its values, the line of each, and what is odd in it.

DeepSpeed reads its file as Hjson: JSON with comments, commas that may be missing or too many, and
keys without quotes; a key given twice is refused. HF Trainer reads plain JSON, where the last of
two equal keys wins in silence. What is read here is the braced part of Hjson.
"""

import json
import re
from bisect import bisect_right
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

Path = tuple[str | int, ...]

DEEPEST = 60
LONGEST_NUMBER = 300  # characters

SlipKind = Literal["hjson", "twice", "word"]

_SPACE = re.compile(r"[ \t\r\n\ufeff]+")
_COMMENT = re.compile(r"//[^\n]*|#[^\n]*|/\*.*?\*/", re.DOTALL)
_TEXT = re.compile(r'"[^"\\\n]*(?:\\.[^"\\\n]*)*"|' + r"'[^'\\\n]*(?:\\.[^'\\\n]*)*'")
_NUMBER = re.compile(r"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][-+]?[0-9]+)?(?=[\s,}\]/#]|$)")
_WORD = re.compile(r"""[^\s,:\[\]{}"'#]+""")
_WORDS: Mapping[str, Any] = {"true": True, "false": False, "null": None}
_ALMOST: Mapping[str, Any] = {
    "True": True, "False": False, "None": None, "NaN": float("nan"), "nan": float("nan"),
    "Infinity": float("inf"), "-Infinity": float("-inf"), "inf": float("inf"),
}  # fmt: skip


@dataclass(frozen=True)
class Slip:
    """Something in the text that not every reader takes, or takes as it was meant."""

    kind: SlipKind
    path: Path
    line: int
    what: str  # for a person; for `twice` the line of the first


@dataclass
class Parsed:
    """What the text holds; `broken` says why it could not be read to its end."""

    value: Any = None
    lines: dict[Path, int] = field(default_factory=dict)
    slips: list[Slip] = field(default_factory=list)
    broken: str | None = None
    broken_line: int = 1


def parse(text: str) -> Parsed:
    """Return what `text` says; never raises, and goes no deeper than DEEPEST."""
    reader = _Reader(text)
    parsed = reader.parsed
    try:
        parsed.value = reader.whole()
    except _Broken as broken:
        parsed.value = None
        parsed.broken, parsed.broken_line = str(broken), reader.line_of(broken.at)
    return parsed


class _Broken(Exception):
    def __init__(self, what: str, at: int) -> None:
        super().__init__(what)
        self.at = at


class _Reader:
    def __init__(self, text: str) -> None:
        self._text, self._at = text, 0
        self._starts = [0, *(match.end() for match in re.finditer("\n", text))]
        self.parsed = Parsed()

    def line_of(self, at: int) -> int:
        return bisect_right(self._starts, at)

    def whole(self) -> Any:
        if self._text.startswith("\ufeff"):
            self._slip("hjson", (), "a byte order mark at its beginning")
        self._skip(())
        if self._at == len(self._text):
            raise _Broken("the file is empty", self._at)
        value = self._value(())
        self._skip(())
        if self._at < len(self._text):
            raise _Broken("something follows the closing brace", self._at)
        return value

    def _slip(self, kind: SlipKind, path: Path, what: str) -> None:
        self.parsed.slips.append(Slip(kind, path, self.line_of(self._at), what))

    def _skip(self, path: Path) -> bool:
        """Pass over space and comments; return whether a line ended there."""
        begin = self._at
        while True:
            if space := _SPACE.match(self._text, self._at):
                self._at = space.end()
            elif comment := _COMMENT.match(self._text, self._at):
                self._slip("hjson", path, "a comment")
                self._at = comment.end()
            else:
                return "\n" in self._text[begin : self._at]

    def _peek(self) -> str:
        return self._text[self._at : self._at + 1]

    def _value(self, path: Path) -> Any:
        if len(path) > DEEPEST:
            raise _Broken(f"values are nested more than {DEEPEST} deep", self._at)
        begins = self._peek()
        if begins == "{":
            return self._mapping(path)
        if begins == "[":
            return self._sequence(path)
        if begins in ('"', "'"):
            return self._quoted(path)
        if number := _NUMBER.match(self._text, self._at):
            return self._number(number[0])
        return self._bare(path)

    def _number(self, text: str) -> int | float:
        if len(text) > LONGEST_NUMBER:
            raise _Broken("a number has hundreds of digits", self._at)
        self._at += len(text)
        return int(text) if text.lstrip("-").isdecimal() else float(text)

    def _quoted(self, path: Path) -> str:
        found = _TEXT.match(self._text, self._at)
        if found is None:
            raise _Broken("a text has no closing quote on its line", self._at)
        text = found[0]
        if text[0] == "'":
            self._slip("hjson", path, "single quotes")
            text = '"' + text[1:-1].replace("\\'", "'").replace('"', '\\"') + '"'
        try:
            value: str = json.loads(text, strict=False)
        except ValueError:
            raise _Broken("a text holds a backslash that means nothing", self._at) from None
        self._at = found.end()
        return value

    def _bare(self, path: Path) -> Any:
        found = _WORD.match(self._text, self._at)
        if found is None:
            raise _Broken(f"a value is missing{_before(self._peek())}", self._at)
        word = found[0]
        if word not in _WORDS:
            self._slip("word", path, word[:40])
        self._at = found.end()
        return _WORDS[word] if word in _WORDS else _ALMOST.get(word, word)

    def _mapping(self, path: Path) -> dict[str, Any]:
        self._at += 1
        held: dict[str, Any] = {}
        first: dict[str, int] = {}
        while self._more("}", path, bool(held)):
            begin = self._at
            key = self._key(path)
            place = (*path, key)
            line = self.line_of(begin)
            if key in first:
                self.parsed.slips.append(Slip("twice", place, line, str(first[key])))
            first.setdefault(key, line)
            self.parsed.lines[place] = line
            held[key] = self._value(place)
        return held

    def _key(self, path: Path) -> str:
        if self._peek() in ('"', "'"):
            key = self._quoted(path)
        elif found := _WORD.match(self._text, self._at):
            self._slip("hjson", path, "a key without quotes")
            key, self._at = found[0], found.end()
        else:
            raise _Broken(f"a key is missing{_before(self._peek())}", self._at)
        self._skip(path)
        if self._peek() != ":":
            raise _Broken(f"a colon is missing after `{key[:40]}`", self._at)
        self._at += 1
        self._skip((*path, key))
        return key

    def _sequence(self, path: Path) -> list[Any]:
        self._at += 1
        held: list[Any] = []
        while self._more("]", path, bool(held)):
            place = (*path, len(held))
            self.parsed.lines[place] = self.line_of(self._at)
            held.append(self._value(place))
        return held

    def _more(self, end: str, path: Path, after_one: bool) -> bool:
        """Step to the next item, or past `end`; return whether there is an item."""
        new_line = self._skip(path)
        comma = after_one and self._peek() == ","
        if comma:
            self._at += 1
            self._skip(path)
        now = self._peek()
        if now == "":
            opened = "{" if end == "}" else "["
            raise _Broken(f"the file ends and a `{opened}` is still open", self._at)
        if now == end:
            if comma:
                self._slip("hjson", path, "a comma after the last item")
            self._at += 1
            return False
        if after_one and not comma:
            if not new_line:
                raise _Broken("a comma is missing", self._at)
            self._slip("hjson", path, "a comma left out at the end of a line")
        return True


def _before(char: str) -> str:
    return f" before `{char}`" if char else " at the end of the file"
