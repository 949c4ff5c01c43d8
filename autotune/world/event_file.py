"""Follows the events each rank writes about itself, and believes none of them blindly."""

import json
import math
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from autotune.core.evidence import Gap
from autotune.core.secret import hide
from autotune.world.disk_bound import DiskBound
from autotune.world.files import is_plain, open_plain
from autotune.world.line_splitter import LineSplitter

KINDS = frozenset({
    "start", "phase", "settings", "probe", "rehearsal", "step", "eval", "checkpoint", "stopped",
    "finished", "proven", "exception", "armed", "probe_gap", "refused", "holds", "rescue",
    "left", "probe_cost", "continuity", "snapshot",
    "told_to_end",
})  # fmt: skip
LINE_BYTES = 256 * 1024  # half of the longest line that is read as an event
POLL_BYTES = 2 * 1024 * 1024  # of one rank
HEAD_BYTES = 8 * 2**20  # of a file that is too long, where the start and the settings stand
LAG_BYTES = 512 * 2**20  # what a month of steps takes; further behind, the middle is left out
MOST_RANKS = 4096
TEXT_CHARACTERS = 64 * 1024
MOST_ITEMS = 2000
MOST_DEPTH = 6
_NAME = re.compile(r"rank(\d{1,5})\.jsonl")


@dataclass(frozen=True)
class Event:
    """One event as a rank reported it; `fields` holds plain JSON values of any type."""

    rank: int  # of the file it stands in, whatever the event itself says
    kind: str
    fields: dict[str, Any]


class EventFile:
    """Reads what is new in one rank's file."""

    def __init__(
        self,
        path: Path,
        rank: int,
        most_bytes: int | None = None,
        secrets: tuple[bytes, ...] = (),
        lag_bytes: int = LAG_BYTES,
    ) -> None:
        """Start at the beginning of the file, which may not exist yet; `secrets` are left out.

        With `most_bytes` its middle is taken away once it has outgrown them, as that of the log.
        Of what lies further than `lag_bytes` ahead the middle is not read.
        """
        self._lag_bytes = lag_bytes
        self._secrets = secrets
        self._path = path
        self._bound = DiskBound(path, most_bytes) if most_bytes is not None else None
        self._rank = rank
        self._splitter = LineSplitter(self._take, LINE_BYTES)
        self._events: list[Event] = []
        self._offset = 0
        self.ignored = 0  # lines that are no event

    def poll(self, most_bytes: int = POLL_BYTES) -> list[Event]:
        """Return the events that are new; a half-written last line waits for the next poll."""
        try:
            with os.fdopen(open_plain(self._path), "rb", buffering=0) as stream:
                size = stream.seek(0, 2)
                if size < self._offset:  # it was truncated; what it says now is said again
                    self.ignored += 1
                    self._offset = 0
                self._offset = _after_hole(stream.fileno(), self._offset)
                self._skip(size)
                stream.seek(self._offset)
                chunk = stream.read(most_bytes)
        except OSError:
            return []
        if self._bound is not None and self._offset > self._bound.hole_end:
            self._bound.enforce(size)
        self._offset += len(chunk)
        self._splitter.feed(chunk)
        events, self._events = self._events, []
        return events

    def _skip(self, size: int) -> None:
        """Leave out the middle of what nobody would read to its end, such as a huge hole."""
        if self._offset >= HEAD_BYTES and size - self._offset > self._lag_bytes:
            self._splitter.flush()
            self._offset = size - POLL_BYTES
            self.ignored += 1

    def _take(self, raw: bytes) -> None:
        if not raw.strip():
            return
        event = parse_event(hide(raw, self._secrets), self._rank)
        if event is None:
            self.ignored += 1
        else:
            self._events.append(event)


class EventFolder:
    """All ranks' files of one attempt, found as they appear."""

    def __init__(
        self,
        folder: Path,
        most_bytes: int | None = None,
        secrets: tuple[bytes, ...] = (),
        lag_bytes: int = LAG_BYTES,
    ) -> None:
        """Follow `folder`, which may not exist yet; each file may take `most_bytes` of disk.

        `secrets` are left out of what is read, and what lies before the last of a file that is
        more than `lag_bytes` ahead.
        """
        self._secrets = secrets
        self._lag_bytes = lag_bytes
        self._folder = folder
        self._most_bytes = most_bytes
        self._files: dict[int, EventFile] = {}

    def poll(self) -> list[Event]:
        """Return what is new, rank by rank."""
        for rank, path in self._found():
            if rank not in self._files and len(self._files) < MOST_RANKS:
                self._files[rank] = EventFile(
                    path, rank, self._most_bytes, self._secrets, self._lag_bytes
                )
        return [event for rank in sorted(self._files) for event in self._files[rank].poll()]

    def gaps(self) -> tuple[Gap, ...]:
        """Return how many lines of which rank were no events."""
        return tuple(
            Gap(f"events of rank {rank}", f"{file.ignored} lines were no events")
            for rank, file in sorted(self._files.items())
            if file.ignored
        )

    def _found(self) -> Iterator[tuple[int, Path]]:
        try:
            for path in self._folder.iterdir():
                match = _NAME.fullmatch(path.name)
                if match and is_plain(path):
                    yield int(match[1]), path
        except OSError:
            return


def _after_hole(descriptor: int, offset: int) -> int:
    """Return where the next bytes stand; a middle that was taken away is passed over."""
    try:
        return os.lseek(descriptor, offset, os.SEEK_DATA)
    except OSError:
        return offset  # nothing follows, or the file system knows of no holes


def parse_event(raw: bytes, rank: int) -> Event | None:
    """Return the event, or None where the line is none; never raises."""
    if len(raw) > 2 * LINE_BYTES:
        return None
    try:
        plain = json.loads(raw.decode("utf-8", "replace"), parse_constant=lambda _: None)
    except (ValueError, RecursionError):
        return None
    if not isinstance(plain, dict) or not isinstance(plain.get("kind"), str):
        return None
    kind = plain.pop("kind")
    if kind not in KINDS:
        return None
    return Event(rank, kind, {str(k)[:200]: _tame(v, 1) for k, v in list(plain.items())[:200]})


def _tame(value: Any, depth: int) -> Any:
    """Cut what is too long or too deep, and make None of a number that is none."""
    if isinstance(value, str):
        return value[:TEXT_CHARACTERS]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, int) and not isinstance(value, bool):
        return value if abs(value) < 2**63 else None
    if isinstance(value, (dict, list)) and depth >= MOST_DEPTH:
        return None
    if isinstance(value, dict):
        items = list(value.items())[:MOST_ITEMS]
        return {str(key)[:200]: _tame(item, depth + 1) for key, item in items}
    if isinstance(value, list):
        return [_tame(item, depth + 1) for item in value[:MOST_ITEMS]]
    return value
