"""Turns faults into what a person reads: what happened, where, and one thing to do."""

import contextlib
import sys
import traceback
from collections.abc import Iterable

from autotune.core.fault import AutotuneError, Fault
from autotune.core.sentence import printable


def speak(error: AutotuneError) -> None:
    """Print every fault to stderr."""
    _print("error", error.faults)


def speak_notes(notes: Iterable[Fault]) -> None:
    """Print what may surprise and stops nothing, in the same form."""
    _print("note", notes)


def speak_bug(error: Exception) -> None:
    """Print what is to be reported of an exception of our own making."""
    for text in (
        "".join(traceback.format_exception(error)),
        f"error: a bug in autotune ({error!r})",
    ):
        _line(text)
    _line("hint: report it with the lines above and the run's journal.jsonl")


def say_lines(lines: Iterable[str]) -> None:
    """Print lines to stdout; what a child put into its words reaches no terminal as orders."""
    print("\n".join(map(harmless, lines)), flush=True)


def harmless(text: str) -> str:
    """Return a text without control characters, in which no line can pass for one of ours."""
    return "\n    ".join(printable(line) for line in text.split("\n"))


def _print(begin: str, faults: Iterable[Fault]) -> None:
    for number, fault in enumerate(faults):
        if number:
            _line("")
        _line(f"{begin}: {fault.what}")
        if fault.where:
            _line(f"where: {fault.where}")
        if fault.hint:
            _line(f"hint: {fault.hint}")


def _line(text: str) -> None:
    with contextlib.suppress(OSError, ValueError):  # the exit code still says it
        print(harmless(text), file=sys.stderr)
