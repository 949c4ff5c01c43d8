"""Tells the runs apart that follow one another in a log; only the newest counts.

A line that only a new launch prints begins a new run, but not before the old one has visibly
ended: the ranks of one launch start at different moments. A launcher that starts its ranks again
goes on with the same run, for its first death is what has to be mended.
"""

from autotune.core.evidence import Sign
from autotune.core.failure import Failure, Role

# Context entries of signatures.yaml.
STARTED = "launch_started"
TYPED = "command_typed"  # needs no end before it: a shell asks only when nothing runs
RESTARTED = "ranks_restarted"
# Words that follow upon the failure of an earlier cell of a notebook.
CONSEQUENCE_OF_A_CELL = "NameError"

_ENDS = {
    Role.CASCADE: frozenset({Failure.UNKNOWN}),  # a launcher's report
    Role.CONFIRMS: frozenset({
        Failure.NONE, Failure.HOST_OOM, Failure.PREEMPTED, Failure.USER_INTERRUPT,
    }),
    Role.ROOT: frozenset({Failure.HOST_OOM, Failure.PREEMPTED, Failure.USER_INTERRUPT}),
}  # fmt: skip


class Runs:
    """Whether the run that is being read has ended, and whether a line begins another one."""

    def __init__(self) -> None:
        """Begin in the first run."""
        self.ended = False
        self._cell_failed = False

    def begins(self, signs: list[Sign]) -> bool:
        """Say whether the line with these signs begins a new run."""
        names = {sign.signature for sign in signs}
        if RESTARTED in names:
            self.ended = False
        return TYPED in names or (STARTED in names and self.ended)

    def cell_failed(self, exception: str, chained: bool) -> bool:
        """A notebook's cell failed; say whether it is one after a cell that failed before."""
        again = self._cell_failed and not chained
        self._cell_failed = True
        return again and not exception.startswith(CONSEQUENCE_OF_A_CELL)

    def see(self, signs: list[Sign], uncaught: bool) -> None:
        """Note what may have ended the run; `uncaught` closed a traceback down to its module."""
        self.ended = self.ended or uncaught or any(_ends(sign) for sign in signs)

    def begin(self) -> None:
        """Another run has begun."""
        self.ended = False
        self._cell_failed = False


def _ends(sign: Sign) -> bool:
    return sign.phase is None and sign.failure in _ENDS.get(sign.role, ())
