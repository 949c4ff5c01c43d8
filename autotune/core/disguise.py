"""Sees through what a failure looks like: kills, full memories and broken cards without words.

What was printed and raised is named first, in `core/diagnosis.py`; here that finding is held
against what the kernel, the counters and the cards say. Nothing is changed where they say nothing.
"""

import re
from collections.abc import Callable
from dataclasses import replace

from autotune.core.broken_card import broken_card
from autotune.core.curve import Course, course_of_host, course_of_rank
from autotune.core.evidence import Evidence, OomFigures
from autotune.core.exit_code import signal_of
from autotune.core.failure import Failure, Phase, Role, Trait
from autotune.core.finding import Finding, with_trait, words_of
from autotune.core.kill import killed
from autotune.core.units import show_bytes

# How sure each makes us.
FROM_FULL_SHARED_MEMORY = 0.9
FROM_ROOMY_SHARED_MEMORY = 0.35
FROM_NAMED_PINNING = 0.9
FROM_EMPTY_CARD = 0.75
FROM_FULL_CARD = 0.9
FROM_CONTRADICTED_WORDS = 0.4
FROM_PROCESS_LIMIT = 0.85
FROM_BAD_MEMORY = 0.8

FULL_SHARE = 0.1  # of a card free: one library handle less may have been refused
EMPTY_SHARE = 0.5  # of a card free: nothing small is refused for want of memory there
SHM_FULL_SHARE = 0.02  # of /dev/shm free
THREADS_SHARE = 0.5  # of the limit on processes, held by the attempt itself

_SIGBUS = 7
_PIN_SIGNS = ("pinning", "frame_in_pinning")
_LINES_OF_A_TRACEBACK = 80
_BUS_ERROR = re.compile(r"\b[Bb]us error\b")
# What torch and Python write of a file there; a name alone proves it only where it is full.
_IN_SHARED = re.compile(r"/dev/shm\b|file </torch_\d")  # noqa: S108 - words, not a file of ours
_SHARED = re.compile(r"shared_memory|multiprocessing/(?:heap|synchronize)|/torch_\d{1,9}_")
_BARE = re.compile(r"CUDA error: out of memory|cudaErrorMemoryAllocation|CUDA_ERROR_OUT_OF_MEMORY")
_PINNING = re.compile(  # a call that pins, and not an argument that asks for it
    r"pin_memory(?: ?\(|\.py|$)|cudaHostAlloc|cudaHostRegister|CachingHostAllocator", re.MULTILINE
)
_LIBRARY = re.compile(r"CU(?:BLAS|DNN|SPARSE|SOLVER|FFT)_STATUS_(?:ALLOC_FAILED|NOT_INITIALIZED)")
_THREADS = re.compile(
    r"can't start new thread|Thread creation failed|pthread_create failed|allocate necessary"
    r" resources for OMP thread|Resource temporarily unavailable"
)
_CRASHED = re.compile(
    r"SIGSEGV|SIGABRT|Segmentation fault|Segfault|Fatal Python error|signal: Abort"
)
# What the same words are taken for where nothing is known of the card.
_UNDER_A_LIBRARY = (Failure.USER_CODE_ERROR, Failure.ILLEGAL_ACCESS, Failure.DRIVER_MISMATCH)
_OF_MEMORY = (Failure.DEVICE_OOM, Failure.HOST_OOM)
_LOADING = (Phase.LOAD, Phase.OPTIMIZER_CREATION, Phase.RESUME)


def unmask(evidence: Evidence, finding: Finding) -> Finding:
    """Return the finding as it stands once what has no words is heard too; never raises."""
    if finding.failure is Failure.NONE:
        return finding
    for see in (
        broken_card, killed, _bus_error, _shared_memory, _pinned, _library, _processes,
    ):  # fmt: skip
        seen = see(evidence, finding)
        if seen is not None:
            finding = seen
            break
    for add in _ADDITIONS:
        finding = add(evidence, finding)
    return finding


def _bus_error(evidence: Evidence, finding: Finding) -> Finding | None:
    """A mapped page that could not be had: of /dev/shm, of a file cut short, of bad memory."""
    by_signal = _SIGBUS in (evidence.signal, signal_of(evidence.exit_code))
    if not by_signal and not _BUS_ERROR.search(words_of(evidence, finding)):
        return None
    for event in evidence.machine.kernel:
        if event.kind == "memory_failure" and event.ours:
            why = f"a memory module of the machine is broken, says its kernel: {event.text}"
            return replace(
                finding, failure=Failure.UNKNOWN, confidence=FROM_BAD_MEMORY, why=why
            ).resting_on(event)
    if finding.failure not in (Failure.HOST_OOM, Failure.USER_CODE_ERROR, Failure.UNKNOWN):
        return None
    full = _shm_full(evidence)
    if full:
        return _full_shared_memory(evidence, finding)
    rests_on_roots = any(sign.role is Role.ROOT for sign in finding.rests_on)
    if full is None or finding.failure is not Failure.HOST_OOM or rests_on_roots:
        return None
    free = show_bytes(evidence.machine.shm_free_low_bytes)
    why = (
        f"{finding.why}; yet /dev/shm was never seen with less than {free} free:"
        " a mapped file that was cut short does the same"
    )
    return replace(finding, confidence=FROM_ROOMY_SHARED_MEMORY, why=why)


def _shared_memory(evidence: Evidence, finding: Finding) -> Finding | None:
    """`No space left on device`, where the device is /dev/shm."""
    if finding.failure is not Failure.DISK_FULL:
        return None
    said = words_of(evidence, finding)
    if _IN_SHARED.search(said) or (_shm_full(evidence) and _SHARED.search(said)):
        return _full_shared_memory(evidence, finding)
    return None


def _full_shared_memory(evidence: Evidence, finding: Finding) -> Finding:
    machine = evidence.machine
    why = f"{finding.why}; shared memory ran out"
    if _shm_full(evidence):
        why += (
            f": /dev/shm holds {show_bytes(machine.shm_bytes)}"
            f" and had {show_bytes(machine.shm_free_low_bytes)} left"
        )
    found = replace(finding, failure=Failure.HOST_OOM, confidence=FROM_FULL_SHARED_MEMORY, why=why)
    return with_trait(found, Trait.SHARED_MEMORY_FULL)


def _shm_full(evidence: Evidence) -> bool | None:
    size, free = evidence.machine.shm_bytes, evidence.machine.shm_free_low_bytes
    return None if not size or free is None else free <= SHM_FULL_SHARE * size


def _pinned(evidence: Evidence, finding: Finding) -> Finding | None:
    """CUDA's own out-of-memory, where it was the host's page-locked memory that ran out."""
    if finding.failure is not Failure.DEVICE_OOM or evidence.memory.device == "cpu":
        return None
    said = words_of(evidence, finding)
    if finding.figures.requested_bytes is not None or not _BARE.search(said):
        return None
    limit = evidence.machine.lock_limit_bytes
    locked = f" (a process may lock {show_bytes(limit)})" if limit is not None else ""
    roomy = _card_free_share(evidence, finding)
    if _PINNING.search(said) or _pinning_frame(evidence, finding):
        why = f"{finding.why}; it was pinning host memory{locked}, which is what ran out"
        confidence = FROM_NAMED_PINNING
    elif roomy is not None and roomy >= EMPTY_SHARE:
        why = (
            f"{finding.why}; {roomy:.0%} of the card was free, so page-locked host memory"
            f"{locked} is what ran out"
        )
        confidence = FROM_EMPTY_CARD
    else:
        return None
    found = replace(finding, failure=Failure.HOST_OOM, confidence=confidence, why=why)
    return with_trait(found, Trait.PINNED_MEMORY)


def _pinning_frame(evidence: Evidence, finding: Finding) -> bool:
    """A frame that pins, in the traceback that the finding's line ends."""
    lines = [s.line for s in evidence.signs if s.signature in _PIN_SIGNS]
    return any(
        0 <= sign.line - line <= _LINES_OF_A_TRACEBACK
        for sign in finding.rests_on for line in lines
    )  # fmt: skip


def _library(evidence: Evidence, finding: Finding) -> Finding | None:
    """A CUDA library that got no memory for its handle, or something else under those words."""
    said = words_of(evidence, finding)
    match = _LIBRARY.search(said)
    judged = (Failure.DEVICE_OOM, *_UNDER_A_LIBRARY)
    if match is None or finding.failure not in judged:
        return None
    share = _card_free_share(evidence, finding)
    if share is None:
        return None
    if share <= FULL_SHARE:
        why = f"{finding.why}; the card had {share:.0%} free when {match[0]} was raised"
        return replace(finding, failure=Failure.DEVICE_OOM, confidence=FROM_FULL_CARD, why=why)
    if share >= EMPTY_SHARE and finding.failure is Failure.DEVICE_OOM:
        why = f"{finding.why}; yet {share:.0%} of the card was free: not for want of memory"
        return replace(
            finding, failure=Failure.USER_CODE_ERROR, confidence=FROM_CONTRADICTED_WORDS, why=why
        )
    return None


def _card_free_share(evidence: Evidence, finding: Finding) -> float | None:
    """How much of the card was free: by the message, by NVML, by what the rank itself held."""
    memory, figures = evidence.memory, finding.figures
    total = figures.capacity_bytes or memory.device_total_bytes
    if not total:
        return None
    if figures.free_bytes is not None:
        return figures.free_bytes / total
    # NVML is asked once a second, and the last moments of a training are shorter than that.
    left = max(0, total - (figures.reserved_bytes or figures.allocated_bytes or 0))
    sampled = memory.device_free_low_bytes
    if sampled is None:  # what a rank held can show a card full, and never empty
        return left / total if left <= FULL_SHARE * total else None
    return min(sampled, left) / total


def _processes(evidence: Evidence, finding: Finding) -> Finding | None:
    """A thread refused because there may not be more of them, not for want of memory."""
    judged = (*_OF_MEMORY, Failure.USER_CODE_ERROR)
    if finding.failure not in judged or not _THREADS.search(words_of(evidence, finding)):
        return None
    machine = evidence.machine
    refused = [e for e in machine.kernel if e.kind == "fork_refused" and e.ours is not False]
    if refused:
        because = "its cgroup allows no more processes, says the kernel"
    elif (
        machine.process_limit is not None and machine.threads_peak is not None
        and machine.threads_peak >= THREADS_SHARE * machine.process_limit
    ):  # fmt: skip
        because = (
            f"it ran {machine.threads_peak} threads, and its user may have"
            f" {machine.process_limit} processes and threads (ulimit -u)"
        )
    else:
        return None
    found = replace(
        finding, failure=Failure.HOST_OOM, confidence=FROM_PROCESS_LIMIT,
        why=f"{finding.why}; {because}",
    ).resting_on(*refused[:1])  # fmt: skip
    return with_trait(found, Trait.PROCESS_LIMIT)


def _sharing(evidence: Evidence, finding: Finding) -> Finding:
    """Words that name shared memory, where no counter was needed to see it."""
    del evidence
    named = any(sign.signature == "shared_memory_exhausted" for sign in finding.rests_on)
    if not named or Trait.SHARED_MEMORY_FULL in finding.traits:
        return finding
    return with_trait(finding, Trait.SHARED_MEMORY_FULL)


def _exceeding(evidence: Evidence, finding: Finding) -> Finding:
    """One request that no device of this size can serve, whatever else is taken off it."""
    if finding.failure is not Failure.DEVICE_OOM or not exceeds_device(
        finding.figures, evidence.memory.device_total_bytes
    ):
        return finding
    asked = show_bytes(finding.figures.requested_bytes)
    why = (
        f"{finding.why}; one request of {asked} is larger than the whole device: no smaller"
        " share of anything else cures that, only a smaller tensor"
    )
    return with_trait(replace(finding, why=why), Trait.REQUEST_EXCEEDS_DEVICE)


def exceeds_device(figures: OomFigures, device_bytes: int | None = None) -> bool:
    """Return whether one request was larger than all that the device, or its cap, can hold."""
    sizes = (figures.capacity_bytes, figures.limit_bytes, device_bytes)
    size = min((size for size in sizes if size), default=None)
    return (
        size is not None
        and figures.requested_bytes is not None
        and (figures.requested_bytes > size)
    )


def _leaking(evidence: Evidence, finding: Finding) -> Finding:
    """Memory that grew until the end: a fresh start has room again, less work only delays."""
    if finding.failure not in _OF_MEMORY or finding.phase in _LOADING:
        return finding
    look = course_of_rank if finding.failure is Failure.DEVICE_OOM else course_of_host
    if look(evidence.memory.curve) is not Course.LEAKING:
        return finding
    why = f"{finding.why}; its memory had grown slowly and steadily until then, as a leak does"
    return with_trait(replace(finding, why=why), Trait.LEAKING)


def _stuck_or_crashed(evidence: Evidence, finding: Finding) -> Finding:
    """Where the kernel saw a process of ours crash or stuck, its words say in what."""
    wanted = {Failure.HANG: "hung_task", Failure.USER_CODE_ERROR: "trap"}.get(finding.failure)
    if finding.failure is Failure.USER_CODE_ERROR and not _CRASHED.search(finding.why):
        return finding
    events = [e for e in evidence.machine.kernel if e.kind == wanted and e.ours]
    if not events:
        return finding
    rank = finding.rank if finding.rank is not None else events[0].rank
    why = f"{finding.why}; the kernel's log says: {events[0].text}"
    return replace(finding, why=why, rank=rank).resting_on(*events[:3])


_ADDITIONS: tuple[Callable[[Evidence, Finding], Finding], ...] = (
    _sharing,
    _exceeding,
    _leaking,
    _stuck_or_crashed,
)
