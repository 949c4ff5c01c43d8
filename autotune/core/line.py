"""Turns raw output into the text a person would have seen, and finds the rank that a line names."""

import re
from dataclasses import dataclass

# A line is searched in its first and last part only, so that no line can stall the watcher.
PART_BYTES = 4096
MISSING = " … "
MOST_PREFIXES = 3  # they nest: srun's label before torch's
MOST_HEAD = 160  # characters in which a rank is looked for

# No escape reaches over the end of a line, so that many lines may be read at once.
_ESCAPE = re.compile(
    rb"\x1b\[[0-?]{0,40}[ -/]{0,8}[@-~]"  # colours and cursor movements
    rb"|\x1b\][^\x07\x1b\r\n]{0,300}(?:\x07|\x1b\\)"  # titles and links
    rb"|\x1b[@-Z\\-_]"
)
# NUL becomes a blank: the device index of some out-of-memory texts is a raw byte.
_UNPRINTABLE = dict.fromkeys([*range(32), *range(127, 160)], " ") | {ord("\t"): "\t"}
_BLANKS = bytes(code for code in (*range(32), 127) if chr(code) not in "\t\n\r")
_FOLDED = bytes.maketrans(
    b"ABCDEFGHIJKLMNOPQRSTUVWXYZ" + _BLANKS, b"abcdefghijklmnopqrstuvwxyz" + b" " * len(_BLANKS)
)
# Each names the rank in its group, or has none; taken off repeatedly from the left.
_PREFIX = re.compile(
    r"\[rank ?(?P<torch>\d{1,5})\]: ?"
    r"|\[default(?P<tee>\d{1,5})\]:(?: (?=\S))?"  # torchrun --tee, local rank
    r"|\[\d{1,5},(?P<mpirun>\d{1,5})\]<std(?:err|out)>:(?: (?=\S))?"  # mpirun --tag-output
    r"|\s{0,4}(?P<srun>\d{1,5}): (?! {0,3}\d{1,3}%\|)(?=\S| {2})"  # srun --label, no bar's name
    r"|worker-\d{1,5}: "
    r"|\((?:[\w:.+ ]{1,60} )?(?:rank=(?P<actor>\d{1,5}) )?pid=\d{1,10}(?:, ip=[\w.:]{1,60})?\) ?"
    r"|[a-z][\w.-]{0,60}[-_]\d{1,5} {1,40}\| (?! {0,3}\d{1,9}/)"  # docker compose
    r"|\[pod/[\w./-]{1,160}\] "  # kubectl logs --prefix
    r"|wandb: (?:ERROR|WARNING)? ?"
)
_NAMED_RANK = re.compile(r"\[(?:R|r|local_r)ank ?[:=]? ?(\d{1,5})\]")
_REPEATED = re.compile(r" {0,4}\[repeated \d{1,9}x across cluster\].{0,300}$")  # Ray
# Fewer NULs are bytes of a text; as many as letters are a wide encoding.
_WIDE_SHARE = 0.4


@dataclass(frozen=True)
class Line:
    """What one line says once colours, overwritten states and prefixes are gone."""

    text: str
    rank: int | None = None


def printable(raw: bytes) -> bytes:
    """Return the lines without escape sequences, and those of wide characters as narrow ones."""
    if b"\x1b" in raw:
        raw = _ESCAPE.sub(b"", raw)
    if b"\0" in raw:
        raw = b"\n".join(_narrow(line) for line in raw.split(b"\n"))
    return raw


def fold(raw: bytes) -> bytes:
    """Return printable lines in lower case, byte for byte, as words are looked for in them."""
    return raw.translate(_FOLDED)


def clip(raw: bytes) -> bytes:
    """Return at most the first and last PART_BYTES of a line."""
    if len(raw) <= 2 * PART_BYTES:
        return raw
    return raw[:PART_BYTES] + MISSING.encode() + raw[-PART_BYTES:]


def clean(raw: bytes | str) -> Line:
    """Return the final state of the line; never raises, whatever the bytes."""
    if isinstance(raw, str):
        raw = raw.encode("utf-8", "surrogateescape")
    return read_line(printable(raw))


def read_line(raw: bytes) -> Line:
    """Return the final state of a line that is printable already."""
    text = clip(raw).decode("utf-8", "replace")
    if "\r" in text:
        text = _last_state(text)
    if not text.isprintable():
        text = text.translate(_UNPRINTABLE)
    return _without_prefixes(text.rstrip())


def named_rank(text: str) -> int | None:
    """Return the rank that a logger wrote somewhere before its message."""
    match = _NAMED_RANK.search(text, 0, MOST_HEAD)
    return int(match[1]) if match else None


def _narrow(line: bytes) -> bytes:
    """UTF-16 without a sign of it, as where a shell of Windows appends to a file."""
    wide = len(line) >= 4 and line.count(0) >= _WIDE_SHARE * len(line)
    return line.replace(b"\0", b"") if wide else line


def _last_state(text: str) -> str:
    """What a terminal shows after carriage returns: each state is overwritten by the next."""
    for state in reversed(text.split("\r")):
        if state.strip():
            return state
    return ""


def _without_prefixes(text: str) -> Line:
    rank: int | None = None
    for _ in range(MOST_PREFIXES):
        match = _PREFIX.match(text)
        if match is None:
            break
        # torch's own word outranks a task number
        if match.lastgroup and (rank is None or match.lastgroup in ("torch", "actor")):
            rank = int(match[match.lastgroup])
        text = text[match.end() :]
    if rank is None:
        rank = named_rank(text)
    if "[repeated " in text:
        text = _REPEATED.sub("", text)
    return Line(text=text, rank=rank)
