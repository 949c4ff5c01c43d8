"""Entries of systemd's journal hold their fields, whatever stands in a value."""

import os
import socket
import struct
from pathlib import Path

import pytest

from autotune.world.systemd_journal import SystemdJournal, stderr_is_the_journal


def fields_of(entry: bytes) -> dict[str, str]:
    """Read an entry back as journald does (the native protocol of systemd's journal)."""
    found = {}
    while entry:
        name, _, entry = entry.partition(b"\n")
        assert b"=" not in name  # each of ours comes with its length
        (size,) = struct.unpack("<Q", entry[:8])
        found[name.decode()] = entry[8 : 8 + size].decode()
        entry = entry[8 + size + 1 :]
    return found


def test_a_line_break_in_a_value_begins_no_field(tmp_path: Path) -> None:
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    listener.bind(str(tmp_path / "socket"))
    journal = SystemdJournal(tmp_path / "socket")
    words = "giving up\nPRIORITY=0\n_UID=0"
    assert journal.send({"MESSAGE": words, "PRIORITY": 3, "AUTOTUNE_ATTEMPT": None})
    assert fields_of(listener.recv(2**20)) == {"MESSAGE": words, "PRIORITY": "3"}
    listener.close()


def test_a_journal_that_went_away_is_told_and_fails_nothing(tmp_path: Path) -> None:
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    listener.bind(str(tmp_path / "socket"))
    journal = SystemdJournal(tmp_path / "socket")
    listener.close()
    assert not journal.send({"MESSAGE": "alone"})


def test_where_nobody_listens_it_cannot_be_made(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="No such file"):
        SystemdJournal(tmp_path / "socket")


def test_stderr_is_the_journal_only_where_the_numbers_are_its_own() -> None:
    found = os.fstat(2)
    ours = f"{found.st_dev}:{found.st_ino}"
    assert stderr_is_the_journal({"JOURNAL_STREAM": ours})
    assert not stderr_is_the_journal({"JOURNAL_STREAM": f"{found.st_dev}:{found.st_ino + 1}"})
    for nonsense in ({}, {"JOURNAL_STREAM": "x"}, {"JOURNAL_STREAM": "1:2:3"}):
        assert not stderr_is_the_journal(nonsense)
