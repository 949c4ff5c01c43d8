"""Sizes and durations are read as people write them, and anything else is refused."""

import pytest

from autotune.core.units import parse_bytes, parse_seconds, show_bytes, show_seconds


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("24GiB", 24 * 2**30), ("1.5 GB", 1_500_000_000), ("500MB", 500_000_000), (7, 7),
        ("7", 7), ("600MiB", 600 * 2**20), ("2k", 2000), (" 1 TiB ", 2**40), (0, 0),
    ],
)  # fmt: skip
def test_a_size_is_read(text: str | int, count: int) -> None:
    assert parse_bytes(text) == count


@pytest.mark.parametrize("text", ["", "GiB", "24 Gigs", "-1", "1e9", "1.2.3GB", -1, True, None])
def test_what_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="size"):
        parse_bytes(text)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("48h", 172800), ("30m", 1800), ("12h30m", 45000), ("1d", 86400), ("45", 45), (0.5, 0.5),
     ("1h 5m 3s", 3903), (10, 10)],
)  # fmt: skip
def test_a_duration_is_read(text: str | float, seconds: float) -> None:
    assert parse_seconds(text) == seconds


@pytest.mark.parametrize("text", ["", "soon", "5 weeks", "h", "-5", -5, True, None])
def test_what_is_no_duration_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="duration"):
        parse_seconds(text)


@pytest.mark.parametrize(
    ("count", "text"),
    [(None, "?"), (0, "0 B"), (1536, "1.50 KiB"), (3 * 2**30 // 2, "1.50 GiB"),
     (4096 * 2**30, "4096.00 GiB")],
)  # fmt: skip
def test_a_size_is_shown_and_a_gap_is_not_a_zero(count: int | None, text: str) -> None:
    assert show_bytes(count) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(None, "?"), (0.4, "0 s"), (45, "45 s"), (59.7, "1 min 0 s"), (200, "3 min 20 s"),
     (7500, "2 h 5 min")],
)  # fmt: skip
def test_a_duration_is_shown_and_a_gap_is_not_a_zero(seconds: float | None, text: str) -> None:
    assert show_seconds(seconds) == text
