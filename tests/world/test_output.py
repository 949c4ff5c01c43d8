"""A child's output is followed in bounded memory and on bounded disk."""

import os
import subprocess
import sys
import tracemalloc
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autotune.world.disk_bound import DiskBound
from autotune.world.line_splitter import BlockSplitter, LineSplitter
from autotune.world.output import OutputTail

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
            assert path.stat().st_blocks * 512 <= 6 * MIB
    assert path.stat().st_size == 64 * MIB
    bound.compact()
    kept = path.read_bytes()
    assert kept.startswith(b"A" * 1000)
    assert kept.endswith(bytes([65 + 63 % 26]) * 1000)
    assert b"\0" not in kept
    before = kept
    bound.compact()
    assert path.read_bytes() == before


def test_the_line_in_the_middle_names_how_many_bytes_are_missing(tmp_path: Path) -> None:
    path = tmp_path / "output.log"
    path.write_bytes(os.urandom(100_000).replace(b"[", b"("))
    DiskBound(path, 20_000).compact()
    kept = path.read_bytes()
    mark = kept[kept.index(b"\n[autotune: ") : kept.index(b" are left out here]\n") + 20]
    missing = int(mark.split()[1])
    assert missing + len(kept) - len(mark) == 100_000


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
