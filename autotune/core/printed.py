"""Names a failure from what a training printed, where no rank reported its own exception."""

from autotune.core.evidence import Evidence, OomFigures, Sign
from autotune.core.failure import Failure, Role
from autotune.core.finding import Finding
from autotune.core.oom_kind import near_limit
from autotune.core.outlived import not_outlived

# How sure each kind of words makes us.
FROM_NAMED_WORDS = 0.9
FROM_NAMELESS_EXCEPTION = 0.6
FROM_SUPPORTED_WORDS = 0.85
FROM_CONFIRMING_WORDS = 0.6
FROM_CONSEQUENCES = 0.35
FAR_LINES = 50  # from what was printed to the exception that it may explain
# The kernel, a scheduler, a driver and a watchdog print and raise nothing in Python.
_SAID_BY_THE_MACHINE = frozenset({
    Failure.HOST_OOM, Failure.PREEMPTED, Failure.COLLECTIVE_TIMEOUT, Failure.GPU_HARDWARE,
})  # fmt: skip


def named_words(evidence: Evidence) -> Finding | None:
    """The earliest root on the first failing rank, among what the training did not outlive.

    What was raised outranks what was only printed, unless the machine itself printed it.
    """
    roots = [s for s in evidence.signs if s.role is Role.ROOT and has_name(s)]
    if evidence.ended_by_us:
        roots = [s for s in roots if s.failure is not Failure.USER_INTERRUPT]
    roots = not_outlived(roots, evidence)
    raised = {sign.failure for sign in roots if sign.raised}
    if raised:
        roots = [s for s in roots if s.raised or s.failure in _SAID_BY_THE_MACHINE]
    if raised - {Failure.USER_INTERRUPT, Failure.COLLECTIVE_TIMEOUT}:
        # A watchdog waits for a rank that another cause has stopped, and may be printed first.
        roots = [s for s in roots if s.failure is not Failure.COLLECTIVE_TIMEOUT]
    if not roots:
        return None
    first = min(roots, key=lambda sign: (sign.line, sign.signature))
    if (
        not first.raised
        and first.failure not in _SAID_BY_THE_MACHINE
        and _died_later(first, evidence)
    ):
        return None
    return from_sign(first, FROM_NAMED_WORDS, f"line {first.line} says so")


def _died_later(printed: Sign, evidence: Evidence) -> bool:
    """Whether an exception that nothing caught came so long after it that it is another matter."""
    nameless = _first_nameless(evidence)
    return nameless is not None and nameless.uncaught and nameless.line - printed.line > FAR_LINES


def confirmed_words(evidence: Evidence) -> Finding | None:
    """Words that name a failure only where no root does."""
    signs = [s for s in evidence.signs if s.role is Role.CONFIRMS]
    if evidence.ended_by_us:
        ours = (Failure.PREEMPTED, Failure.USER_INTERRUPT)
        signs = [s for s in signs if s.failure not in ours]
    nameless = _first_nameless(evidence)
    done = [s for s in signs if s.failure is Failure.NONE]
    signs = not_outlived([s for s in signs if s.failure is not Failure.NONE], evidence)
    if not signs:
        return _completed(evidence, done)
    first = min(signs, key=lambda sign: (sign.line, sign.signature))
    memory = evidence.memory
    near = near_limit(memory.peak_bytes, memory)
    if first.failure in (Failure.DEVICE_OOM, Failure.USER_CODE_ERROR) and near:
        return Finding(
            Failure.DEVICE_OOM if memory.device == "cpu" else first.failure,
            FROM_SUPPORTED_WORDS,
            f"line {first.line} may mean it, and its memory was close to its limit",
            (first,), first.rank, first.phase,
        )  # fmt: skip
    if nameless is not None and nameless.line < first.line and not first.raised and near is None:
        return None
    if near is False and first.failure is Failure.DEVICE_OOM:
        return None
    return from_sign(first, FROM_CONFIRMING_WORDS, f"line {first.line} suggests it")


def _completed(evidence: Evidence, done: list[Sign]) -> Finding | None:
    nameless = _first_nameless(evidence)
    if not done or evidence.exit_code or evidence.signal or nameless is not None:
        return None
    return from_sign(done[-1], FROM_CONFIRMING_WORDS, "its last words are those of a success")


def _first_nameless(evidence: Evidence) -> Sign | None:
    signs = [s for s in evidence.signs if s.role is Role.ROOT and not has_name(s)]
    return min(not_outlived(signs, evidence), key=lambda s: s.line, default=None)


def nameless_words(evidence: Evidence) -> Finding | None:
    """An exception that no signature names, where nothing else is known."""
    sign = _first_nameless(evidence)
    if sign is None:
        return None
    return from_sign(
        sign, FROM_NAMELESS_EXCEPTION, f"line {sign.line} is an exception that no signature names"
    )


def warned(evidence: Evidence) -> Finding | None:
    """A warning is no cause of itself; of a training that died without another word it may be."""
    dead = (
        evidence.exit_code or evidence.signal or any(s.role is Role.CASCADE for s in evidence.signs)
    )
    signs = [s for s in evidence.signs if s.role is Role.CONTEXT and s.failure is not Failure.NONE]
    signs = not_outlived(signs, evidence)
    if not dead or not signs:
        return None
    last = max(signs, key=lambda sign: sign.line)
    return from_sign(
        last, FROM_CONSEQUENCES, f"line {last.line} warned of it, and no more was said"
    )


def consequences(evidence: Evidence) -> Finding | None:
    """Only consequences were seen: their cause is out of sight, yet they say something."""
    signs = [s for s in evidence.signs if s.role is Role.CASCADE]
    signs += [s for e in evidence.exceptions for s in e.signs if s.role is Role.CASCADE]
    signs = not_outlived([s for s in signs if s.failure is not Failure.UNKNOWN], evidence)
    if not signs:
        return None
    first = min(signs, key=lambda sign: (sign.line, sign.signature))
    return from_sign(
        first, FROM_CONSEQUENCES, "only consequences were seen, the cause is out of sight"
    )


def has_name(sign: Sign) -> bool:
    """Whether the sign names more than the training's own code."""
    return sign.failure is not Failure.USER_CODE_ERROR


def from_sign(sign: Sign, confidence: float, why: str) -> Finding:
    """Return the finding that rests on one sign."""
    figures = sign.figures or OomFigures()
    said = f"{why}: {sign.text}"
    return Finding(sign.failure, confidence, said, (sign,), sign.rank, sign.phase, figures)
