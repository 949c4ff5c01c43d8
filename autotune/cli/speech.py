"""Turns faults into what a person reads: what happened, where, and one thing to do."""

import sys

from autotune.core.fault import AutotuneError


def speak(error: AutotuneError) -> None:
    """Print every fault to stderr."""
    for number, fault in enumerate(error.faults):
        if number:
            print(file=sys.stderr)
        print(f"error: {fault.what}", file=sys.stderr)
        if fault.where:
            print(f"where: {fault.where}", file=sys.stderr)
        if fault.hint:
            print(f"hint: {fault.hint}", file=sys.stderr)
