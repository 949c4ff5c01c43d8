"""Turns one raw line of output into the text a person would have seen, and its rank."""

import re
from dataclasses import dataclass

# A line is searched in its first and last part only, so that no line can stall the watcher.
PART_BYTES = 4096
MISSING = " … "

_ESCAPE = re.compile(
    r"\x1b\[[0-?]{0,40}[ -/]{0,8}[@-~]"  # colours and cursor movements
    r"|\x1b\][^\x07\x1b]{0,300}(?:\x07|\x1b\\)"  # titles and links
    r"|\x1b[@-Z\\-_]"
)
# NUL stays visible as a blank: the device index of some out-of-memory texts is a raw byte.
_UNPRINTABLE = dict.fromkeys([*range(32), 127], " ") | {ord("\t"): "\t"}
# Each names the rank in group 1 or has no group; taken off repeatedly from the left.
_PREFIXES = tuple(
    re.compile(pattern)
    for pattern in (
        r"\[rank ?(\d{1,5})\]: ?",  # torch
        r"\[default(\d{1,5})\]: ?",  # torchrun --tee, local rank
        r"\[\d{1,5},(\d{1,5})\]<std(?:err|out)>: ?",  # mpirun --tag-output
        r"(\d{1,5}): (?=\S| {2})",  # srun --label
        r"worker-\d{1,5}: ",
        r"\(\w{1,60} (?:pid|rank)=\d{1,10}(?:, ip=[\w.:]{1,60})?\) ",  # ray
        r"wandb: (?:ERROR|WARNING)? ?",
    )
)


@dataclass(frozen=True)
class Line:
    """What one line says once colours, overwritten states and prefixes are gone."""

    text: str
    rank: int | None = None


def clip(raw: bytes) -> bytes:
    """Return at most the first and last PART_BYTES of a line."""
    if len(raw) <= 2 * PART_BYTES:
        return raw
    return raw[:PART_BYTES] + MISSING.encode() + raw[-PART_BYTES:]


def clean(raw: bytes | str) -> Line:
    """Return the final state of the line; never raises, whatever the bytes."""
    if isinstance(raw, str):
        raw = raw.encode("utf-8", "surrogateescape")
    text = clip(raw).decode("utf-8", "replace")
    if "\r" in text:
        text = _last_state(text)
    if "\x1b" in text:
        text = _ESCAPE.sub("", text)
    if not text.isprintable():
        text = text.translate(_UNPRINTABLE)
    return _without_prefixes(text.rstrip())


def _last_state(text: str) -> str:
    """What a terminal shows after carriage returns: each state is overwritten by the next."""
    for state in reversed(text.split("\r")):
        if state.strip():
            return state
    return ""


def _without_prefixes(text: str) -> Line:
    rank: int | None = None
    for _ in range(3):  # prefixes nest: srun's label before torch's
        match = next((m for m in (p.match(text) for p in _PREFIXES) if m), None)
        if match is None:
            break
        if match.re.groups and (rank is None or "rank" in match[0]):
            rank = int(match[1])  # torch's own word outranks a task number
        text = text[match.end() :]
    return Line(text=text, rank=rank)
