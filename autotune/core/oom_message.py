"""Reads the figures out of an out-of-memory message, whichever wording the framework used."""

import re

from autotune.core.evidence import OomFigures

_UNITS = {
    "byte": 1, "bytes": 1, "b": 1,
    "kib": 2**10, "mib": 2**20, "gib": 2**30, "tib": 2**40, "pib": 2**50, "eib": 2**60,
    "kb": 2**10, "mb": 2**20, "gb": 2**30, "tb": 2**40,  # allocators mean binary by these too
}  # fmt: skip
_SIZE = r"(\d{1,24}(?:\.\d{1,6})?) ?([KMGTPE]i?B|[Bb]ytes?|B)\b"
_REQUESTED = (
    r"[Tt]ried to allocate (?:more than )?",  # torch, CUDA and HIP
    r"you tried to allocate ",  # torch, CPU
    r"[Aa]llocation of size ",
    r"(?:failed|unable|[Cc]annot|could not) (?:to )?allocate (?:memory: )?",
)
_CAPACITY = (r"total capac?i?ty of ",)
_CAPACITY_BEFORE = (r" total capacity",)
_FREE = (r"of which ",)
_FREE_BEFORE = (r" free;", r" free\b")
_PROCESS = (r"this process has ",)
_ALLOCATED = (r"[Oo]f the allocated memory ",)
_ALLOCATED_BEFORE = (r" already allocated", r" is allocated by PyTorch")
_RESERVED_BEFORE = (r" reserved in total",)
# Up to torch 1.4 "cached" was what the allocator kept beyond what is allocated.
_UNALLOCATED_BEFORE = (r" is reserved by PyTorch but unallocated", r" cached\b")
_LIMIT_BEFORE = (r" allowed\b",)
_OTHER = re.compile(r"Process (\d{1,10}) has " + _SIZE)
# A listed process of about what we hold ourselves is ourselves: a container does not know its pid.
CONTEXT_BYTES = 2 * 2**30


def parse_oom(message: str) -> OomFigures:
    """Return what the message states; None for what it does not; never raises."""
    text = _first_message(message)
    allocated = _first(_after(text, _ALLOCATED), _before(text, _ALLOCATED_BEFORE))
    reserved = _before(text, _RESERVED_BEFORE)
    unallocated = _before(text, _UNALLOCATED_BEFORE)
    if reserved is None and allocated is not None and unallocated is not None:
        reserved = allocated + unallocated
    process = _after(text, _PROCESS)
    listed = [_bytes(match[2], match[3]) for match in _OTHER.finditer(text)]
    process, others = _own_and_others(process, reserved, listed)
    return OomFigures(
        requested_bytes=_after(text, _REQUESTED),
        capacity_bytes=_first(_after(text, _CAPACITY), _before(text, _CAPACITY_BEFORE)),
        limit_bytes=_before(text, _LIMIT_BEFORE),
        free_bytes=_first(_after(text, _FREE), _before(text, _FREE_BEFORE)),
        allocated_bytes=allocated,
        reserved_bytes=reserved,
        process_bytes=process,
        other_processes_bytes=others,
    )


def has_figures(figures: OomFigures) -> bool:
    """Say whether anything at all was read."""
    return figures != OomFigures()


def _first_message(message: str) -> str:
    """The first of several messages written into one line by several ranks."""
    starts = [match.start() for match in re.finditer(r"[Tt]ried to allocate", message)]
    return message[: starts[1]] if len(starts) > 1 else message


def _own_and_others(
    process: int | None, reserved: int | None, listed: list[int]
) -> tuple[int | None, int | None]:
    """Tell the job's own entry among the listed processes from strangers."""
    if process is None and reserved is not None:
        for size in listed:
            if reserved <= size + 2**20 and size <= reserved + CONTEXT_BYTES:
                listed = [other for other in listed if other != size]
                return size, sum(listed)
    if process is None or not listed:
        return process, sum(listed) if listed else None
    return process, sum(listed)


def _after(text: str, leads: tuple[str, ...]) -> int | None:
    for lead in leads:
        match = re.search(lead + _SIZE, text)
        if match:
            return _bytes(match[1], match[2])
    return None


def _before(text: str, tails: tuple[str, ...]) -> int | None:
    for tail in tails:
        match = re.search(_SIZE + tail, text)
        if match:
            return _bytes(match[1], match[2])
    return None


def _first(*values: int | None) -> int | None:
    return next((value for value in values if value is not None), None)


def _bytes(number: str, unit: str) -> int:
    whole, _, fraction = number.partition(".")
    scale = _UNITS[unit.lower()]
    return int(whole) * scale + (round(float(f"0.{fraction}") * scale) if fraction else 0)
