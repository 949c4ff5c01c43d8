"""A child's output is followed in bounded memory and on bounded disk."""

import os
import subprocess
import sys
import tracemalloc
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autotune.world import disk_bound
from autotune.world.disk_bound import DiskBound
from autotune.world.flood_guard import FloodGuard
from autotune.world.line_splitter import BlockSplitter, LineSplitter
from autotune.world.output import OutputTail
from tests.e2e.fast_job import until

FLOOD = Path(__file__).parents[1] / "zoo" / "flood.py"
MIB = 2**20


def collect(path: Path, log_bytes: int = 64 * MIB) -> tuple[OutputTail, list[bytes]]:
    lines: list[bytes] = []
    return OutputTail(path, lambda block: lines.extend(block[:-1].split(b"\n")), log_bytes), lines


def test_a_file_that_does_not_exist_yet_is_no_fault(tmp_path: Path) -> None:
    tail, lines = collect(tmp_path / "output.log")
    assert (tail.poll(), lines, tail.gaps()) == (0, [], ())


def test_lines_arrive_once_whatever_the_pieces_they_are_written_in(tmp_path: Path) -> None:
    path = tmp_path / "output.log"
    tail, lines = collect(path)
    for piece in (b"on", b"e\ntw", b"o\n", b"\n", b"thr", b"ee"):
        with path.open("ab") as stream:
            stream.write(piece)
        tail.poll()
    assert lines == [b"one", b"two", b""]
    tail.drain()
    assert lines[-1] == b"three"
    assert tail.last_lines(2) == ["", "three"]


def test_a_file_that_shrank_is_a_gap_and_is_followed_on(tmp_path: Path) -> None:
    path = tmp_path / "output.log"
    tail, lines = collect(path)
    path.write_bytes(b"one\ntwo\n")
    tail.poll()
    path.write_bytes(b"a\n")
    tail.poll()
    path.write_bytes(b"a\nb\n")
    tail.poll()
    assert lines[-1] == b"b"
    assert "shrank" in tail.gaps()[0].why


def test_an_endless_line_keeps_its_head_and_its_tail() -> None:
    lines: list[bytes] = []
    splitter = LineSplitter(lines.append, keep_bytes=10)
    for _ in range(1000):
        splitter.feed(b"x" * 1000)
    assert splitter.pending_bytes == 1_000_000
    splitter.feed(b"the end\n")
    assert lines[0].startswith(b"x" * 10)
    assert lines[0].endswith(b"xthe end"[-10:])
    assert len(lines[0]) < 40


@pytest.mark.parametrize("kind", ["binary", "no_newline", "ansi", "lines"])
def test_a_flood_costs_neither_memory_nor_disk(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "output.log"
    seen = 0

    def count(raw: bytes) -> None:
        nonlocal seen
        seen += len(raw)

    tail = OutputTail(path, count, log_bytes=4 * MIB)
    most_disk = 0
    with path.open("ab") as stream:
        child = subprocess.Popen([sys.executable, str(FLOOD), kind, "48"], stdout=stream)
        tracemalloc.start()
        try:
            while child.poll() is None:
                tail.poll(MIB)
                most_disk = max(most_disk, path.stat().st_blocks * 512)
            tail.drain()
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
            child.kill()
            child.wait()
    tail.compact()
    assert peak < 12 * MIB
    assert path.stat().st_size <= 4 * MIB
    assert b"bytes of output are left out here]\n" in path.read_bytes()
    assert all("no hole" not in gap.why for gap in tail.gaps())
    assert seen > 0


def test_the_disk_stays_bounded_while_the_child_goes_on_writing(tmp_path: Path) -> None:
    path = tmp_path / "output.log"
    bound = DiskBound(path, 4 * MIB)
    with path.open("ab") as stream:
        for number in range(64):
            stream.write(bytes([65 + number % 26]) * MIB)
            stream.flush()
            bound.enforce(path.stat().st_size)
            assert path.stat().st_blocks * 512 <= 4 * MIB
    assert path.stat().st_size == 64 * MIB
    bound.compact()
    kept = path.read_bytes()
    assert kept.startswith(b"A" * 1000)
    assert kept.endswith(bytes([65 + 63 % 26]) * 1000)
    assert b"\0" not in kept
    before = kept
    bound.compact()
    assert path.read_bytes() == before


def test_what_was_taken_away_is_never_read_as_zeros(tmp_path: Path) -> None:
    path = tmp_path / "output.log"
    tail, lines = collect(path, MIB)
    with path.open("ab") as stream:
        for _ in range(3):
            stream.write(b"a line of the usual length\n" * (4 * MIB // 27))
            stream.flush()
            assert tail.poll() > 0
    tail.drain()
    assert set(lines) <= {b"a line of the usual length"[n:] for n in range(26)} | {
        b"a line of the usual length"[:n] for n in range(27)
    }
    assert any("faster than read" in gap.why for gap in tail.gaps())


def test_while_a_file_grows_fast_its_bound_holds_without_a_poll(tmp_path: Path) -> None:
    path = tmp_path / "output.log"
    bound = DiskBound(path, 4 * MIB)
    guard = FloodGuard(path, bound)
    with path.open("ab", buffering=0) as stream:
        stream.write(b"x" * 1000)
        guard.see(1000)
        assert not guard.looking
        stream.write(b"x" * MIB)
        guard.see(1000 + MIB)
        assert guard.looking
        for _ in range(16):
            stream.write(b"x" * MIB)
        until(lambda: path.stat().st_blocks * 512 <= 4 * MIB, "a hole that nobody polled for")
    until(lambda: not guard.looking, "the end of looking often")
    path.unlink()
    guard.see(40 * MIB)
    until(lambda: not guard.looking, "the end of looking at what is gone")
    guard.see(80 * MIB)
    guard.end()
    assert not guard.looking
    guard.see(120 * MIB)
    assert not guard.looking


@pytest.mark.parametrize("in_place", [True, False])
@pytest.mark.parametrize("size", [20_001, 24_576, 100_000])
def test_the_line_in_the_middle_names_how_many_bytes_are_missing(
    tmp_path: Path, in_place: bool, size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "output.log"
    whole = os.urandom(size).replace(b"[", b"(").replace(b"\n", b"x")
    path.write_bytes(whole)
    if not in_place:
        monkeypatch.setattr(disk_bound, "_COLLAPSE_RANGE", 0x80)  # as where it is not known
    DiskBound(path, 20_000).compact()
    kept = path.read_bytes()
    head, rest = kept.split(b"\n", 1)
    line, tail = rest.split(b"\n", 1)
    missing = int(line.split()[1])
    assert line == b"[autotune: %d bytes of output are left out here]" % missing
    assert whole.startswith(head)
    assert whole.endswith(tail)
    assert missing == size - len(head) - len(tail)
    assert len(kept) <= 20_000
    DiskBound(path, 20_000).compact()
    assert path.read_bytes() == kept


def test_what_is_kept_is_not_copied_where_the_file_system_can_do_without(tmp_path: Path) -> None:
    path = tmp_path / "output.log"
    path.write_bytes(b"x" * 100_000)
    handle = os.open(path, os.O_RDWR)
    try:
        disk_bound._fallocate(handle, disk_bound._COLLAPSE_RANGE, 4096, 4096)
    except OSError:
        pytest.skip("this file system collapses no range")
    finally:
        os.close(handle)
    before = path.stat().st_ino
    DiskBound(path, 20_000).compact()
    assert path.stat().st_ino == before
    assert path.stat().st_size <= 20_000


def test_a_log_within_its_limit_is_left_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "output.log"
    path.write_bytes(b"all of it\n")
    DiskBound(path, 20_000).compact()
    assert path.read_bytes() == b"all of it\n"


def test_a_file_system_that_refuses_a_hole_is_a_gap() -> None:
    bound = DiskBound(Path("/dev/null"), 8192)
    bound.enforce(10**6)
    assert bound.gap is not None
    assert "no hole" in bound.gap.why


@given(
    lines=st.lists(st.binary(max_size=60).map(lambda raw: raw.replace(b"\n", b""))),
    cuts=st.lists(st.integers(1, 50)),
)
def test_blocks_are_the_same_lines_however_the_stream_is_cut(
    lines: list[bytes], cuts: list[int]
) -> None:
    raw = b"".join(line + b"\n" for line in lines)
    blocks: list[bytes] = []
    splitter = BlockSplitter(blocks.append, keep_bytes=10)
    at = 0
    for cut in [*cuts, len(raw)]:
        splitter.feed(raw[at : at + cut])
        at += cut
    assert all(block.endswith(b"\n") for block in blocks)
    bounded = [
        line if len(line) <= 20 else line[:10] + " … ".encode() + line[-10:] for line in lines
    ]
    assert b"".join(blocks) == b"".join(line + b"\n" for line in bounded)
