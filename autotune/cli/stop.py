"""`autotune stop RUN`: asks a run to checkpoint at the next step boundary and end."""

import sys
from pathlib import Path

from autotune.core.record import RunStarted
from autotune.world.journal import read_journal
from autotune.world.process import marked
from autotune.world.run_folder import RunFolder, holder, open_run_folder


def orphans(folder: RunFolder) -> list[int]:
    """Return the processes of a run whose supervisor is gone."""
    started = [e for e in read_journal(folder.journal) if isinstance(e, RunStarted)]
    names = [path.name for path in (folder.path / "attempts").glob("*") if path.is_dir()]
    return [p.pid for e in started for name in names for p in marked(f"{e.run_id}/{name}")]


def stop(run: Path) -> int:
    """Write the request; the supervisor and the ranks both read it."""
    folder = open_run_folder(run)
    pid = holder(folder)
    if pid is None and not orphans(folder):
        print(f"nobody supervises {folder.path}; nothing to stop", file=sys.stderr)
        return 0
    folder.ask_stop("autotune stop")
    if pid is None:
        print(
            "the supervisor is gone and its training still runs; it was told to save and end",
            file=sys.stderr,
        )
        return 0
    print(
        f"asked process {pid} to checkpoint and end; `autotune status {folder.path}` shows when",
        file=sys.stderr,
    )
    return 0
