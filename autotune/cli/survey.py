"""Collects everything that is wrong with a job while it is looked at."""

from typing import Any

from autotune.core.fault import AutotuneError, CannotLaunch, Fault, InputError


class Survey:
    """Collects faults while a job is looked at, so that all are reported at once."""

    def __init__(self) -> None:
        """Begin with none."""
        self.faults: list[Fault] = []
        self.passing: list[Fault] = []  # those of them that are not the job's and may pass

    def attempt(self, look: Any, *arguments: Any) -> Any:
        """Return what `look` returns, or None when it found faults, which are kept."""
        try:
            return look(*arguments)
        except AutotuneError as error:
            self.faults += error.faults
            self.passing += error.faults if isinstance(error, CannotLaunch) else ()
            return None

    def end(self) -> None:
        """Raise InputError when anything is wrong, or CannotLaunch when nothing of it is the job's.

        What may pass by itself is tried again by a service, and a wrong file never.
        """
        if self.faults and self.faults == self.passing:
            raise CannotLaunch(*self.faults)
        if self.faults:
            raise InputError(*self.faults)
