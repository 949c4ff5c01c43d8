"""Names what ended an attempt: structured exceptions before words, words before exit codes."""

from dataclasses import replace

from autotune.core.disguise import unmask
from autotune.core.evidence import (
    Diagnosis,
    Evidence,
    OomFigures,
    RankException,
    Reason,
    Sign,
)
from autotune.core.exit_code import CRASHES, meaning_of_signal, signal_of
from autotune.core.failure import Failure, Phase, Role, Trait
from autotune.core.finding import Finding, complete, with_trait
from autotune.core.hang import is_certain, name_hang
from autotune.core.oom_kind import near_limit
from autotune.core.own_operation import is_own
from autotune.core.printed import (
    FROM_CONFIRMING_WORDS,
    FROM_SUPPORTED_WORDS,
    confirmed_words,
    consequences,
    from_sign,
    has_name,
    named_words,
    nameless_words,
    warned,
)
from autotune.core.vigil import PREEMPTED

# How sure each kind of evidence makes us.
FROM_FILES = 0.99
FROM_EXCEPTION = 0.95
FROM_OOM_RECORD = 0.95
FROM_UNSUPPORTED_WORDS = 0.4
FROM_SIGNAL = 0.5
FROM_NOTHING = 0.1

NATIVE_CRASH = "native_crash"  # the signature of a crash; a bare signal says the same

# Why we ended the attempt, where that is what a failure looks like from outside; any other
# reason of ours is no failure at all.
_AFTER_A_DEATH = frozenset({"rank_died"})
_FOR_SILENCE = frozenset({"hang"})
_FOR_LEARNING_NOTHING = frozenset({"diverged"})
_WORKING = frozenset({
    Phase.OPTIMIZER_CREATION, Phase.FORWARD, Phase.BACKWARD, Phase.STEP, Phase.EVAL, Phase.TRAIN,
})  # fmt: skip


def diagnose(evidence: Evidence) -> Diagnosis:
    """Return the named failure, its root rank and phase, and why; never raises."""
    for look in (
        _ended_well,
        _our_own_hand,
        _killed_by_kernel,
        _silence,
        _divergence,
        _exceptions,
        named_words,
        confirmed_words,
        nameless_words,
        warned,
        _signal,
        consequences,
    ):
        finding = look(evidence)
        if finding is not None:
            return complete(evidence, unmask(evidence, finding))
    return complete(evidence, unmask(evidence, _nothing_known(evidence)))


def _ended_well(evidence: Evidence) -> Finding | None:
    if not evidence.finished:
        return None
    why = "the files it left show that the training finished"
    if evidence.total_steps is None and evidence.exit_code == 0:
        why = "it exited with 0 and says nothing else of its end"
    if evidence.exit_code:
        why += f", whatever exit code {evidence.exit_code} says"
    return Finding(Failure.NONE, FROM_FILES, why)


def _our_own_hand(evidence: Evidence) -> Finding | None:
    reason = evidence.ended_by_us
    if reason is None or reason in _AFTER_A_DEATH | _FOR_SILENCE | _FOR_LEARNING_NOTHING:
        return None
    if reason == PREEMPTED:
        who = evidence.told_to_end or "its launcher"
        why = f"{who} was told from outside to end, and its ranks to save and end at the next step"
        return Finding(Failure.PREEMPTED, FROM_FILES, why)
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
    return named_words(evidence) or findings[0]


def _finding_of(exception: RankException, evidence: Evidence) -> Finding | None:
    """What one exception names; None for a consequence of another rank's death."""
    roots = [s for s in exception.signs if s.role is Role.ROOT and has_name(s)]
    confirms = [s for s in exception.signs if s.role is Role.CONFIRMS]
    others = [s for s in exception.signs if s.role is Role.CASCADE]
    shown = f"rank {exception.rank} raised {exception.type}"
    if roots:
        # The sign's text begins with the exception's type already.
        finding = from_sign(roots[0], FROM_EXCEPTION, f"rank {exception.rank}")
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
    if finding.failure is Failure.DTYPE_KERNEL_GAP and is_own(exception.traceback):
        finding = with_trait(finding, Trait.OWN_OPERATION)
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
        return from_sign(sign, FROM_OOM_RECORD, f"{shown}, and the kernel killed for memory")
    if near or sign.failure not in (Failure.DEVICE_OOM, Failure.HOST_OOM):
        return from_sign(sign, FROM_SUPPORTED_WORDS, f"{shown}, close to its memory limit"
                          if near else shown)  # fmt: skip
    confidence = FROM_CONFIRMING_WORDS if phase in _WORKING else FROM_UNSUPPORTED_WORDS
    return from_sign(sign, confidence, f"{shown}, and nothing contradicts a lack of memory")


def _silence(evidence: Evidence) -> Finding | None:
    """A training that we ended because nothing moved: what was said by then, or its stacks."""
    if evidence.ended_by_us not in _FOR_SILENCE:
        return None
    finding = name_hang(evidence)
    # What is printed and raised once we end it are the words of its end.
    lines = evidence.stall.lines if evidence.stall else 0
    before = replace(evidence, signs=tuple(s for s in evidence.signs if s.line <= lines))
    return finding if is_certain(finding) else named_words(before) or finding


def _divergence(evidence: Evidence) -> Finding | None:
    if evidence.diverged is None and evidence.ended_by_us not in _FOR_LEARNING_NOTHING:
        return None
    why = evidence.diverged or "it learned nothing any more"
    if evidence.step is not None:
        why += f", at step {evidence.step}"
    return Finding(Failure.NUMERIC_DIVERGENCE, FROM_EXCEPTION, why, phase=Phase.TRAIN)


def _signal(evidence: Evidence) -> Finding | None:
    number = evidence.signal or signal_of(evidence.exit_code)
    meant = meaning_of_signal(number)
    if meant is None or evidence.ended_by_us:
        return None
    failure, why = meant
    crash = (Reason(NATIVE_CRASH, Role.CONFIRMS, None, why),) if number in CRASHES else ()
    return Finding(failure, FROM_SIGNAL, why, phase=evidence.phase, shown=crash)


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


def _with_process(figures: OomFigures, exception: RankException, evidence: Evidence) -> OomFigures:
    """Fill what the message did not say from what the rank read of itself."""
    return replace(
        figures,
        limit_bytes=figures.limit_bytes or evidence.memory.limit_bytes,
        allocated_bytes=figures.allocated_bytes or exception.allocated_bytes,
        reserved_bytes=figures.reserved_bytes or exception.reserved_bytes,
        process_bytes=figures.process_bytes or exception.data_bytes,
    )
