"""The journal survives being cut at every byte, and says so when it cannot be written or read."""

import json
from pathlib import Path

import pytest

from autotune.core.diagnosis import diagnose
from autotune.core.evidence import Evidence
from autotune.core.fault import CannotRecord
from autotune.core.history import fold
from autotune.core.record import (
    AttemptEnded,
    Decided,
    Ended,
    Event,
    Proved,
    RunStarted,
    StopAsked,
    Wait,
    Waited,
    WentOn,
)
from autotune.world.journal import FileJournal, read_journal
from tests.builders import launch, plan

SEEN = Evidence(1, exit_code=1)
EVENTS: tuple[Event, ...] = (
    RunStarted("id", "job", "identity", plan(), "cpu", {"torch": "2.13.0"}, "default", "d"),
    Decided(launch(1)),
    AttemptEnded(1, SEEN, diagnose(SEEN)),
    Decided(Wait(5.0, "why")),
    Waited(5.0),
    WentOn(7, "default", "d", "j"),
    StopAsked("Ctrl-C"),
    Proved(True, "why", 3, 1.0, None, 10),
    Ended("stopped", 4),
)


def written(path: Path) -> bytes:
    """Return the bytes of a journal that holds all kinds of events."""
    journal = FileJournal(path, lambda: 1.5)
    for event in EVENTS:
        journal.append(event)
    return path.read_bytes()


def test_every_kind_of_event_comes_back_as_it_was(tmp_path: Path) -> None:
    written(tmp_path / "journal.jsonl")

    assert tuple(read_journal(tmp_path / "journal.jsonl")) == EVENTS


@pytest.mark.long
def test_cut_at_any_byte_it_tells_the_story_up_to_the_line_before(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    raw = written(path)
    for cut in range(len(raw)):
        path.write_bytes(raw[:cut])
        whole = raw[:cut].count(b"\n")
        assert tuple(read_journal(path)) == EVENTS[:whole], cut
        fold(read_journal(path))


def test_after_a_torn_line_the_next_event_starts_a_line_of_its_own(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    raw = written(path)
    path.write_bytes(raw[:-7])

    FileJournal(path, lambda: 2.0).append(EVENTS[-1])

    assert tuple(read_journal(path)) == EVENTS


@pytest.mark.parametrize(
    "junk",
    [
        b"junk",
        b"[]",
        b'{"v": 1, "at": 1.0, "event": {}}',
        b'{"v": 1, "at": 1.0, "event": "decided", "step": []}',
        b'{"v": 1, "at": 1.0, "event": "waited", "seconds": 1' + b"0" * 400 + b"}",
    ],
)
def test_a_damaged_line_before_the_last_is_an_error_with_its_number(
    tmp_path: Path, junk: bytes
) -> None:
    path = tmp_path / "journal.jsonl"
    lines = written(path).split(b"\n")
    lines[2] = junk
    path.write_bytes(b"\n".join(lines))

    with pytest.raises(CannotRecord) as caught:
        read_journal(path)

    assert caught.value.faults[0].where == f"{path}:3"


def test_keys_of_a_newer_version_are_passed_over(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    lines = [json.loads(line) for line in written(path).splitlines()]
    lines[0]["new"] = {"a": 1}
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))

    assert tuple(read_journal(path)) == EVENTS


def test_a_link_in_place_of_the_journal_is_not_followed(tmp_path: Path) -> None:
    link = tmp_path / "journal.jsonl"
    link.symlink_to("/dev/full")

    with pytest.raises(CannotRecord) as caught:
        FileJournal(link, lambda: 0.0)

    assert caught.value.exit_code == 3
    assert caught.value.faults[0].hint


def test_a_journal_that_cannot_be_written_ends_with_a_sentence(tmp_path: Path) -> None:
    gone = tmp_path / "gone" / "journal.jsonl"
    journal = FileJournal(gone, lambda: 0.0, patience_seconds=0)

    with pytest.raises(CannotRecord, match="could not be written"):
        journal.append(EVENTS[0])
