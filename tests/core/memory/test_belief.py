"""What a measured attempt teaches about its own plan and about others."""

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autotune.core.memory.belief import (
    Belief,
    after_fragmentation,
    after_oom,
    after_peak,
    after_probes,
    centre,
    interval,
    p_fit,
)
from autotune.core.memory.forecast import Forecast, Moment
from autotune.core.plan import Plan
from tests.core.memory.foretold import GIB, a_plan, forecast, probe

NOTHING = Belief()


def width(belief: Belief, plan: Plan, of: Forecast) -> float:
    low, high = interval(belief, plan, of)
    return math.log(high / low)


def test_nothing_measured_leaves_the_forecast_and_its_spread() -> None:
    assert centre(NOTHING, a_plan(), forecast(10)) == pytest.approx(10 * GIB)
    assert width(NOTHING, a_plan(), forecast(10)) == pytest.approx(2 * 2.13 * 0.05, rel=0.01)


def test_a_plan_at_the_limit_is_a_coin_and_one_far_below_it_certain() -> None:
    assert p_fit(NOTHING, a_plan(), forecast(10), 10 * GIB) == pytest.approx(0.5, abs=0.01)
    assert p_fit(NOTHING, a_plan(), forecast(5), 10 * GIB) > 0.99
    assert p_fit(NOTHING, a_plan(), forecast(20), 10 * GIB) < 0.01


def test_a_plan_that_ran_comes_back_as_it_was_measured() -> None:
    belief = after_peak(NOTHING, a_plan(), forecast(10), 11 * GIB)
    assert centre(belief, a_plan(), forecast(10)) == pytest.approx(11 * GIB, rel=0.002)
    assert width(belief, a_plan(), forecast(10)) < 0.1 * width(NOTHING, a_plan(), forecast(10))


def test_a_neighbour_learns_more_than_a_plan_of_another_kind() -> None:
    belief = after_peak(NOTHING, a_plan(), forecast(10), 11 * GIB)
    smaller = a_plan(micro_batch=4, accumulation=2)
    other = a_plan(activation_checkpointing=True, loss="chunked")
    near, far = (centre(belief, one, forecast(10)) for one in (smaller, other))
    assert 10 * GIB < far < near < 11 * GIB
    assert width(belief, smaller, forecast(10)) < width(belief, other, forecast(10))


def test_the_moment_of_the_peak_tells_all_and_loading_tells_little() -> None:
    plan, of = a_plan(), forecast(10)
    loaded = after_probes(NOTHING, plan, of, [probe(Moment.LOAD, 6.0)])
    whole = after_probes(loaded, plan, of, [probe(Moment.LOAD, 6.0), probe(Moment.BACKWARD, 10.5)])
    assert width(loaded, plan, of) > 0.5 * width(NOTHING, plan, of)
    assert width(whole, plan, of) < 0.2 * width(NOTHING, plan, of)
    assert centre(whole, plan, of) == pytest.approx(10.5 * GIB, rel=0.01)


def test_a_forward_pass_above_its_forecast_lifts_the_backward_pass_that_was_not_seen() -> None:
    plan, of = a_plan(), forecast(10)
    belief = after_probes(NOTHING, plan, of, [probe(Moment.FORWARD, 9.9)])
    assert 10.5 * GIB < centre(belief, plan, of) < 11.2 * GIB


def test_on_the_cpu_the_process_is_measured_before_the_model_and_taken_off_later() -> None:
    plan, of = a_plan(), forecast(11, outside=1 * GIB)
    base = probe(Moment.BASE, 1.5, reserved_bytes=None)
    belief = after_probes(NOTHING, plan, of, [base])
    assert belief.outside_error == GIB // 2
    assert centre(belief, plan, of) == pytest.approx(11.5 * GIB, rel=0.001)
    assert width(belief, plan, of) < width(NOTHING, plan, of)
    peak = probe(Moment.BACKWARD, 10 + 1.5, reserved_bytes=None)
    told = after_probes(NOTHING, plan, of, [base, peak])
    assert told.sightings[0].value == pytest.approx(0.0, abs=1e-9)


def test_what_did_not_suffice_never_suffices_for_the_same_plan() -> None:
    belief = after_oom(NOTHING, a_plan(), forecast(8), 10 * GIB)
    assert p_fit(belief, a_plan(), forecast(8), 10 * GIB) == 0.0
    assert interval(belief, a_plan(), forecast(8))[0] >= 10 * GIB


def test_a_surprising_shortage_lifts_the_neighbours_and_an_expected_one_hardly() -> None:
    smaller = a_plan(micro_batch=4, accumulation=2)
    surprised = after_oom(NOTHING, a_plan(), forecast(9), 10 * GIB)
    expected = after_oom(NOTHING, a_plan(), forecast(15), 10 * GIB)
    assert centre(surprised, smaller, forecast(6)) > 6.3 * GIB
    assert centre(expected, smaller, forecast(6)) == pytest.approx(6 * GIB, rel=0.002)


def test_a_surprise_beyond_every_spread_widens_the_intervals_of_others() -> None:
    belief = after_peak(NOTHING, a_plan(), forecast(10, 0.01), 14 * GIB)
    other = a_plan(quantization="nf4", method="lora", activation_checkpointing=True)
    assert width(belief, other, forecast(5, 0.01)) > width(NOTHING, other, forecast(5, 0.01))


def test_fragmentation_is_added_only_where_segments_do_not_grow() -> None:
    plain, growing = a_plan(allocator=()), a_plan()
    belief = after_fragmentation(NOTHING, plain, 2 * GIB, 10 * GIB)
    assert centre(belief, plain, forecast(10)) == pytest.approx(12 * GIB, rel=0.001)
    assert centre(belief, growing, forecast(10)) == pytest.approx(10 * GIB, rel=0.001)


STEPS = st.lists(
    st.tuples(
        st.sampled_from(["load", "forward", "whole", "oom", "peak"]),
        st.sampled_from([1, 2, 4, 8]),
        st.booleans(),
        st.integers(1, 2**60),  # the forecast's peak
        st.integers(1, 2**60),  # what was measured
        st.floats(0, 3),
    ),
    max_size=6,
)


@given(STEPS, st.integers(1, 2**60), st.integers(1, 2**62))
def test_no_evidence_leads_outside_of_what_is_proper(
    steps: list[Any], size: int, capacity: int
) -> None:
    belief = NOTHING
    for kind, micro, checkpointing, foretold, measured, spread in steps:
        plan = a_plan(micro_batch=micro, activation_checkpointing=checkpointing)
        of = forecast(foretold / GIB, spread)
        seen = measured / GIB
        if kind == "oom":
            belief = after_oom(belief, plan, of, measured)
        elif kind == "peak":
            belief = after_peak(belief, plan, of, measured)
        else:
            moment = {"load": Moment.LOAD, "forward": Moment.FORWARD, "whole": Moment.BACKWARD}
            belief = after_probes(belief, plan, of, [probe(moment[kind], seen)])
    for plan in (a_plan(), a_plan(micro_batch=1, method="lora")):
        of = forecast(size / GIB)
        chance = p_fit(belief, plan, of, capacity)
        assert 0.0 <= chance <= 1.0
        assert chance <= p_fit(belief, plan, of, 2 * capacity)
        low, high = interval(belief, plan, of)
        assert 0 <= low <= centre(belief, plan, of) <= high
