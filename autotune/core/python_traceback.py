"""Reads the tracebacks in an output: where each began, its frames, and the source that it quotes.

A traceback quotes source code, which holds the words of errors that did not happen; its frames say
what the training was doing.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import Enum

from autotune.core.evidence import Sign
from autotune.core.failure import Phase, Role
from autotune.core.signature import HEAD, Signature

MOST_OPEN = 4096
LOST_AFTER = 300  # lines without a frame: what ended it was no exception that we know
LOOKED_FOR_LOST = 50  # lines from one look to the next
MOST_LEADER = 200
_MODULE = "in <module>"

_FRAME = re.compile(r"\s{0,20}File \"[^\"]{1,4000}\", line \d{1,9}")
_NOTEBOOK_HEAD = re.compile(
    r"[\w.]{1,120}(?: {2,100}|(?<=Error) ?|(?<=Exception) ?|(?<=Interrupt) ?|(?<=Exit) ?)$"
)
_NOTEBOOK_FRAME = re.compile(
    r"(?:File )?(?P<path>[~/.\w][^\s:]{0,300}\.py|<ipython-input-[^>]{1,60}>)"
    r"(?::(?P<line>\d{1,7}))?,? in (?:[\w<>]{1,80}\.){0,4}(?P<name>[\w<>]{1,80})"
)
# Code that nobody wrote for this training: packages, and Python's own.
_INSTALLED = re.compile(
    r"(?:site|dist)-packages[/\\]|[/\\]lib(?:64)?[/\\]python\d|\"<|[/\\]zipimport"
)
# An exception's line, whatever its name: `socket.timeout: x`, `Surprise`.
_RAISED = re.compile(r"[A-Za-z_][\w.]{0,200}: |(?:[\w.]{1,120}\.)?[A-Z]\w{1,80}:?$")
_NOTEBOOK_SOURCE = re.compile(r"\s{0,12}(?:-{1,8}> ?)?\d{1,6}(?:\s|$)")
_NUMBERED_SOURCE = re.compile(r"\s{0,12}(?:-{1,8}> ?\d{1,6}\s|\d{1,6} {5})")
_BOX_HEAD = re.compile(r"\s{0,8}(?:[╭┌]|\+-)")
_BOX_LINE = re.compile(r"\s{0,8}[│┃|]")
_BOX_FRAME = re.compile(
    r"\s{0,8}[│┃|] (?P<path>\S{1,300}):(?P<line>\d{1,7}) in (?P<name>[\w<>]{1,80})"
)


class Form(str, Enum):
    """How a traceback is laid out."""

    PLAIN = "plain"
    NOTEBOOK = "notebook"
    BOXED = "boxed"


@dataclass
class Traceback:
    """What one rank's traceback said so far."""

    began: int  # the line of its head
    form: Form = Form.PLAIN
    leader: str = ""  # what a logger puts before each line
    phase: Phase | None = None  # of the outermost frame that names one
    place: Signature | None = None  # of the innermost frame that names one, in installed code
    ignored: bool = False  # raised in a destructor, which Python swallows
    whole: bool = False  # its outermost frame is a module: nothing caught it
    frames: int = 0
    heads: list[Sign] = field(default_factory=list)  # found in its head
    after_frame: bool = False  # the next line quotes source code
    loose: bool = False  # a line came that was no part of it, and did not end it
    seen: int = 0  # the last line that was part of it

    def frame(self, text: str) -> str | None:
        """Return the frame that the line holds, as Python writes it."""
        if _FRAME.match(text):
            return text
        pattern = {Form.BOXED: _BOX_FRAME, Form.NOTEBOOK: _NOTEBOOK_FRAME}.get(self.form)
        match = pattern.match(text) if pattern else None
        if match is None:
            return None
        return f'  File "{match["path"]}", line {match["line"] or 1}, in {match["name"]}'

    def read_frame(self, text: str, found: Iterable[Signature]) -> None:
        """Learn from one frame, of which `found` are the signatures."""
        found = list(found)
        self.whole = self.whole or (self.frames == 0 and _MODULE in text)
        self.frames += 1
        self.phase = self.phase or next((s.phase for s in found if s.phase), None)
        place = next((s for s in found if s.role is Role.CONFIRMS), None)
        if place is not None or not _INSTALLED.search(text):
            self.place = place  # none, where it was called back into code of the user's own

    def ends(self, text: str) -> bool:
        """Say whether this line, the first after its frames, must be the exception."""
        follows = self.frames and not self.loose and self.form is Form.PLAIN
        return bool(follows and _RAISED.match(text))

    def quotes(self, text: str) -> bool:
        """Say whether the line is source code; lines must come in their order."""
        if self.form is Form.NOTEBOOK:
            return bool(_NOTEBOOK_SOURCE.match(text))
        if self.form is Form.BOXED and _BOX_LINE.match(text):
            return self.frame(text) is None
        frame = bool(_FRAME.match(text))
        quoted = self.after_frame and text.startswith("    ") and not frame
        self.after_frame = frame or (quoted and set(text.strip()) <= set("^~ "))
        return quoted


class Tracebacks:
    """The tracebacks that have begun and not ended, one for each rank."""

    def __init__(self) -> None:
        """Begin outside of any."""
        self._open: dict[int | None, Traceback] = {}

    def __bool__(self) -> bool:
        """Say whether any is open."""
        return bool(self._open)

    def begin(self, text: str, rank: int | None, number: int) -> Traceback | None:
        """Open the traceback whose head this line holds; None where it holds none."""
        at = text.find(HEAD)
        if at < 0:
            return None
        form, leader = _laid_out(text[:at])
        before = self._open.get(rank)
        ignored = before is not None and before.ignored and not before.frames
        traceback = Traceback(number, form, leader, ignored=ignored, seen=number)
        self.set(rank, traceback)
        return traceback

    def begin_within(self, text: str, rank: int | None, number: int) -> Traceback | None:
        """Open a traceback whose head is out of sight, where this line is a frame of one."""
        for form, pattern in ((Form.PLAIN, _FRAME), (Form.NOTEBOOK, _NOTEBOOK_FRAME)):
            if pattern.match(text):
                self.set(rank, Traceback(number, form, seen=number))
                return self._open.get(rank)
        return None

    def set(self, rank: int | None, traceback: Traceback) -> None:
        """Open a traceback for this rank instead of the one it had."""
        if rank in self._open or len(self._open) < MOST_OPEN:
            self._open[rank] = traceback

    def of(self, rank: int | None, number: int) -> Traceback | None:
        """Return the rank's open traceback; those that nothing ended are given up."""
        if number % LOOKED_FOR_LOST == 0:
            lost = [r for r, t in self._open.items() if number - t.seen > LOST_AFTER]
            for one in lost:
                del self._open[one]
        return self._open.get(rank)

    def close(self, rank: int | None) -> None:
        """End the rank's traceback."""
        self._open.pop(rank, None)

    def clear(self) -> None:
        """End all of them: another run has begun."""
        self._open.clear()


def is_numbered_source(text: str) -> bool:
    """Source code of a notebook's traceback, of which the head may be out of sight."""
    return bool(_NUMBERED_SOURCE.match(text))


def without_leader(text: str, leader: str) -> str:
    """Take off what a logger wrote before the line; its digits may differ from line to line."""
    at = 0
    for letter in _shape(leader):
        if at < len(text) and letter == "0" and text[at].isdigit():
            while at < len(text) and text[at].isdigit():
                at += 1
        elif at < len(text) and letter == text[at]:
            at += 1
        else:
            return text
    return text[at:]


def _shape(text: str) -> str:
    return re.sub(r"\d{1,200}", "0", text)


def _laid_out(before: str) -> tuple[Form, str]:
    if not before.strip():
        return Form.PLAIN, ""
    if _NOTEBOOK_HEAD.match(before):
        return Form.NOTEBOOK, ""
    if _BOX_HEAD.match(before):
        return Form.BOXED, ""
    return Form.PLAIN, before if len(before) <= MOST_LEADER else ""
