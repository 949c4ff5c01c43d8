"""Reads a training's output line by line and keeps the signs that matter, bounded in number."""

import re
from dataclasses import dataclass, field, replace

from autotune.core.evidence import RankException, Sign
from autotune.core.failure import Failure, Phase, Role
from autotune.core.frame import frame_of, is_frame
from autotune.core.line import Line, clean
from autotune.core.oom_message import has_figures, parse_oom
from autotune.core.signature import Found, Signature, Signatures

MOST_TEXT = 300  # of a sign, as kept
FIRST_KEPT = 3  # of one signature on one rank; the latest is kept as well
MOST_SIGNS = 600
MOST_CHAIN_LINES = 400
MOST_MESSAGE_LINES = 40
NAMELESS = "unnamed_exception"  # the signature of an exception that no other one names
_FIGURED = frozenset({
    Failure.DEVICE_OOM, Failure.DEVICE_OOM_FRAGMENTATION, Failure.DEVICE_OOM_COTENANT,
    Failure.HOST_OOM,
})  # fmt: skip
# Python's own words, not a framework's.
_TRACEBACK = "Traceback (most recent call last)"
_IGNORED = "Exception ignored in"
_DIRECT_CAUSE = "The above exception was the direct cause of the following exception"
_RAISED = re.compile(r"[A-Za-z_][\w.]{0,200}(?:: |$)")  # an exception's line, whatever its name
_INSTALLED = re.compile(
    r"(?:site|dist)-packages[/\\]|[/\\]lib(?:64)?[/\\]python\d|\"<|[/\\]zipimport"
)
# What is said below this level goes on: of itself it ended nothing.
_LEVEL = re.compile(
    r"^.{0,100}?(?:(?<!NCCL )\b(?:WARNING|WARN|INFO|DEBUG)\b|\b[A-Z]\w{0,40}Warning: )"
    r"|^\[?[WI]\d{0,4} |^.{0,40}?\[[IWD]\] "
)
# Loggers report these calmly, and they end a training all the same.
_SAID_CALMLY = frozenset({
    Failure.PREEMPTED, Failure.USER_INTERRUPT, Failure.NUMERIC_DIVERGENCE, Failure.HOST_OOM,
    Failure.COLLECTIVE_TIMEOUT,
})  # fmt: skip
_RANK = re.compile(r"(?:\[[Rr]ank ?|\bon rank:? )(\d{1,5})\b")
_NOTEBOOK_SOURCE = re.compile(r"\s{0,12}(?:-{1,8}> ?)?\d{1,6}(?:\s|$)")
_NUMBERED_SOURCE = re.compile(r"\s{0,12}(?:-{1,8}> ?\d{1,6}\s|\d{1,6} {5})")


@dataclass
class _Traceback:
    """What one rank's traceback said so far."""

    phase: Phase | None = None  # of the outermost frame that names one
    place: Signature | None = None  # of the innermost frame
    notebook: bool = False
    ignored: bool = False  # raised in a destructor, which Python swallows
    framed: bool = False  # at least one frame was seen
    after_frame: bool = False  # the next line quotes source code


@dataclass
class _Kept:
    first: list[Sign] = field(default_factory=list)
    last: Sign | None = None


class Scanner:
    """Turns lines into signs; memory stays the same however long the output."""

    def __init__(self, signatures: Signatures) -> None:
        """Start at line 1 of an attempt's output."""
        self._signatures = signatures
        self._tracebacks: dict[int | None, _Traceback] = {}
        self._kept: dict[tuple[str, int | None], _Kept] = {}
        self._steps: dict[str, int] = {}
        self._last: _Traceback | None = None
        self._raised: dict[int | None, list[Sign]] = {}  # by each rank's newest exception
        self._causes: dict[int | None, list[Sign]] = {}  # of which the next one is a translation
        self.lines = 0
        self.left_out = 0  # signs beyond MOST_SIGNS

    def feed(self, raw: bytes | str) -> list[Sign]:
        """Read the next line and return the signs found in it."""
        self.lines += 1
        line = clean(raw)
        if not line.text.strip():
            return []
        traceback = self._traceback(line)
        if _NUMBERED_SOURCE.match(line.text):
            return []  # a notebook's traceback, of which the head may be out of sight
        if traceback is not None and self._is_source(line, traceback):
            return []
        frame = frame_of(line.text, traceback.notebook) if traceback is not None else None
        if traceback is not None and frame is not None:
            self._read_frame(frame, traceback)
            return []
        found = self._signatures.search(line.text)
        raised = _raises(found) or (traceback is not None and _ends(line.text, traceback))
        signs = [self._sign(item, line, traceback, raised) for item in _weed(found)]
        kept = [sign for sign in signs if sign is not None]
        if raised and not any(s.role is not Role.CONTEXT for s in kept):
            kept.append(self._nameless(line, traceback))
        if line.text.startswith(_IGNORED):
            self._tracebacks[line.rank] = _Traceback(ignored=True)
        elif traceback is not None and any(s.role is not Role.CONTEXT for s in kept):
            self._last = self._tracebacks.pop(line.rank, None)
            self._translate(line.rank, kept)
        elif _DIRECT_CAUSE in line.text:
            self._causes[line.rank] = self._raised.get(line.rank, [])
        for sign in kept:
            self._keep(sign)
        return kept

    def resume_traceback(self) -> None:
        """Read what follows as the end of the last traceback, whose frames say where it was."""
        self._tracebacks.setdefault(None, self._last or _Traceback())

    def signs(self) -> tuple[Sign, ...]:
        """Return the signs kept so far, in the order of their lines."""
        kept = [s for k in self._kept.values() for s in (*k.first, k.last) if s is not None]
        return tuple(sorted(kept, key=lambda sign: (sign.line, sign.signature)))

    def _traceback(self, line: Line) -> _Traceback | None:
        """The traceback this line belongs to, starting one where the line does."""
        current = self._tracebacks.get(line.rank)
        if _TRACEBACK in line.text:
            ignored = current is not None and current.ignored
            notebook = not line.text.lstrip(" +|").startswith(_TRACEBACK)
            if len(self._tracebacks) < 4096:
                self._tracebacks[line.rank] = _Traceback(notebook=notebook, ignored=ignored)
            return None
        return current

    def _is_source(self, line: Line, traceback: _Traceback) -> bool:
        """Quoted source code holds the words of errors that did not happen."""
        if traceback.notebook:
            return bool(_NOTEBOOK_SOURCE.match(line.text))
        quoted = traceback.after_frame and line.text.startswith("    ")
        traceback.after_frame = bool(is_frame(line.text)) or (
            quoted and set(line.text.strip()) <= set("^~ ")
        )
        return quoted and not is_frame(line.text)

    def _read_frame(self, text: str, traceback: _Traceback) -> None:
        found = self._signatures.of_frames.search(text)
        phases = [item.signature.phase for item in found if item.signature.phase]
        traceback.framed = True
        if phases and traceback.phase is None:
            traceback.phase = phases[0]
        places = [item.signature for item in found if item.signature.role is Role.CONFIRMS]
        if places:
            traceback.place = places[0]
        elif not _INSTALLED.search(text):
            traceback.place = None  # called back into code of the user's own

    def _translate(self, rank: int | None, signs: list[Sign]) -> None:
        """Where an exception was raised from another, its name replaces that of the other.

        A shortage of memory stays the cause, whatever it was translated into.
        """
        named = any(s.role is Role.ROOT and s.failure is not Failure.USER_CODE_ERROR for s in signs)
        for cause in self._causes.pop(rank, []) if named else []:
            if cause.failure not in _FIGURED:
                self._replace(cause, replace(cause, role=Role.CASCADE))
        self._raised[rank] = signs

    def _replace(self, old: Sign, new: Sign) -> None:
        kept = self._kept.get((old.signature, old.rank))
        if kept is not None:
            kept.first = [new if sign == old else sign for sign in kept.first]
            kept.last = new if kept.last == old else kept.last

    def _nameless(self, line: Line, traceback: _Traceback | None) -> Sign:
        """An exception of whatever type, known by its place below a traceback's frames."""
        text = excerpt(line.text, 0)
        sign = Sign(
            NAMELESS, Failure.USER_CODE_ERROR, Role.ROOT, self.lines, text, line.rank, raised=True
        )
        return self._placed(sign, traceback)

    def _placed(self, sign: Sign, traceback: _Traceback | None) -> Sign:
        """The sign with what the traceback's frames tell of it."""
        if traceback is None or sign.role is Role.CONTEXT:
            return sign
        if traceback.ignored:
            sign = replace(sign, role=Role.CASCADE)
        elif sign.signature == NAMELESS and traceback.place is not None:
            sign = replace(sign, failure=traceback.place.failure, role=Role.CONFIRMS)
        if traceback.place is not None and traceback.place.failure is sign.failure:
            sign = replace(sign, cure=sign.cure or traceback.place.cure)
        return replace(sign, phase=sign.phase or traceback.phase)

    def _sign(
        self, item: Found, line: Line, traceback: _Traceback | None, raised: bool
    ) -> Sign | None:
        signature = item.signature
        groups = item.match.groupdict()
        if "step" in groups and not self._advanced(groups):
            return None
        failure, role = signature.failure, signature.role
        if role in (Role.ROOT, Role.CONFIRMS) and failure not in _SAID_CALMLY and not raised:
            role = Role.CONTEXT if _LEVEL.match(line.text) else role
        figures = parse_oom(line.text) if failure in _FIGURED else None
        sign = Sign(
            signature=signature.name,
            failure=failure,
            role=role,
            line=self.lines,
            text=excerpt(line.text, item.match.start()),
            rank=_rank_within(line, groups),
            phase=signature.phase,
            figures=figures if figures and has_figures(figures) else None,
            cure=signature.cure,
            raised=raised,
        )
        return self._placed(sign, traceback)

    def _advanced(self, groups: dict[str, str | None]) -> bool:
        """A progress bar counts when it moved; it is printed once more when it is closed."""
        total, step = groups.get("total") or "", int(groups["step"] or 0)
        before = self._steps.get(total)
        if before is None and len(self._steps) >= 64:
            return False
        self._steps[total] = max(step, before or 0)
        return before is not None and step > before

    def _keep(self, sign: Sign) -> None:
        key = (sign.signature, sign.rank)
        if key not in self._kept and len(self._kept) >= MOST_SIGNS // (FIRST_KEPT + 1):
            self.left_out += 1
            return
        kept = self._kept.setdefault(key, _Kept())
        if len(kept.first) < FIRST_KEPT:
            kept.first.append(sign)
        else:
            kept.last = sign


def _weed(found: list[Found]) -> list[Found]:
    """Leave out the nameless exception where the same line has a name, and all where it is calm."""
    calm = [item for item in found if item.signature.calms]
    if calm:
        return calm
    if any(_names(item.signature) for item in found):
        return [item for item in found if item.signature.name != NAMELESS]
    return found


def _rank_within(line: Line, groups: dict[str, str | None]) -> int | None:
    """The rank of the line's prefix, else one that stands within it, as behind a progress bar."""
    if groups.get("rank") or line.rank is not None:
        return int(groups.get("rank") or line.rank or 0)
    match = _RANK.search(line.text)
    return int(match[1]) if match else None


def _names(signature: Signature) -> bool:
    return signature.role is not Role.CONTEXT and signature.failure is not Failure.USER_CODE_ERROR


def _raises(found: list[Found]) -> bool:
    """Whether the line is the one on which an exception is shown."""
    return any(item.signature.name == NAMELESS for item in found)


def _ends(text: str, traceback: _Traceback) -> bool:
    """Whether the line is the first one after a traceback's frames that is no part of them."""
    return traceback.framed and not traceback.notebook and bool(_RAISED.match(text))


def excerpt(text: str, at: int) -> str:
    """Return at most MOST_TEXT characters of the line around the match."""
    if len(text) <= MOST_TEXT:
        return text.strip()
    start = 0 if at < MOST_TEXT // 2 else min(at - 40, len(text) - MOST_TEXT)
    return text[start : start + MOST_TEXT].strip()


def with_signs(exception: RankException, signatures: Signatures) -> RankException:
    """Return the exception with the signs found in its words.

    Those of the exception itself come first, then those of the chain that led to it: in a chain
    neither the first nor the last is always the cause.
    """
    scanner = Scanner(signatures)
    chain = exception.traceback.splitlines()[-MOST_CHAIN_LINES:]
    for line in chain:
        scanner.feed(line)
    if chain:
        scanner.resume_traceback()
    for line in f"{exception.type}: {exception.message}".splitlines()[:MOST_MESSAGE_LINES]:
        scanner.feed(line)
    signs = [s for s in scanner.signs() if s.role is not Role.CONTEXT]
    signs.sort(key=lambda sign: (sign.line <= len(chain), sign.line))
    return replace(exception, signs=tuple(replace(s, rank=exception.rank) for s in signs))
