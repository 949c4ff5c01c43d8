"""Names what ended an attempt: structured exceptions before words, words before exit codes."""

from dataclasses import replace

from autotune.core.disguise import unmask
from autotune.core.evidence import Diagnosis, Evidence, OomFigures, RankException, Sign
from autotune.core.exit_code import meaning_of_signal, signal_of
from autotune.core.failure import Failure, Phase, Role
from autotune.core.finding import Finding, complete
from autotune.core.oom_kind import near_limit
from autotune.core.outlived import not_outlived

# How sure each kind of evidence makes us.
FROM_FILES = 0.99
FROM_EXCEPTION = 0.95
FROM_NAMED_WORDS = 0.9
FROM_OOM_RECORD = 0.95
FROM_NAMELESS_EXCEPTION = 0.6
FROM_SUPPORTED_WORDS = 0.85
FROM_CONFIRMING_WORDS = 0.6
FROM_UNSUPPORTED_WORDS = 0.4
FROM_SIGNAL = 0.5
FROM_CONSEQUENCES = 0.35
FROM_NOTHING = 0.1

# Why we ended the attempt, where that is what a failure looks like from outside; any other
# reason of ours is no failure at all.
_AFTER_A_DEATH = frozenset({"rank_died"})
_FOR_SILENCE = frozenset({"hang", "quiet"})
_WORKING = frozenset({
    Phase.OPTIMIZER_CREATION, Phase.FORWARD, Phase.BACKWARD, Phase.STEP, Phase.EVAL, Phase.TRAIN,
})  # fmt: skip


def diagnose(evidence: Evidence) -> Diagnosis:
    """Return the named failure, its root rank and phase, and why; never raises."""
    for look in (
        _ended_well,
        _our_own_hand,
        _killed_by_kernel,
        _exceptions,
        _named_words,
        _silence,
        _confirmed_words,
        _nameless_words,
        _warned,
        _signal,
        _consequences,
    ):
        finding = look(evidence)
        if finding is not None:
            return complete(evidence, unmask(evidence, finding))
    return complete(evidence, unmask(evidence, _nothing_known(evidence)))


def _ended_well(evidence: Evidence) -> Finding | None:
    if not evidence.finished:
        return None
    why = "the files it left show that the training finished"
    if evidence.exit_code:
        why += f", whatever exit code {evidence.exit_code} says"
    return Finding(Failure.NONE, FROM_FILES, why)


def _our_own_hand(evidence: Evidence) -> Finding | None:
    reason = evidence.ended_by_us
    if reason is None or reason in _AFTER_A_DEATH or reason in _FOR_SILENCE:
        return None
    return Finding(Failure.NONE, FROM_FILES, f"autotune ended it itself ({reason})")


def _killed_by_kernel(evidence: Evidence) -> Finding | None:
    """A kill counted by our own cgroup outranks what the survivors print about it."""
    kills = evidence.memory.cgroup_oom_kills
    if not kills or any(_finding_of(e, evidence) for e in evidence.exceptions):
        return None
    return Finding(
        Failure.HOST_OOM,
        FROM_OOM_RECORD,
        f"the kernel killed {kills} of its processes for memory",
        tuple(s for s in evidence.signs if s.failure is Failure.HOST_OOM),
        phase=evidence.phase,
    )


def _exceptions(evidence: Evidence) -> Finding | None:
    """The first rank that failed with a cause of its own; consequences never win."""
    in_time = sorted(
        evidence.exceptions, key=lambda e: (e.at is None, e.at if e.at is not None else 0, e.rank)
    )
    findings = [f for f in (_finding_of(e, evidence) for e in in_time) if f is not None]
    if not findings:
        return None
    named = [f for f in findings if f.failure is not Failure.USER_CODE_ERROR]
    if named:
        return named[0]
    # A rank's words may name what its exception does not, as where a handler raised another one.
    return _named_words(evidence) or findings[0]


def _finding_of(exception: RankException, evidence: Evidence) -> Finding | None:
    """What one exception names; None for a consequence of another rank's death."""
    roots = [s for s in exception.signs if s.role is Role.ROOT and _has_name(s)]
    confirms = [s for s in exception.signs if s.role is Role.CONFIRMS]
    others = [s for s in exception.signs if s.role is Role.CASCADE]
    shown = f"rank {exception.rank} raised {exception.type}"
    if roots:
        # The sign's text begins with the exception's type already.
        finding = _from_sign(roots[0], FROM_EXCEPTION, f"rank {exception.rank}")
    elif confirms:
        finding = _supported(confirms[0], exception, evidence, shown)
    elif others:
        return None
    elif exception.type in ("KeyboardInterrupt", "SystemExit"):
        return None if exception.type == "SystemExit" else _interrupted(evidence, shown)
    else:
        finding = Finding(
            next((s.failure for s in exception.signs), Failure.USER_CODE_ERROR),
            FROM_EXCEPTION,
            f"{shown}, which no signature names: {exception.message[:200]}",
            exception.signs,
        )
    if finding.failure is Failure.USER_INTERRUPT and evidence.ended_by_us:
        return None
    return replace(
        finding,
        rank=exception.rank,
        phase=exception.phase or finding.phase or evidence.phase,
        figures=_with_process(finding.figures, exception, evidence),
    )


def _supported(sign: Sign, exception: RankException, evidence: Evidence, shown: str) -> Finding:
    """Words that prove nothing alone: the phase and the size against the limit decide."""
    near = near_limit(exception.data_bytes, evidence.memory)
    phase = exception.phase or sign.phase or evidence.phase
    if near is False and sign.failure in (Failure.DEVICE_OOM, Failure.HOST_OOM):
        return Finding(
            Failure.USER_CODE_ERROR,
            FROM_UNSUPPORTED_WORDS,
            f"{shown} ({sign.text}), far from its memory limit",
            (sign,),
        )
    if sign.failure is Failure.HOST_OOM and evidence.memory.cgroup_oom_kills:
        return _from_sign(sign, FROM_OOM_RECORD, f"{shown}, and the kernel killed for memory")
    if near or sign.failure not in (Failure.DEVICE_OOM, Failure.HOST_OOM):
        return _from_sign(sign, FROM_SUPPORTED_WORDS, f"{shown}, close to its memory limit"
                          if near else shown)  # fmt: skip
    confidence = FROM_CONFIRMING_WORDS if phase in _WORKING else FROM_UNSUPPORTED_WORDS
    return _from_sign(sign, confidence, f"{shown}, and nothing contradicts a lack of memory")


def _named_words(evidence: Evidence) -> Finding | None:
    """The earliest root on the first failing rank, among what the training did not outlive."""
    roots = [s for s in evidence.signs if s.role is Role.ROOT and _has_name(s)]
    if evidence.ended_by_us:
        roots = [s for s in roots if s.failure is not Failure.USER_INTERRUPT]
    roots = not_outlived(roots, evidence)
    if not roots:
        return None
    first = min(roots, key=lambda sign: (sign.line, sign.signature))
    return _from_sign(first, FROM_NAMED_WORDS, f"line {first.line} says so")


def _silence(evidence: Evidence) -> Finding | None:
    if evidence.ended_by_us not in _FOR_SILENCE:
        return None
    return Finding(
        Failure.HANG,
        FROM_SUPPORTED_WORDS,
        "it neither printed nor reported anything until autotune ended it",
        phase=evidence.phase,
    )


def _confirmed_words(evidence: Evidence) -> Finding | None:
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
    return _from_sign(first, FROM_CONFIRMING_WORDS, f"line {first.line} suggests it")


def _completed(evidence: Evidence, done: list[Sign]) -> Finding | None:
    nameless = _first_nameless(evidence)
    if not done or evidence.exit_code or evidence.signal or nameless is not None:
        return None
    return _from_sign(done[-1], FROM_CONFIRMING_WORDS, "its last words are those of a success")


def _first_nameless(evidence: Evidence) -> Sign | None:
    signs = [s for s in evidence.signs if s.role is Role.ROOT and not _has_name(s)]
    return min(not_outlived(signs, evidence), key=lambda s: s.line, default=None)


def _nameless_words(evidence: Evidence) -> Finding | None:
    sign = _first_nameless(evidence)
    if sign is None:
        return None
    return _from_sign(
        sign, FROM_NAMELESS_EXCEPTION, f"line {sign.line} is an exception that no signature names"
    )


def _warned(evidence: Evidence) -> Finding | None:
    """A warning is no cause of itself; of a training that died without another word it may be."""
    dead = (
        evidence.exit_code or evidence.signal or any(s.role is Role.CASCADE for s in evidence.signs)
    )
    signs = [s for s in evidence.signs if s.role is Role.CONTEXT and s.failure is not Failure.NONE]
    signs = not_outlived(signs, evidence)
    if not dead or not signs:
        return None
    last = max(signs, key=lambda sign: sign.line)
    return _from_sign(
        last, FROM_CONSEQUENCES, f"line {last.line} warned of it, and no more was said"
    )


def _signal(evidence: Evidence) -> Finding | None:
    meant = meaning_of_signal(evidence.signal or signal_of(evidence.exit_code))
    if meant is None or evidence.ended_by_us:
        return None
    failure, why = meant
    return Finding(failure, FROM_SIGNAL, why, phase=evidence.phase)


def _consequences(evidence: Evidence) -> Finding | None:
    """Only consequences were seen: their cause is out of sight, yet they say something."""
    signs = [s for s in evidence.signs if s.role is Role.CASCADE]
    signs += [s for e in evidence.exceptions for s in e.signs if s.role is Role.CASCADE]
    signs = not_outlived([s for s in signs if s.failure is not Failure.UNKNOWN], evidence)
    if not signs:
        return None
    first = min(signs, key=lambda sign: (sign.line, sign.signature))
    return _from_sign(
        first, FROM_CONSEQUENCES, "only consequences were seen, the cause is out of sight"
    )


def _interrupted(evidence: Evidence, shown: str) -> Finding | None:
    return None if evidence.ended_by_us else Finding(Failure.USER_INTERRUPT, FROM_EXCEPTION, shown)


def _nothing_known(evidence: Evidence) -> Finding:
    if evidence.exit_code == 0:
        why = "it exited with 0, yet nothing it left shows that the training finished"
    elif evidence.exit_code is None:
        why = "nothing that was seen names a failure"
    else:
        why = f"it exited with {evidence.exit_code} and said nothing that has a name"
    return Finding(Failure.UNKNOWN, FROM_NOTHING, why, phase=evidence.phase)


def _has_name(sign: Sign) -> bool:
    return sign.failure is not Failure.USER_CODE_ERROR


def _from_sign(sign: Sign, confidence: float, why: str) -> Finding:
    figures = sign.figures or OomFigures()
    said = f"{why}: {sign.text}"
    return Finding(sign.failure, confidence, said, (sign,), sign.rank, sign.phase, figures)


def _with_process(figures: OomFigures, exception: RankException, evidence: Evidence) -> OomFigures:
    """Fill what the message did not say from what the rank read of itself."""
    return replace(
        figures,
        limit_bytes=figures.limit_bytes or evidence.memory.limit_bytes,
        allocated_bytes=figures.allocated_bytes or exception.allocated_bytes,
        reserved_bytes=figures.reserved_bytes or exception.reserved_bytes,
        process_bytes=figures.process_bytes or exception.data_bytes,
    )
