"""Lets Python end with our exit code, whatever became of the places that it prints to.

`--help` ends here too, so that nothing else is imported.
"""

import contextlib
import os
import sys


def let_go() -> None:
    """Lose what stdout and stderr do not take, so that Python ends with our exit code all the same.

    Where they lead to a disk that is full or read-only, its own last flush would make it 120.
    """
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError):
            with contextlib.suppress(OSError, ValueError):
                os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
