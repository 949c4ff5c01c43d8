"""Tells a broken card from a broken program, by what the kernel and NVML say of the card."""

import re
from dataclasses import replace

from autotune.core.evidence import Card, Evidence, KernelEvent
from autotune.core.failure import Failure
from autotune.core.finding import Finding, words_of
from autotune.core.kill import lived_through
from autotune.core.xid import Blame, blame_of, xid_in_words

FROM_LOST_CARD = 0.97
FROM_HARDWARE_XID = 0.95
FROM_NEW_ERRORS = 0.9
FROM_UNPLACED_XID = 0.7  # one of the machine's cards, perhaps not ours
FROM_SUSPECT = 0.6
FROM_APPLICATION_XID = 0.7

# What a broken card looks like from the training's side.
_VEILS = frozenset({
    Failure.UNKNOWN, Failure.USER_CODE_ERROR, Failure.ILLEGAL_ACCESS, Failure.COLLECTIVE_ERROR,
    Failure.COLLECTIVE_TIMEOUT, Failure.HANG, Failure.DRIVER_MISMATCH, Failure.GPU_HARDWARE,
})  # fmt: skip
# What ends a training long after its cause; words of a broken card may come late too.
_LATE = frozenset({
    Failure.HANG, Failure.COLLECTIVE_TIMEOUT, Failure.COLLECTIVE_ERROR, Failure.GPU_HARDWARE,
})  # fmt: skip
# What a card in doubt may account for: a training that said nothing better.
_SILENT = frozenset({Failure.UNKNOWN, Failure.GPU_HARDWARE})
# What a kernel's own fault may account for.
_UNNAMED = frozenset({Failure.UNKNOWN, Failure.COLLECTIVE_ERROR, Failure.USER_CODE_ERROR})
# An error of the training's own that has nothing to do with a card is not the card's.
_OF_A_CARD = re.compile(
    r"(?i)cuda|nccl|cublas|cudnn|\bgpu\b|\bdevice\b|SIGABRT|SIGSEGV|SIGBUS"
    r"|Fatal Python error: Aborted"
)
# What CUDA, and who watches over it, make of a kernel's own fault where they do not name it: an
# abort. A segmentation fault is the host's, and any other exception has words of its own.
_ABORTED = re.compile(
    r"SIGABRT|Fatal Python error: Aborted|signal: Abort|CUDA error|CU(?:BLAS|DNN)_STATUS"
)


def broken_card(evidence: Evidence, finding: Finding) -> Finding | None:
    """Return what the cards say was the cause, or None where they say nothing."""
    if finding.failure not in _VEILS:
        return None
    if finding.failure is Failure.USER_CODE_ERROR and not _OF_A_CARD.search(
        words_of(evidence, finding)
    ):
        return None
    xids = _xids(evidence, finding.failure in _LATE)
    for card in evidence.machine.cards:
        fault = _fault(card)
        if fault is not None:
            return _hardware(finding, *fault, [x for x in xids if x.bus_id == card.bus_id])
    hard = _blaming(xids, Blame.HARDWARE)
    if hard:
        first = hard[0]
        confidence = FROM_HARDWARE_XID if first.ours else FROM_UNPLACED_XID
        return _hardware(finding, confidence, _told(first), hard)
    suspect = _blaming(xids, Blame.SUSPECT)
    if suspect and finding.failure in _SILENT:
        return _hardware(finding, FROM_SUSPECT, _told(suspect[0]), suspect)
    return _own_fault(evidence, finding, xids)


def blamed_cards(evidence: Evidence) -> frozenset[int]:
    """Return the indices of the cards that the evidence calls broken, whoever cried out first."""
    cards = evidence.machine.cards
    faulty = {card.index for card in cards if _fault(card) is not None}
    xids = _xids(evidence, late=True)
    for told in (_blaming(xids, Blame.HARDWARE), _blaming(xids, Blame.SUSPECT)):
        # Of several cards the first: a card that is gone takes the links of the others along.
        faulty = faulty or {c.index for x in told[:1] for c in cards if c.bus_id == x.bus_id}
    return frozenset(faulty)


def _xids(evidence: Evidence, late: bool) -> list[KernelEvent]:
    """Those that can have been the end; `late` allows older ones too, where there are no others."""
    ours = [e for e in evidence.machine.kernel if e.kind == "xid" and e.ours is not False]
    recent = [x for x in ours if not lived_through(x.seconds, evidence)]
    return recent or (ours if late else [])


def _blaming(xids: list[KernelEvent], blame: Blame) -> list[KernelEvent]:
    """Those with this blame: what is surely ours first, then the earliest."""
    found = [x for x in xids if blame_of(x.code) is blame]
    return sorted(found, key=lambda x: (x.ours is None, x.seconds or 0))


def _own_fault(evidence: Evidence, finding: Finding, xids: list[KernelEvent]) -> Finding | None:
    """An Xid that a kernel of the training brings about, where no words name it better."""
    own = [x for x in xids if x.ours and blame_of(x.code) is Blame.APPLICATION]
    if not own or finding.failure not in _UNNAMED:
        return None
    if finding.failure is Failure.USER_CODE_ERROR and not _ABORTED.search(
        words_of(evidence, finding)
    ):
        return None
    why = f"{_told(own[0])}; the rest follows from that: {finding.why[:200]}"
    rank = own[0].rank if own[0].rank is not None else finding.rank
    return replace(
        finding, failure=Failure.ILLEGAL_ACCESS, confidence=FROM_APPLICATION_XID, why=why, rank=rank
    ).resting_on(*own[:3])


def _fault(card: Card) -> tuple[float, str] | None:
    name = f"GPU {card.index} ({card.bus_id})" if card.bus_id else f"GPU {card.index}"
    if card.lost:
        return FROM_LOST_CARD, f"{name} answered when the attempt began and does not any more"
    if card.uncorrected_errors:
        count = card.uncorrected_errors
        return FROM_NEW_ERRORS, f"the memory of {name} had {count} new errors beyond correction"
    if card.remap_failed:
        return FROM_NEW_ERRORS, f"{name} has no spare memory left for what broke in it"
    return None


def _told(event: KernelEvent) -> str:
    return f"the kernel's log says of GPU {event.bus_id}: {xid_in_words(event.code)}"


def _hardware(finding: Finding, confidence: float, why: str, xids: list[KernelEvent]) -> Finding:
    if finding.failure is Failure.GPU_HARDWARE:
        why += f"; {finding.why[:200]}"
        confidence = max(confidence, finding.confidence)
    else:
        why += f"; the rest follows from that: {finding.why[:200]}"
    return replace(
        finding, failure=Failure.GPU_HARDWARE, confidence=confidence, why=why
    ).resting_on(*xids[:3])
