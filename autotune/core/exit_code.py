"""Reads the signal out of an exit code, and says what a death by it most often means."""

from autotune.core.failure import Failure

_MEANINGS = {
    1: (Failure.USER_INTERRUPT, "its terminal was closed (SIGHUP)"),
    2: (Failure.USER_INTERRUPT, "it was interrupted (SIGINT)"),
    6: (Failure.USER_CODE_ERROR, "it aborted (SIGABRT) without a word that has a name"),
    7: (Failure.HOST_OOM, "it met a bus error (SIGBUS), as when shared memory runs out"),
    9: (Failure.HOST_OOM, "it was killed outright (SIGKILL), most often by the kernel for memory"),
    11: (Failure.USER_CODE_ERROR, "it crashed in native code (SIGSEGV)"),
    15: (Failure.PREEMPTED, "it was asked to end from outside (SIGTERM)"),
}
CRASHES = frozenset({6, 11})  # SIGABRT and SIGSEGV: native code ended it


def signal_of(exit_code: int | None) -> int | None:
    """Return the signal an exit code speaks of, or None.

    The shell adds 128; Python shows a negative number; a launcher that passes such a number to
    sys.exit shows 256 less it (DeepSpeed's: 247 for SIGKILL). 255 is what sys.exit(-1) gives and
    names no signal.
    """
    if exit_code is None:
        return None
    if exit_code < 0:
        return -exit_code
    if 128 < exit_code < 160:
        return exit_code - 128
    if exit_code < 255 and 256 - exit_code in _MEANINGS:
        return 256 - exit_code
    return None


def meaning_of_signal(number: int | None) -> tuple[Failure, str] | None:
    """Return what a death by this signal means where nothing else is known."""
    return None if number is None else _MEANINGS.get(number)
