"""The distribution of a forecast's error."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autotune.core.memory.student import below, quantile


def test_the_published_quantiles_come_out() -> None:
    assert quantile(0.95) == pytest.approx(2.131847, abs=1e-6)
    assert quantile(0.9) == pytest.approx(1.533206, abs=1e-6)
    assert quantile(0.995) == pytest.approx(4.604095, abs=1e-6)


def test_a_far_tail_is_small_and_not_lost() -> None:
    assert below(-100) == pytest.approx(3e-8, rel=0.01)
    assert below(-1e6) > 0


@given(st.floats(-1e300, 1e300))
def test_the_two_tails_are_alike(t: float) -> None:
    assert below(t) + below(-t) == pytest.approx(1.0)
    assert 0.0 <= below(t) <= 1.0


@given(st.floats(1e-6, 1 - 1e-6))
def test_a_quantile_has_its_probability_below_it(p: float) -> None:
    assert below(quantile(p)) == pytest.approx(p, rel=1e-6)
