"""Turns what was found in a line into a sign, with what the line and its traceback tell of it."""

import re
from dataclasses import replace

from autotune.core.evidence import Sign
from autotune.core.failure import Failure, Role
from autotune.core.line import Line
from autotune.core.python_traceback import Traceback
from autotune.core.signature import Found, Signature

MOST_TEXT = 300  # of a sign, as kept
NAMELESS = "unnamed_exception"  # the signature of an exception that no other one names
FIGURED = frozenset({
    Failure.DEVICE_OOM, Failure.DEVICE_OOM_FRAGMENTATION, Failure.DEVICE_OOM_COTENANT,
    Failure.HOST_OOM,
})  # fmt: skip
_RANK = re.compile(r"(?:\[[Rr]ank ?|\bon rank:? )(\d{1,5})\b")
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


def sign_of(item: Found, number: int, line: Line) -> Sign:
    """Return the sign for what was found in the line of this number."""
    found = sign_from(item.signature, number, line, item.match.start())
    named = item.match.groupdict().get("rank")
    return replace(found, rank=int(named)) if named else found


def sign_from(signature: Signature, number: int, line: Line, at: int = 0) -> Sign:
    """Return the sign of a signature that stands at this place of the line."""
    return Sign(
        signature=signature.name,
        failure=signature.failure,
        role=signature.role,
        line=number,
        text=excerpt(line.text, at),
        rank=_rank_within(line),
        phase=signature.phase,
        cure=signature.cure,
    )


def nameless(line: Line, number: int) -> Sign:
    """An exception of whatever type, known by its place below a traceback's frames."""
    text = excerpt(line.text, 0)
    code = Failure.USER_CODE_ERROR
    return Sign(NAMELESS, code, Role.ROOT, number, text, line.rank, raised=True)


def placed(sign: Sign, traceback: Traceback | None) -> Sign:
    """The sign with what the traceback's frames tell of it."""
    if traceback is None or sign.role is Role.CONTEXT:
        return sign
    place = traceback.place
    if traceback.ignored:
        sign = replace(sign, role=Role.CASCADE)
    elif sign.signature == NAMELESS and place is not None:
        sign = replace(sign, failure=place.failure, role=Role.CONFIRMS)
    if place is not None and place.failure is sign.failure:
        sign = replace(sign, cure=sign.cure or place.cure)
    return replace(sign, phase=sign.phase or traceback.phase, uncaught=traceback.whole)


def _rank_within(line: Line) -> int | None:
    """The rank of the line's prefix, else one that stands within it, as behind a progress bar."""
    match = _RANK.search(line.text) if line.rank is None else None
    return int(match[1]) if match else line.rank


def is_calm(sign: Sign, text: str) -> bool:
    """Whether it was only warned of, or noted."""
    ends = sign.role in (Role.ROOT, Role.CONFIRMS) and sign.failure not in _SAID_CALMLY
    return ends and bool(_LEVEL.match(text))


def raises(found: list[Found]) -> bool:
    """Whether the line is one on which an exception is shown."""
    return any(item.signature.name == NAMELESS for item in found)


def weed(found: list[Found]) -> list[Found]:
    """Leave out the nameless exception where the same line has a name, and all where it is calm."""
    calm = [item for item in found if item.signature.calms]
    if calm:
        return calm
    if any(names(item.signature) for item in found):
        return [item for item in found if item.signature.name != NAMELESS]
    return found


def names(signature: Signature) -> bool:
    """Whether it names more than the training's own code."""
    return signature.role is not Role.CONTEXT and signature.failure is not Failure.USER_CODE_ERROR


def excerpt(text: str, at: int) -> str:
    """Return at most MOST_TEXT characters of the line around the match."""
    if len(text) <= MOST_TEXT:
        return text.strip()
    start = 0 if at < MOST_TEXT // 2 else min(at - 40, len(text) - MOST_TEXT)
    return text[start : start + MOST_TEXT].strip()
