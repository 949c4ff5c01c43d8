"""What NVIDIA's Xid codes mean for a training: whose fault it was, and in which words."""

from dataclasses import dataclass
from enum import Enum


class Blame(str, Enum):
    """Whose fault an Xid most often is."""

    HARDWARE = "hardware"  # the card, its memory or its links
    SUSPECT = "suspect"  # a card in doubt; alone it ends no training
    APPLICATION = "application"  # a kernel of the training reached where it must not
    CONSEQUENCE = "consequence"  # written when a process that used the card was ended


@dataclass(frozen=True)
class Xid:
    """One code."""

    blame: Blame
    means: str


# After NVIDIA's "Xid Errors" (docs.nvidia.com/deploy/xid-errors: the table of common Xids, and the
# catalogue with the immediate action for each) and its "GPU Memory Error Management". A code is
# hardware here where the action named there is a reset, a drain or service of the card, and an
# application's where it is to debug or restart the application.
XIDS = {
    13: Xid(Blame.APPLICATION, "a kernel read or wrote out of bounds"),
    31: Xid(Blame.APPLICATION, "a kernel used an address that is not mapped"),
    43: Xid(Blame.APPLICATION, "a kernel fault stopped the channel of one process"),
    45: Xid(Blame.CONSEQUENCE, "the work of an ended process was removed from the card"),
    46: Xid(Blame.HARDWARE, "the card stopped processing"),
    48: Xid(Blame.HARDWARE, "the card's memory had an error of two bits"),
    61: Xid(Blame.HARDWARE, "the card's microcontroller stopped"),
    62: Xid(Blame.HARDWARE, "the card's microcontroller halted"),
    63: Xid(Blame.SUSPECT, "a bad row or page of its memory was put aside"),
    64: Xid(Blame.HARDWARE, "a bad row or page of its memory could not be put aside"),
    68: Xid(Blame.APPLICATION, "the video engine met an exception"),
    69: Xid(Blame.APPLICATION, "a command of the process was of an invalid class"),
    74: Xid(Blame.HARDWARE, "an NVLink to another card failed"),
    79: Xid(Blame.HARDWARE, "the card fell off the bus"),
    92: Xid(Blame.SUSPECT, "its memory corrects errors of one bit at a high rate"),
    94: Xid(Blame.HARDWARE, "an uncorrectable memory error hit this training alone"),
    95: Xid(Blame.HARDWARE, "an uncorrectable memory error could not be contained"),
    109: Xid(Blame.SUSPECT, "switching between processes on the card timed out"),
    110: Xid(Blame.HARDWARE, "the card's security processor failed"),
    119: Xid(Blame.HARDWARE, "the card's system processor (GSP) did not answer"),
    120: Xid(Blame.HARDWARE, "the card's system processor (GSP) failed"),
    121: Xid(Blame.SUSPECT, "the link between processor and card had an error"),
    136: Xid(Blame.HARDWARE, "training the NVLinks failed"),
    140: Xid(Blame.HARDWARE, "the card's memory had an error that was not recovered"),
    143: Xid(Blame.HARDWARE, "the card could not be initialised"),
    144: Xid(Blame.HARDWARE, "an NVLink failed (SAW)"),
    145: Xid(Blame.HARDWARE, "an NVLink failed (RLW)"),
    149: Xid(Blame.HARDWARE, "an NVLink failed (NETIR)"),
    154: Xid(Blame.CONSEQUENCE, "the driver says what the card needs to recover"),
}


def blame_of(code: int | None) -> Blame | None:
    """Return whose fault a code is; None for one that is not in the table."""
    found = XIDS.get(code) if code is not None else None
    return found.blame if found else None


def xid_in_words(code: int | None) -> str:
    """Return what people read of a code."""
    found = XIDS.get(code) if code is not None else None
    return f"Xid {code}: {found.means}" if found else f"Xid {code}"
