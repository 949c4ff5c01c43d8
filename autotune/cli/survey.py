"""Collects everything that is wrong with a job while it is looked at."""

from typing import Any

from autotune.core.fault import AutotuneError, Fault, InputError


class Survey:
    """Collects faults while a job is looked at, so that all are reported at once."""

    def __init__(self) -> None:
        """Begin with none."""
        self.faults: list[Fault] = []

    def attempt(self, look: Any, *arguments: Any) -> Any:
        """Return what `look` returns, or None when it found faults, which are kept."""
        try:
            return look(*arguments)
        except AutotuneError as error:
            self.faults += error.faults
            return None

    def end(self) -> None:
        """Raise InputError when anything is wrong."""
        if self.faults:
            raise InputError(*self.faults)
