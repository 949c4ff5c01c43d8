"""A curve stays short however long the attempt, and tells a leak from a spike."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autotune.core.curve import MOST_POINTS, Course, Curve, course, course_of_rank
from tests.builders import GIB


def steps(*sizes: float) -> list[tuple[int | None, int | None]]:
    return [(3 * number, int(size * GIB)) for number, size in enumerate(sizes)]


RISE = [10 + 0.2 * n for n in range(40)]


@pytest.mark.parametrize(
    ("sizes", "expected"),
    [
        (RISE, Course.LEAKING),
        ([size + (n % 2) * 0.8 for n, size in enumerate(RISE)], Course.LEAKING),  # a sawtooth
        ([10 + n // 4 for n in range(40)], Course.LEAKING),  # an allocator takes whole blocks
        ([10.0] * 38 + [10, 16], Course.SPIKE),
        ([10.0, 12.0] * 20, Course.FLAT),
        ([10.0] * 20 + [16.0] * 20, Course.FLAT),  # an evaluation that stayed
        ([min(size, 12) for size in RISE], Course.FLAT),  # caches that have filled
        ([10 + 0.001 * n for n in range(40)], Course.FLAT),  # far too slow to matter
        ([20 - 0.1 * n for n in range(40)], Course.FLAT),
        ([2.0 * n for n in range(8)], Course.UNKNOWN),
    ],
)
def test_a_curve_is_called_what_it_is(sizes: list[float], expected: Course) -> None:
    assert course(steps(*sizes)) is expected


def test_growth_while_the_model_loads_is_no_leak() -> None:
    loading: list[tuple[int | None, int | None]] = [(None, n * GIB) for n in range(40)]
    assert course([*loading, *steps(*[40.0] * 15)]) is Course.FLAT
    assert course(loading) is Course.UNKNOWN


def test_many_samples_of_few_steps_show_nothing() -> None:
    assert course([(n // 8, size) for n, (_, size) in enumerate(steps(*RISE))]) is Course.UNKNOWN


@given(st.lists(st.integers(0, 2**40), min_size=1, max_size=1000))
def test_the_curve_stays_short_and_loses_neither_its_peak_nor_its_end(sizes: list[int]) -> None:
    curve = Curve()
    for number, size in enumerate(sizes):
        curve.add(float(number), number, size, None)
    points = curve.points()
    assert len(points) <= MOST_POINTS
    assert max(p.rank_bytes for p in points if p.rank_bytes is not None) == max(sizes)
    assert (points[-1].seconds, points[-1].step) == (len(sizes) - 1, len(sizes) - 1)
    assert [p.seconds for p in points] == sorted(p.seconds for p in points)


def test_a_leak_is_seen_in_a_curve_made_short() -> None:
    curve = Curve()
    for number in range(20_000):
        curve.add(number, number // 2, GIB + number * 2**16, None)
    assert course_of_rank(curve.points()) is Course.LEAKING


def test_a_reading_that_failed_leaves_a_hole_and_not_a_zero() -> None:
    curve = Curve()
    curve.add(0.0, 1, None, 5)
    curve.add(1.0, None, 7, None)
    assert [(p.rank_bytes, p.host_bytes) for p in curve.points()] == [(None, 5), (7, None)]
