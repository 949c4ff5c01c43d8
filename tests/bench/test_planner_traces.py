"""Tests that the simulator's traces are asked for as the tracer wants it."""

import re

from tests.bench.planner_traces import TRACER, case


def test_a_case_says_everything_that_the_tracer_reads_of_it() -> None:
    read = set(re.findall(r'case\["(\w+)"\]', TRACER.read_text()))
    assert len(read) > 10
    assert read <= case("lora", True, "whole", True, 4, 512).keys()
