"""`autotune stop RUN`: asks a run to checkpoint at the next step boundary and end."""

import sys
from pathlib import Path

from autotune.world.run_folder import holder, open_run_folder


def stop(run: Path) -> int:
    """Write the request; the supervisor and the ranks both read it."""
    folder = open_run_folder(run)
    pid = holder(folder)
    if pid is None:
        print(f"nobody supervises {folder.path}; nothing to stop", file=sys.stderr)
        return 0
    folder.ask_stop("autotune stop")
    print(
        f"asked process {pid} to checkpoint and end; `autotune status {folder.path}` shows when",
        file=sys.stderr,
    )
    return 0
