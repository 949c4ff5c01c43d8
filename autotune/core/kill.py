"""Names who was killed for memory, and how sure a death without a word lets us be."""

import re
from collections.abc import Sequence
from dataclasses import replace

from autotune.core.evidence import Evidence, KernelEvent, Machine
from autotune.core.exit_code import signal_of
from autotune.core.failure import Failure, Trait
from autotune.core.finding import Finding, with_trait, words_of
from autotune.core.units import show_bytes

# How sure each kind of record makes us that memory was the cause.
FROM_OWN_RECORD = 0.97  # the kernel names a process of ours
FROM_OWN_COUNTER = 0.95  # a cgroup that holds nothing but the attempt counted it
FROM_SHARED_COUNTER = 0.85  # the cgroup we live in, perhaps with others, counted it
FROM_LIKELY_RECORD = 0.85  # the kernel names a process that is most likely ours
FROM_MACHINE_COUNTER = 0.7  # somebody on this machine was killed for memory
FROM_SCARCITY = 0.6  # nothing was counted, and hardly anything was left
FROM_PLENTY = 0.25  # nothing was counted, and much was left

SCARCE_SHARE = 0.05  # of the machine's memory available: programs kill for less, without a record
STALLED_SECONDS = 10  # that every task waited for memory: what systemd-oomd goes by
LIVED_THROUGH_SECONDS = 180  # before the end: what happened so long ago was lived through

# What the others show, or nobody shows, when the kernel has killed a process.
_VEILS = frozenset({
    Failure.UNKNOWN, Failure.USER_CODE_ERROR, Failure.HANG, Failure.PREEMPTED,
    Failure.COLLECTIVE_ERROR, Failure.COLLECTIVE_TIMEOUT, Failure.RENDEZVOUS_PORT,
})  # fmt: skip
_WAITING = frozenset({Failure.HANG, Failure.COLLECTIVE_TIMEOUT})  # which end long after the cause
_BUILDS = frozenset({Failure.OP_BUILD, Failure.OFFLOAD_DEVICE})
_SIGKILL = 9
_BARE_KILLS = frozenset({"killed_outright", "map_worker_died"})
_COMPILERS = ("cc1", "nvcc", "cicc", "ptxas", "cudafe", "as", "ld", "c++", "g++", "gcc", "ninja")
_CONSTRAINTS = {
    "memcg": "its memory cgroup was full",
    "none": "the machine's memory was full",
    "cpuset": "the memory its cpuset allows was full",
    "memory_policy": "the memory its policy allows was full",
}


def killed(evidence: Evidence, finding: Finding) -> Finding | None:
    """Return the finding as kills, or the lack of any, make it; None where they say nothing."""
    machine = evidence.machine
    kills = [
        event for event in machine.kernel
        if event.kind == "oom_kill" and event.ours is not False
        and _in_time(event.seconds, finding, evidence, event.rank)
    ]  # fmt: skip
    said = words_of(evidence, finding)
    sure = [e for e in kills if e.ours or _named(e, said)]
    if sure and _explained(finding, sure):
        return _host_oom(finding, FROM_OWN_RECORD, _record(sure), sure)
    if _veiled(finding) and _in_time(machine.counted_seconds, finding, evidence):
        count = evidence.memory.cgroup_oom_kills
        if count:
            why = f"the kernel killed {count} of its processes for memory"
            return _host_oom(finding, FROM_OWN_COUNTER, why, kills)
        if machine.cgroup_kills:
            count = machine.cgroup_kills
            why = f"the kernel killed {count} for memory in the cgroup that this run lives in"
            return _host_oom(finding, FROM_SHARED_COUNTER, why, kills)
    if not _without_a_word(finding, evidence):
        return None
    if kills:
        why = f"{_record(kills)}; most likely it was this training's"
        return _host_oom(finding, FROM_LIKELY_RECORD, why, kills)
    return _no_record(machine, finding)


def _explained(finding: Finding, kills: Sequence[KernelEvent]) -> bool:
    if finding.failure in _BUILDS:
        return any(event.task.startswith(_COMPILERS) for event in kills)
    return _veiled(finding)


def _in_time(
    at: float | None, finding: Finding, evidence: Evidence, rank: int | None = None
) -> bool:
    """Whether a kill can have been the end: what a training lived through was not."""
    return rank is not None or finding.failure in _WAITING or not lived_through(at, evidence)


def lived_through(at: float | None, evidence: Evidence) -> bool:
    """Return whether the training is known to have gone on for long after this moment."""
    if at is None or evidence.seconds is None:
        return False
    return evidence.seconds - at > LIVED_THROUGH_SECONDS


def _veiled(finding: Finding) -> bool:
    return finding.failure is Failure.HOST_OOM or finding.failure in _VEILS


def _without_a_word(finding: Finding, evidence: Evidence) -> bool:
    """A host_oom that rests on a bare kill, and on no words that name memory."""
    if finding.failure is not Failure.HOST_OOM:
        return False
    if not finding.rests_on:
        return _SIGKILL in (evidence.signal, signal_of(evidence.exit_code))
    return all(sign.signature in _BARE_KILLS for sign in finding.rests_on)


def _named(event: KernelEvent, said: str) -> bool:
    """Whether the training's own words speak of the process that was killed."""
    pid = event.pid
    return pid is not None and bool(re.search(rf"(?i)\bpid.{{0,80}}?\b{pid}\b", said))


def _record(kills: Sequence[KernelEvent]) -> str:
    """Who was killed, in the kernel's words made ours."""
    first = next((event for event in kills if event.rank is not None), kills[0])
    process = f"{first.task or 'a process'} (process {first.pid})"
    who = f"rank {first.rank}, {process}" if first.rank is not None else process
    held = f", which held {show_bytes(first.resident_bytes)}" if first.resident_bytes else ""
    reason = _CONSTRAINTS.get(first.constraint, "memory ran out")
    more = f"; {len(kills) - 1} more were killed too" if len(kills) > 1 else ""
    return f"the kernel killed {who}{held}, because {reason}{more}"


def _host_oom(
    finding: Finding, confidence: float, why: str, kills: Sequence[KernelEvent]
) -> Finding:
    if finding.failure is not Failure.HOST_OOM:
        why += f"; the rest follows from that: {finding.why[:200]}"
    elif finding.rests_on:
        why += f"; {finding.why[:200]}"
    rank = next((event.rank for event in kills if event.rank is not None), finding.rank)
    return replace(
        finding, failure=Failure.HOST_OOM, why=why, rank=rank,
        confidence=max(confidence, finding.confidence)
        if finding.failure is Failure.HOST_OOM else confidence,
    ).resting_on(*kills[:3])  # fmt: skip


def _no_record(machine: Machine, finding: Finding) -> Finding | None:
    """A bare kill that nobody recorded: what was left of memory decides how much we believe."""
    total, available = machine.memory_bytes, machine.available_low_bytes
    scarce = None if not total or available is None else available < SCARCE_SHARE * total
    if (machine.stalled_seconds or 0) >= STALLED_SECONDS:
        scarce = True
    left = f"the machine had at least {show_bytes(available)} of memory available"
    if machine.oom_kills and not machine.kernel_read:
        why = f"{machine.oom_kills} processes of this machine were killed for memory meanwhile"
        return replace(finding, confidence=FROM_MACHINE_COUNTER, why=f"{finding.why}; {why}")
    # Where the log was read, it says that whatever was counted befell others.
    looked = "the kernel's log holds" if machine.kernel_read else "the kernel counted"
    if machine.kernel_read is not True and machine.oom_kills is None:
        if not scarce:
            return None
        why = f"the machine had no more than {show_bytes(available)} of memory available"
        return replace(finding, confidence=FROM_SCARCITY, why=f"{finding.why}; {why}")
    if scarce:
        why = (
            f"{looked} no such kill for memory, but memory was short"
            f" ({show_bytes(available)} available):"
            " a program that kills early (systemd-oomd, earlyoom) leaves no record there"
        )
        return replace(finding, confidence=FROM_SCARCITY, why=f"{finding.why}; {why}")
    why = f"it was killed, yet {looked} no such kill for memory"
    why += f", and {left}" if scarce is False else ""
    why += ": an administrator, `kill -9` or a scheduler is as likely"
    suspected = replace(finding, confidence=FROM_PLENTY, why=f"{why}; {finding.why}")
    return with_trait(suspected, Trait.UNEXPLAINED_KILL) if scarce is False else suspected
