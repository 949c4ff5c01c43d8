"""What a rank reports of itself is read without being believed."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autotune.core.exception_event import exception_of
from autotune.core.view import View
from autotune.world.event_file import KINDS, Event, EventFile, EventFolder, parse_event

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=10,
)


def test_events_arrive_once_and_a_half_written_one_waits(tmp_path: Path) -> None:
    path = tmp_path / "rank0.jsonl"
    events = EventFile(path, 0)
    assert events.poll() == []
    path.write_bytes(b'{"kind": "step", "step": 1}\n{"kind": "st')
    assert events.poll() == [Event(0, "step", {"step": 1})]
    with path.open("ab") as stream:
        stream.write(b'ep", "step": 2}\n')
    assert events.poll() == [Event(0, "step", {"step": 2})]
    assert events.poll() == []


def test_every_kind_that_is_read_reaches_those_who_follow_the_ranks() -> None:
    assert {name.removeprefix("_see_") for name in vars(View) if name.startswith("_see_")} == KINDS


def test_each_rank_is_found_and_other_files_are_not(tmp_path: Path) -> None:
    folder = EventFolder(tmp_path / "events")
    assert folder.poll() == []
    (tmp_path / "events").mkdir()
    for name in ("rank0.jsonl", "rank10.jsonl", "rank1.txt", "rankx.jsonl"):
        (tmp_path / "events" / name).write_text('{"kind": "start"}\n')
    assert [event.rank for event in folder.poll()] == [0, 10]


@pytest.mark.parametrize(
    "raw",
    [b"\xff\xfe\x00", b"[1]", b"3", b"{}", b'{"kind": 3}', b'{"kind": "party"}', b"{" * 100_000,
     b'{"kind": "step", "x": ' + b"[" * 100_000, b'{"kind":"step","x":' + b"9" * 5000 + b"}"],
)  # fmt: skip
def test_what_is_no_event_is_ignored_and_counted(raw: bytes, tmp_path: Path) -> None:
    assert parse_event(raw, 0) is None
    path = tmp_path / "rank0.jsonl"
    path.write_bytes(raw + b'\n{"kind": "start"}\n')
    folder = EventFolder(tmp_path)
    assert [event.kind for event in folder.poll()] == ["start"]
    assert "1 lines" in folder.gaps()[0].why


def test_a_line_of_megabytes_is_ignored_and_the_next_one_read(tmp_path: Path) -> None:
    path = tmp_path / "rank0.jsonl"
    path.write_bytes(b'{"kind": "step", "x": "' + b"x" * 3_000_000 + b'"}\n{"kind": "start"}\n')
    events = EventFile(path, 0)
    assert [event.kind for event in events.poll() + events.poll()] == ["start"]
    assert events.ignored == 1


def test_numbers_that_are_none_and_long_texts_are_tamed() -> None:
    event = parse_event(
        b'{"kind": "step", "loss": NaN, "lr": 1e999, "text": "%s"}' % (b"x" * 99999), 0
    )
    assert event is not None
    assert (event.fields["loss"], event.fields["lr"]) == (None, None)
    assert len(event.fields["text"]) < 70_000


@given(st.dictionaries(st.sampled_from(["type", "message", "phase", "step", "t", "memory",
                                        "traceback"]), json_values))  # fmt: skip
def test_no_event_however_wrong_its_types_breaks_anything(fields: dict[str, object]) -> None:
    event = parse_event(json.dumps({**fields, "kind": "exception"}).encode(), 3)
    assert event is not None
    assert exception_of(event.rank, event.fields).rank == 3


@given(st.binary(max_size=100))
def test_no_bytes_break_anything(raw: bytes) -> None:
    parse_event(raw, 0)


def test_who_only_asks_for_now_reads_the_beginning_and_the_end(tmp_path: Path) -> None:
    steps = 40_000
    with (tmp_path / "rank0.jsonl").open("w") as file:
        file.write(json.dumps({"kind": "settings", "total_steps": steps}) + "\n")
        for step in range(steps):
            file.write(json.dumps({"kind": "step", "step": step, "pad": "x" * 400}) + "\n")
    events, found = EventFolder(tmp_path, lag_bytes=2**20), []
    while new := events.poll():
        found += new
    assert found[0].kind == "settings"
    assert found[-1].fields["step"] == steps - 1
    assert len(found) < 0.8 * steps
