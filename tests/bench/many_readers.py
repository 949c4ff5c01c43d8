"""Asks about one run from many processes at once.

    python -m tests.bench.many_readers RUN COUNT

The readers are forked from one process that has imported and read what each of them needs, and
begin together: so they are on the run's files and lock at the same moments, which 200 starts of
Python are not. Exits with 1 where one was not answered with 0.
"""

import os
import sys
from collections.abc import Sequence

from autotune.cli import explain, status
from autotune.cli.app import main
from autotune.world.signature_file import load_signatures

IMPORTED = (status, explain)  # which the command line does late
WAYS = (["status"], ["status", "--json"], ["explain"], ["explain", "--json"])


def ask(arguments: Sequence[str]) -> int:
    """Return the exit code of `autotune` with these arguments."""
    sys.argv = ["autotune", *arguments]
    try:
        main()
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else 1
    return 0


def read_at_once(run: str, count: int) -> int:
    """Return how many of so many readers were not answered with 0."""
    load_signatures(device="cpu")
    gate, ours = os.pipe()
    readers = []
    for number in range(count):
        way = WAYS[number % 4 if number % 20 < 4 else number % 2]
        pid = os.fork()
        if pid == 0:
            os.close(ours)
            code = 1
            try:
                os.read(gate, 1)
                code = ask([way[0], run, *way[1:]])
            finally:
                sys.stdout.flush()
                os._exit(code)
        readers.append(pid)
    os.close(ours)
    return sum(1 for pid in readers if os.waitpid(pid, 0)[1] != 0)


if __name__ == "__main__":
    sys.exit(min(1, read_at_once(sys.argv[1], int(sys.argv[2]))))
