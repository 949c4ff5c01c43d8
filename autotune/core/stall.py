"""Tells a training that hangs from one that is slow, by two looks at its processes."""

from dataclasses import dataclass

from autotune.core.failure import Role
from autotune.core.stack import STOPPED, Stack

BUSY_SHARE = 0.1  # of one core, between the two looks; a crowded machine gives little of it
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
    if first.frames and second.frames and _place(first) != _place(second):
        return f"the stack of {second.name} moves"
    if second.waiting and second.waiting.role is Role.CASCADE:
        return None  # NCCL spins while it waits, so a busy processor excuses no collective
    share = _share(first, second, seconds)
    if share is not None and share >= BUSY_SHARE:
        return f"{second.name} computes at {share:.0%} of a core"
    return f"{second.name} computes" if RUNNING in (first.state, second.state) else None


def _place(stack: Stack) -> tuple[object, ...]:
    """Where it stands: its frames, without the lines between which a loop of waiting turns."""
    waiting = stack.waiting
    if waiting is None or waiting.frame not in stack.frames:
        return stack.frames
    outer = stack.frames[stack.frames.index(waiting.frame) + 1 :]
    return (waiting.signature, waiting.frame.function, outer)


def _share(first: Stack, second: Stack, seconds: float) -> float | None:
    if first.cpu_seconds is None or second.cpu_seconds is None or seconds <= 0:
        return None
    return (second.cpu_seconds - first.cpu_seconds) / seconds
