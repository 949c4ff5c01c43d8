"""Reads a training's output line by line and keeps the signs that matter, bounded in number."""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

from autotune.core.evidence import RankException, Sign
from autotune.core.failure import Failure, Phase, Role
from autotune.core.line import Line, clean
from autotune.core.oom_message import has_figures, parse_oom
from autotune.core.signature import Found, Signature, Signatures

MOST_TEXT = 300  # of a sign, as kept
FIRST_KEPT = 3  # of one signature on one rank; the latest is kept as well
MOST_SIGNS = 600
MOST_CHAIN_LINES = 400
MOST_MESSAGE_LINES = 40
_FIGURED = frozenset({
    Failure.DEVICE_OOM, Failure.DEVICE_OOM_FRAGMENTATION, Failure.DEVICE_OOM_COTENANT,
    Failure.HOST_OOM,
})  # fmt: skip
# Python's own words, not a framework's.
_TRACEBACK = "Traceback (most recent call last)"
_IGNORED = "Exception ignored in"
_FRAME = re.compile(r"\s{0,20}File \"[^\"]{1,4000}\", line \d{1,9}")
_NOTEBOOK_SOURCE = re.compile(r"\s{0,12}(?:-{1,8}> ?)?\d{1,6}(?:\s|$)")
_NUMBERED_SOURCE = re.compile(r"\s{0,12}(?:-{1,8}> ?\d{1,6}\s|\d{1,6} {5})")


@dataclass
class _Traceback:
    """What one rank's traceback said so far."""

    phase: Phase | None = None  # of the outermost frame that names one
    place: Signature | None = None  # of the innermost frame
    notebook: bool = False
    ignored: bool = False  # raised in a destructor, which Python swallows
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
        found = self._signatures.search(line.text)
        if traceback is not None and _FRAME.match(line.text):
            self._read_frame(found, traceback)
            return []
        signs = [self._sign(item, line, traceback) for item in _weed(found)]
        kept = [sign for sign in signs if sign is not None]
        if line.text.startswith(_IGNORED):
            self._tracebacks[line.rank] = _Traceback(ignored=True)
        elif traceback is not None and any(s.role is not Role.CONTEXT for s in kept):
            self._last = self._tracebacks.pop(line.rank, None)
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
        traceback.after_frame = bool(_FRAME.match(line.text)) or (
            quoted and set(line.text.strip()) <= set("^~ ")
        )
        return quoted and not _FRAME.match(line.text)

    def _read_frame(self, found: list[Found], traceback: _Traceback) -> None:
        phases = [item.signature.phase for item in found if item.signature.phase]
        if phases and traceback.phase is None:
            traceback.phase = phases[0]
        places = [item.signature for item in found if item.signature.role is Role.CONFIRMS]
        traceback.place = places[0] if places else None

    def _sign(self, item: Found, line: Line, traceback: _Traceback | None) -> Sign | None:
        signature = item.signature
        groups = item.match.groupdict()
        if "step" in groups and not self._advanced(groups):
            return None
        failure, role = signature.failure, signature.role
        if traceback is not None and traceback.ignored and role is not Role.CONTEXT:
            role = Role.CASCADE
        phase = signature.phase
        if role is not Role.CONTEXT and traceback is not None:
            phase = phase or traceback.phase
            if failure is Failure.USER_CODE_ERROR and traceback.place is not None:
                failure = traceback.place.failure
        figures = parse_oom(line.text) if failure in _FIGURED else None
        return Sign(
            signature=signature.name,
            failure=failure,
            role=role,
            line=self.lines,
            text=excerpt(line.text, item.match.start()),
            rank=line.rank,
            phase=phase,
            figures=figures if figures and has_figures(figures) else None,
            cure=signature.cure,
        )

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


def _weed(found: list[Found]) -> Iterator[Found]:
    """Leave out the nameless exception where the same line has a name."""
    named = any(
        item.signature.role is not Role.CONTEXT
        and item.signature.failure is not Failure.USER_CODE_ERROR
        for item in found
    )
    return (
        item
        for item in found
        if not (
            named
            and item.signature.role is Role.ROOT
            and item.signature.failure is Failure.USER_CODE_ERROR
        )
    )


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
