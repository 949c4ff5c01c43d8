"""Reads lines of the kernel's log that may concern a training: kills, Xids, traps, stuck tasks."""

import re
from collections.abc import Callable, Iterable
from dataclasses import replace

from autotune.core.evidence import KernelEvent

LONGEST_TEXT = 300
# Looked for before any pattern is tried: nearly every line of a kernel's log is none of ours.
_WORDS = (
    "oom-kill:", "illed process ", "ill process ", "Xid (", "allen off the bus", "segfault at",
    "traps:", " trap ", "general protection", "blocked for more than", "hardware memory corruption",
    "fork rejected",
)  # fmt: skip
_BUS = r"(?:PCI:)?([0-9a-fA-F]{4,8}:[0-9a-fA-F]{2}:[0-9a-fA-F]{2})"
_TASK = r"(.{0,64}?)"
_CHOICE = re.compile(  # since Linux 5.0, one line before the kill itself
    r"oom-kill:constraint=CONSTRAINT_(\w{1,20}),.{0,4000}?task_memcg=(.{0,1000}?),"
    r"task=(.{0,64}?),pid=(\d{1,10}),uid="
)
_KILL = re.compile(
    rf"(Memory cgroup out|Out) of memory[^:]{{0,40}}: Kill(?:ed)? process (\d{{1,10}}) \({_TASK}\)"
)
_KILLED = re.compile(rf"^Killed process (\d{{1,10}}) \({_TASK}\)")  # before Linux 5.3
_SIZES = re.compile(r"(total-vm|anon-rss|file-rss|shmem-rss):(\d{1,15})kB")
_XID = re.compile(rf"NVRM: Xid \({_BUS}[^)]{{0,40}}\): (\d{{1,4}})\b")
_XID_PID = re.compile(r"pid=(\d{1,10}), name=([^,]{0,64})")
_OFF_THE_BUS = re.compile(rf"NVRM: .{{0,40}}GPU (?:at )?{_BUS}.{{0,20}}allen off the bus")
_TRAP = re.compile(
    rf"^(?:traps: )?{_TASK}\[(\d{{1,10}})\](?: trap |:? segfault at |: general protection|"
    r" general protection)"
)
_HUNG = re.compile(rf"task {_TASK}:(\d{{1,10}}) blocked for more than \d{{1,8}} seconds")
_POISON = re.compile(rf"(?:Killing|MCE: Killing) {_TASK}:(\d{{1,10}}) due to hardware memory corr")
_FORK = re.compile(r"fork rejected by pids controller in (.{0,1000})")


def parse_kernel_line(text: str) -> KernelEvent | None:
    """Return what one line tells, or None where it is none of what we look for; never raises."""
    if not any(word in text for word in _WORDS):
        return None
    for read in _READERS:
        event = read(text)
        if event is not None:
            return replace(event, text=text[:LONGEST_TEXT])
    return None


def merge(events: Iterable[KernelEvent]) -> list[KernelEvent]:
    """Return the events with the several lines of one kill made one."""
    merged: list[KernelEvent] = []
    places: dict[int, int] = {}
    for event in events:
        place = places.get(event.pid) if event.kind == "oom_kill" and event.pid else None
        if place is not None and _near(merged[place], event):
            merged[place] = _one(merged[place], event)
            continue
        if event.kind == "oom_kill" and event.pid:
            places[event.pid] = len(merged)
        merged.append(event)
    return merged


def normal_bus_id(text: str) -> str:
    """Return a PCI address as domain:bus:device, however NVML or the kernel wrote it."""
    match = re.search(r"([0-9a-fA-F]{4,8}):([0-9a-fA-F]{2}):([0-9a-fA-F]{2})", text)
    return f"{match[1][-4:]}:{match[2]}:{match[3]}".lower() if match else ""


def _near(one: KernelEvent, other: KernelEvent) -> bool:
    if one.seconds is None or other.seconds is None:
        return True
    return abs(one.seconds - other.seconds) < 60


def _one(first: KernelEvent, second: KernelEvent) -> KernelEvent:
    """The line with the sizes is the one people know; what it lacks comes from the other."""
    sized = second if second.virtual_bytes is not None else first
    other = first if sized is second else second
    return replace(
        sized,
        constraint=other.constraint or sized.constraint,
        cgroup=sized.cgroup or other.cgroup,
        task=sized.task or other.task,
        seconds=first.seconds,
    )


def _choice(text: str) -> KernelEvent | None:
    match = _CHOICE.search(text)
    if match is None:
        return None
    return KernelEvent(
        "oom_kill", "", pid=int(match[4]), task=match[3],
        constraint=match[1].lower(), cgroup=match[2],
    )  # fmt: skip


def _kill(text: str) -> KernelEvent | None:
    match = _KILL.search(text)
    if match is not None:
        constraint = "memcg" if match[1].startswith("Memory cgroup") else "none"
        pid, task = match[2], match[3]
    else:
        match = _KILLED.search(text)
        if match is None:
            return None
        constraint, pid, task = "", match[1], match[2]
    sizes = {name: int(value) * 1024 for name, value in _SIZES.findall(text)}
    resident = sum(size for name, size in sizes.items() if name != "total-vm")
    return KernelEvent(
        "oom_kill", "", pid=int(pid), task=task, constraint=constraint,
        resident_bytes=resident if len(sizes) > 1 else None,
        virtual_bytes=sizes.get("total-vm"),
    )  # fmt: skip


def _xid(text: str) -> KernelEvent | None:
    match = _XID.search(text)
    if match is None:
        gone = _OFF_THE_BUS.search(text)
        return KernelEvent("xid", "", bus_id=normal_bus_id(gone[1]), code=79) if gone else None
    named = _XID_PID.search(text)
    return KernelEvent(
        "xid", "", bus_id=normal_bus_id(match[1]), code=int(match[2]),
        pid=int(named[1]) if named else None, task=named[2] if named else "",
    )  # fmt: skip


def _trap(text: str) -> KernelEvent | None:
    return _of_task("trap", _TRAP.search(text))


def _hung(text: str) -> KernelEvent | None:
    return _of_task("hung_task", _HUNG.search(text))


def _poison(text: str) -> KernelEvent | None:
    return _of_task("memory_failure", _POISON.search(text))


def _of_task(kind: str, match: re.Match[str] | None) -> KernelEvent | None:
    return KernelEvent(kind, "", task=match[1], pid=int(match[2])) if match else None


def _fork(text: str) -> KernelEvent | None:
    match = _FORK.search(text)
    return KernelEvent("fork_refused", "", cgroup=match[1].strip()) if match else None


_READERS: tuple[Callable[[str], KernelEvent | None], ...] = (
    _choice, _kill, _xid, _trap, _hung, _poison, _fork,
)  # fmt: skip
