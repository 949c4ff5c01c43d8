"""Tells a training that hangs from one that is slow, by two looks at its processes."""

from dataclasses import dataclass

from autotune.core.stack import STOPPED, Stack

# Of one core, between the two looks; a crowded machine gives little of it. NCCL spins while it
# waits, so this excuses only a process whose stack names no wait.
BUSY_SHARE = 0.1
RUNNING = "R"


@dataclass(frozen=True)
class Stall:
    """A silence that nothing explains, and what the looks into it have shown."""

    doing: str
    silent_seconds: float
    explained_seconds: float
    lines: int  # of output read by then: what was printed later was printed at its end
    looks: int = 0  # how often it was found moving before, and given more time
    moving: str | None = None  # what moves without getting anywhere


def still_moving(first: tuple[Stack, ...], second: tuple[Stack, ...], seconds: float) -> str | None:
    """Return the sentence why this may be slowness, or None where everything stands still."""
    if second and all(stack.state in STOPPED for stack in second):
        return "all of it is stopped, as by somebody who means to let it go on later"
    before = {stack.pid: stack for stack in first}
    for stack in second:
        if stack.pid not in before:
            return f"{stack.name} is new"
        why = _moves(before[stack.pid], stack, seconds)
        if why is not None:
            return why
    return None


def _moves(first: Stack, second: Stack, seconds: float) -> str | None:
    if second.state in STOPPED:
        return None
    if second.waiting and first.waiting and first.waiting.signature == second.waiting.signature:
        return None  # a loop of waiting shows other lines each time
    if first.frames and second.frames and first.frames != second.frames:
        return f"the stack of {second.name} moves"
    share = _share(first, second, seconds)
    if share is not None and share >= BUSY_SHARE:
        return f"{second.name} computes at {share:.0%} of a core"
    return f"{second.name} computes" if RUNNING in (first.state, second.state) else None


def _share(first: Stack, second: Stack, seconds: float) -> float | None:
    if first.cpu_seconds is None or second.cpu_seconds is None or seconds <= 0:
        return None
    return (second.cpu_seconds - first.cpu_seconds) / seconds
