"""Writes entries with fields into systemd's journal, where that is what our stderr leads to."""

import contextlib
import os
import socket
import struct
from collections.abc import Mapping
from pathlib import Path

SOCKET = Path("/run/systemd/journal/socket")
LONGEST_VALUE = 32 * 2**10  # bytes; a datagram has a bound, and our sentences are far below it
INFO, WARNING, ERROR = 6, 4, 3  # of syslog(3)


def stderr_is_the_journal(environ: Mapping[str, str] | None = None) -> bool:
    """Return whether JOURNAL_STREAM names what file descriptor 2 leads to (systemd.exec(5))."""
    environ = os.environ if environ is None else environ
    try:
        device, inode = map(int, environ.get("JOURNAL_STREAM", "").split(":"))
        found = os.fstat(2)
    except (ValueError, OSError):
        return False
    return (found.st_dev, found.st_ino) == (device, inode)


class SystemdJournal:
    """Speaks the journal's native protocol."""

    def __init__(self, path: Path = SOCKET) -> None:
        """Connect; raises OSError where nobody listens."""
        self._speaker = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
        try:
            self._speaker.connect(str(path))
            self._speaker.settimeout(1)  # a journal that does not read holds nobody up
        except OSError:
            self._speaker.close()
            raise

    def send(self, fields: Mapping[str, object]) -> bool:
        """Write one entry, the values as text, None left out; return whether it was taken."""
        entry = b"".join(_field(name, value) for name, value in fields.items() if value is not None)
        with contextlib.suppress(OSError):
            return self._speaker.send(entry) == len(entry)
        return False


def _field(name: str, value: object) -> bytes:
    # Always with its length: a line break in a value then begins no other field.
    held = str(value).encode(errors="replace")[:LONGEST_VALUE]
    return name.encode() + b"\n" + struct.pack("<Q", len(held)) + held + b"\n"
