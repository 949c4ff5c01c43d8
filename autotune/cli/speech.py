"""Turns faults into what a person reads: what happened, where, and one thing to do."""

import sys
from collections.abc import Iterable

from autotune.core.fault import AutotuneError, Fault


def speak(error: AutotuneError) -> None:
    """Print every fault to stderr."""
    _print("error", error.faults)


def speak_notes(notes: Iterable[Fault]) -> None:
    """Print what may surprise and stops nothing, in the same form."""
    _print("note", notes)


def _print(begin: str, faults: Iterable[Fault]) -> None:
    for number, fault in enumerate(faults):
        if number:
            print(file=sys.stderr)
        print(f"{begin}: {fault.what}", file=sys.stderr)
        if fault.where:
            print(f"where: {fault.where}", file=sys.stderr)
        if fault.hint:
            print(f"hint: {fault.hint}", file=sys.stderr)
