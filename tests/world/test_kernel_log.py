"""The kernel's log is followed without waiting, and what was missed is said."""

import os
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from autotune.world.kernel_log import KMSG, KernelLog


@pytest.fixture
def fed(tmp_path: Path) -> Iterator[tuple[KernelLog, Path]]:
    """Return a log over a file that a test writes into, one record a look."""
    path = tmp_path / "kmsg"
    path.write_bytes(b"6,1,1,-;before we came\n")
    log = KernelLog(path)
    yield log, path
    log.close()


def told(log: KernelLog) -> list[str]:
    return [line.text for line in log.read()]


def append(path: Path, record: bytes) -> None:
    with path.open("ab") as file:
        file.write(record)


def test_only_what_comes_after_us_is_read(fed: tuple[KernelLog, Path]) -> None:
    log, path = fed
    assert told(log) == []
    append(path, b"4,2,2000000,-;Out of memory: Killed\n SUBSYSTEM=x\n")
    assert told(log) == ["Out of memory: Killed"]
    assert log.gap() is None


def test_a_record_is_dated_by_when_it_is_read_whatever_the_kernels_own_clock_says(
    fed: tuple[KernelLog, Path],
) -> None:
    log, path = fed
    append(path, b"4,2,99000000000,-;of a clock that went astray\n")
    (line,) = log.read()
    assert 0 <= line.seconds < 1000


def test_records_that_were_overwritten_are_counted(fed: tuple[KernelLog, Path]) -> None:
    log, path = fed
    append(path, b"4,7,1,-;first\n")
    assert told(log) == ["first"]
    append(path, b"4,12,1,-;much later\n")
    assert told(log) == ["much later"]
    gap = log.gap()
    assert gap is not None
    assert gap.why.startswith("4 records")


def test_a_programs_words_in_the_kernels_log_are_not_the_kernels(
    fed: tuple[KernelLog, Path],
) -> None:
    log, path = fed
    append(path, b"14,2,1,-;Out of memory: Killed process 1 (python)\n")  # facility 1: a user
    assert told(log) == []


@pytest.mark.parametrize("record", [b"no record at all\n", b"a,b,c;x\n", b"\xff\xfe;\n", b";\n"])
def test_what_is_no_record_is_passed_over(fed: tuple[KernelLog, Path], record: bytes) -> None:
    log, path = fed
    append(path, record)
    assert told(log) == []


def test_a_log_we_may_not_read_is_a_gap_with_its_reason(tmp_path: Path) -> None:
    log = KernelLog(tmp_path / "none")
    assert told(log) == []
    gap = log.gap()
    assert gap is not None
    assert "No such file" in gap.why


def test_a_log_that_breaks_while_it_is_read_is_a_gap_too(tmp_path: Path) -> None:
    log = KernelLog(tmp_path)  # a folder opens, and cannot be read
    assert told(log) == []
    gap = log.gap()
    assert gap is not None
    assert "reading it failed" in gap.why
    assert told(log) == []


def test_a_device_put_in_the_logs_place_is_not_taken_for_a_silent_kernel() -> None:
    gap = KernelLog(Path(os.devnull)).gap()
    assert gap is not None
    assert "another device" in gap.why


def test_the_real_log_is_followed_where_it_may_be_read() -> None:
    log = KernelLog()
    if log.gap() is not None:
        pytest.skip(str(log.gap()))
    log.read()  # returns, whatever is or is not there
    if not os.access(KMSG, os.W_OK):
        pytest.skip("we may not write into the kernel's log")
    word = uuid.uuid4().hex
    KMSG.write_text(f"<4>autotune test {word}")
    assert not any(word in text for text in told(log))  # it is a program's word
    assert log.gap() is None
    log.close()
