"""What is wrong with what we were given, said so that a tired person can mend it."""

import difflib
from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Fault:
    """One thing wrong: what happened, where, and one thing to do."""

    what: str
    where: str = ""
    hint: str = ""


class AutotuneError(Exception):
    """autotune's own trouble; a dead training job is a Diagnosis, not one of these.

    `exit_code` is what `autotune run` ends with: 2 the input is wrong, 3 could not launch or
    could not write the journal.
    """

    exit_code = 3

    def __init__(self, *faults: Fault) -> None:
        super().__init__("; ".join(fault.what for fault in faults))
        self.faults = faults


class InputError(AutotuneError):
    """A job, a policy or something they name is wrong; nothing was started."""

    exit_code = 2


class CannotLaunch(AutotuneError):
    """The training could not be started at all."""


class CannotRecord(AutotuneError):
    """The journal could not be written, so nothing more may be done."""


class AlreadyRunning(AutotuneError):
    """Another supervisor holds this run folder."""


def nearest(word: str, known: Iterable[str], count: int = 3) -> str:
    """Return a hint that names what would have been accepted: the few nearest, or the first few."""
    names = sorted(known)
    close = difflib.get_close_matches(word, names, n=count, cutoff=0.6)
    if close:
        return "did you mean " + " or ".join(f"`{name}`" for name in close) + "?"
    shown = ", ".join(f"`{name}`" for name in names[:12])
    return f"accepted here: {shown}" + (", …" if len(names) > 12 else "")
