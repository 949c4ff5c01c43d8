"""Names what a training hangs on: the process that holds the others up, and what it waits for."""

import re
from dataclasses import replace

from autotune.core.evidence import Evidence, Reason
from autotune.core.failure import Failure, Role
from autotune.core.finding import Finding
from autotune.core.stack import ON_DISK, STOPPED, Frame, Stack
from autotune.core.units import show_seconds

# How sure each kind of sight makes us.
SEEN_STOPPED = 0.95
SEEN_WAITING = 0.9
SEEN_TOGETHER = 0.7  # all wait for each other, and what broke between them is out of sight
SEEN_STILL = 0.6
UNSEEN = 0.5
MOST_SHOWN = 8  # frames of one process
_LIBRARY = re.compile(r"^.{0,900}/(?:(?:site|dist)-packages|lib/python\d{1,2}\.\d{1,3})/")


def name_hang(evidence: Evidence) -> Finding:
    """Return what held it up, as far as the stacks show."""
    moving = evidence.stall is not None and evidence.stall.moving is not None
    culprit, confidence, why = _culprit(evidence.stacks, "is" if moving else "stands still")
    finding = Finding(
        culprit.waiting.failure if culprit and culprit.waiting else Failure.HANG,
        min(confidence, SEEN_STILL) if moving else confidence,
        f"{why.rstrip('.')}; {_silence(evidence)}",
        rank=culprit.rank if culprit else None,
        phase=evidence.phase,
    )
    ordered = sorted(evidence.stacks, key=lambda stack: stack is not culprit)
    return replace(finding, shown=tuple(r for stack in ordered for r in _reasons(stack))[:60])


def is_certain(finding: Finding) -> bool:
    """Return whether the stacks name a cause, so that words printed before it count for less."""
    return finding.confidence >= SEEN_WAITING


def _silence(evidence: Evidence) -> str:
    stall = evidence.stall
    if stall is None:
        return "it neither printed nor reported anything until autotune ended it"
    silent, allowed = show_seconds(stall.silent_seconds), show_seconds(stall.explained_seconds)
    text = f"nothing moved for {silent} {stall.doing}, where its rhythm explains {allowed}"
    return f"{text} ({stall.moving}, and gets nowhere)" if stall.moving else text


def _culprit(stacks: tuple[Stack, ...], verb: str) -> tuple[Stack | None, float, str]:
    """The process the others wait for, how sure that is, and the sentence that says so."""
    if not stacks:
        return None, UNSEEN, "no stack could be taken"
    stopped = [s for s in stacks if s.state in STOPPED]
    if stopped:
        return stopped[0], SEEN_STOPPED, _stopped(stopped)
    roots = [s for s in stacks if s.waiting and s.waiting.role is Role.ROOT]
    if roots:
        return roots[0], SEEN_WAITING, _waits(roots[0], _rest(stacks, roots[0]))
    together = [s for s in stacks if s.waiting and s.waiting.role is Role.CASCADE]
    others = [s for s in stacks if s not in together]
    if together and others:
        where = _elsewhere(others[0], verb)
        return others[0], SEEN_WAITING, f"{where}, and {_those_who_wait(together)}"
    if together:
        return None, SEEN_TOGETHER, _all_wait(together)
    weak = [s for s in others if s.waiting]
    if weak:
        return weak[0], SEEN_STILL, _waits(weak[0], _rest(stacks, weak[0]))
    first = max(others, key=lambda stack: (stack.state == ON_DISK, bool(stack.frames)))
    return first, SEEN_STILL if first.frames else UNSEEN, _elsewhere(first, verb)


def _stopped(stopped: list[Stack]) -> str:
    names = " and ".join(f"{s.name} (process {s.pid})" if s.rank is not None else s.name
                         for s in stopped[:4])  # fmt: skip
    pids = " ".join(str(s.pid) for s in stopped[:4])
    verb, them = ("is", "it") if len(stopped) == 1 else ("are", "them")
    return (
        f"{names} {verb} stopped, by SIGSTOP or a debugger, and everything waits for {them}; "
        f"`kill -CONT {pids}` would have let {them} go on"
    )


def _waits(stack: Stack, rest: str) -> str:
    waiting = stack.waiting
    if waiting is None:
        raise AssertionError("only a process that waits is asked what for")
    text = f"{stack.name}: {waiting.means}"
    text += "".join(_lock(lock.path, lock.ours) for lock in stack.locks[:4])
    odd = [h for h in stack.helpers if h.state in STOPPED or h.state in (ON_DISK, "Z")]
    if odd:
        shown = ", ".join(f"{h.name} {h.pid} {_state(h.state)}" for h in odd[:4])
        text += f" Of what it started: {shown}."
    return f"{text} It stands at {_place(stack)}.{rest}"


def _lock(path: str, ours: bool) -> str:
    if ours:
        return f" {path} is the run's own and is removed before the next start."
    return (
        f" {path} is not the run's own, so autotune leaves it alone: remove it once no build "
        "runs there."
    )


def _rest(stacks: tuple[Stack, ...], culprit: Stack) -> str:
    others = [s for s in stacks if s is not culprit and s.waiting]
    waiting = [s for s in others if s.waiting and s.waiting.role is Role.CASCADE]
    return f" Meanwhile {_those_who_wait(waiting)}." if waiting else ""


def _those_who_wait(stacks: list[Stack]) -> str:
    names = ", ".join(stack.name for stack in stacks[:8])
    verb = "waits" if len(stacks) == 1 else "wait"
    return f"{names} {verb} for it at {_place(stacks[0])}"


def _all_wait(stacks: list[Stack]) -> str:
    places = {(s.waiting.frame.file, s.waiting.frame.function) for s in stacks if s.waiting}
    if len(stacks) == 1:
        waiting = stacks[0].waiting
        return f"{stacks[0].name}: {waiting.means if waiting else ''} {_place(stacks[0])}"
    if len(places) > 1:
        shown = "; ".join(f"{stack.name} at {_place(stack)}" for stack in stacks[:8])
        return (
            f"the ranks wait for each other in different collectives ({shown}), so their ways "
            "parted before"
        )
    return (
        f"all ranks wait in the same collective, {_place(stacks[0])}, which never ends: what "
        "connects them does not answer, or one of them asked for another size"
    )


def _elsewhere(stack: Stack, verb: str) -> str:
    if stack.waiting:
        return _waits(stack, "").rstrip(".")
    where = f" at {_place(stack)}" if stack.frames else ""
    if stack.state == ON_DISK:
        kernel = f" ({stack.kernel})" if stack.kernel else ""
        return f"{stack.name} waits{where} for a disk or a network file system{kernel}"
    if not stack.frames:
        return f"{stack.name} does nothing, and its stack could not be taken"
    return f"{stack.name} {verb}{where}"


def _place(stack: Stack) -> str:
    """The frame that tells most, and where in code of its own the training came to it."""
    frame = stack.waiting.frame if stack.waiting else stack.frames[0]
    inner = stack.frames.index(frame) if frame in stack.frames else 0
    own = next((f for f in stack.frames[inner:] if not _LIBRARY.search(f.file)), frame)
    called = f", called from {_spot(own)}" if own is not frame else ""
    return f"{_spot(frame)}{called}"


def _spot(frame: Frame) -> str:
    file = _LIBRARY.sub("", frame.file) if _LIBRARY.search(frame.file) else frame.file
    return f"`{frame.function}` ({file}, line {frame.line})"


def _state(letter: str) -> str:
    words = {"T": "is stopped", "t": "is held by a debugger", "D": "waits for a disk"}
    return words.get(letter, "is dead and not collected")


def _reasons(stack: Stack) -> list[Reason]:
    waiting = stack.waiting
    name = waiting.signature if waiting else "stack"
    role = waiting.role if waiting else Role.CONTEXT
    state = f" [{stack.state}]" if stack.state else ""
    if not stack.frames:
        return [Reason(name, role, None, f"{stack.name}{state}: no frames")]
    frames = stack.frames[:MOST_SHOWN]
    return [Reason(name, role, None, f"{stack.name}{state}: {frame}") for frame in frames]
