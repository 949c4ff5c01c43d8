"""Whether anybody on the machine could change what we are about to read, write or start."""

import stat
from collections.abc import Iterable, Iterator
from pathlib import Path

from autotune.core.fault import Fault


def open_to_all(paths: Iterable[Path]) -> tuple[list[Fault], list[Fault]]:
    """Return what is refused and what is only noted, of files and folders that are to be trusted.

    Refused is a file, or a folder that holds it, that everybody may write to. A folder further up
    is noted: who administers the machine made it so, and its users cannot mend it. In a folder
    with the sticky bit, as /tmp, nobody can touch what is another's.
    """
    refused: dict[Path, Fault] = {}
    noted: dict[Path, Fault] = {}
    for path in paths:
        for place, near in _places(path):
            if not _everybody_writes(place):
                continue
            text = f"everybody on this machine may write to it, and {path} is trusted"
            hint = f"chmod o-w '{place}'" + (" (or +t)" if place.is_dir() else "")
            (refused if near else noted)[place] = Fault(text, str(place), hint)
    return list(refused.values()), [f for p, f in noted.items() if p not in refused]


def _places(path: Path) -> Iterator[tuple[Path, bool]]:
    """Yield the path, whether by its name or by where that leads, and all that it lies in."""
    for one in {path.absolute(), path.resolve()}:
        for depth, place in enumerate((one, *one.parents)):
            yield place, depth <= 1


def _everybody_writes(place: Path) -> bool:
    try:
        mode = place.stat().st_mode
    except OSError:
        return False  # what is not there yet is made ours alone
    sticky = stat.S_ISDIR(mode) and mode & stat.S_ISVTX
    ordinary = stat.S_ISDIR(mode) or stat.S_ISREG(mode)
    return bool(ordinary and mode & stat.S_IWOTH and not sticky)
