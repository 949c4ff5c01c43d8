"""A raw line becomes what a person would have seen."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autotune.core.line import PART_BYTES, clean


@pytest.mark.parametrize(
    ("raw", "text", "rank"),
    [
        (b"[rank3]: ValueError: no", "ValueError: no", 3),
        (b"[rank12]:[W822 00:33:03] Warning", "[W822 00:33:03] Warning", 12),
        (b"0: Traceback (most recent call last):", "Traceback (most recent call last):", 0),
        (b"5: [rank7]: ValueError: no", "ValueError: no", 7),
        (b"worker-5: ValueError: no", "ValueError: no", None),
        (b"(WorkerDict pid=4711) ValueError: no", "ValueError: no", None),
        (b"[default2]:ValueError: no", "ValueError: no", 2),
        (b"[default2]:  File x", "  File x", 2),
        (b" 7: ValueError: no", "ValueError: no", 7),
        (b"(Worker rank=6 pid=9) ValueError: no", "ValueError: no", 6),
        (b"\x1b[36m(W pid=9, ip=192.0.2.1)\x1b[0m no [repeated 7x across cluster]", "no", None),
        (b"trainer_1   | ValueError: no", "ValueError: no", None),
        (b"[pod/job-0/main] ValueError: no", "ValueError: no", None),
        (b"2031-01-01 00:00:00 [rank5] no", "2031-01-01 00:00:00 [rank5] no", 5),
        ("错误: ValueError".encode("gbk"), "\ufffd\ufffd\ufffd\ufffd: ValueError", None),
        (b"\xff\xfen\0o\0 \0m\0e\0m\0o\0r\0y\0\r\0", "\ufffd\ufffdno memory", None),
        (b"\x1b[0;31mRuntimeError\x1b[0m: bad", "RuntimeError: bad", None),
        (b"  1%|\r 50%|\r100%| done\r\r", "100%| done", None),
        (b"windows line\r", "windows line", None),
        (b"GPU \x00 has", "GPU   has", None),
        (b"", "", None),
    ],
)
def test_colours_overwritten_states_and_prefixes_are_taken_off(
    raw: bytes, text: str, rank: int | None
) -> None:
    line = clean(raw)
    assert (line.text, line.rank) == (text, rank)


@pytest.mark.parametrize(
    "raw",
    [
        b"12:30:01 training",
        b"[rank]: x",
        b"loss: 3",
        b"3:4 ratio",
        b"3:  50%|## | 1/2 [00:01",
        b"epoch-1 | 1/2",
        b"  0:",
        b"lr_2: 0.1",
        b"ValueError: 1",
    ],
)
def test_what_only_resembles_a_rank_stays(raw: bytes) -> None:
    assert clean(raw).rank is None
    assert clean(raw).text == raw.decode()


def test_of_a_long_line_the_head_and_the_tail_remain() -> None:
    text = clean(b"head" + b"x" * 1_000_000 + b"tail").text
    assert text.startswith("head")
    assert text.endswith("tail")
    assert len(text) <= 2 * PART_BYTES + 3


@given(st.binary(max_size=300))
def test_no_bytes_whatever_are_too_much(raw: bytes) -> None:
    assert "\n" not in clean(raw).text
    assert "\x1b[" not in clean(raw).text
