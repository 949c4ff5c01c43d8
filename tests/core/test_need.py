"""What must be free before a retry is what was held and what was refused, never a guess."""

import dataclasses

import pytest

from autotune.core.evidence import Memory, OomFigures
from autotune.core.failure import Failure
from autotune.core.need import needed_bytes
from tests import builders

GIB = builders.GIB
LIMITS = builders.shipped().limits
CONTEXT = LIMITS.cuda_context


@pytest.mark.parametrize(
    ("figures", "needed"),
    [
        (builders.figures(requested=2, process=10), 12 * GIB),
        (builders.figures(requested=2, process=10, reserved=30), 32 * GIB + CONTEXT),
        (builders.figures(requested=1, allocated=3), 4 * GIB + CONTEXT),
        (builders.figures(requested=1), GIB + CONTEXT),
        (builders.figures(free=1, capacity=80), None),
    ],
)
def test_the_refusal_tells_what_must_be_free(figures: OomFigures, needed: int | None) -> None:
    crowded = builders.attempt(1, failure=Failure.DEVICE_OOM_COTENANT)
    why = builders.diagnosis(Failure.DEVICE_OOM_COTENANT, figures=figures)
    assert needed_bytes(dataclasses.replace(crowded, diagnosis=why), None, LIMITS) == needed


def test_what_was_sampled_on_the_gpu_counts_and_what_was_sampled_on_the_host_does_not() -> None:
    for device, needed in (("cuda", 20 * GIB + CONTEXT), ("cpu", None)):
        memory = Memory(device=device, peak_bytes=20 * GIB)
        crowded = builders.attempt(1, failure=Failure.DEVICE_OOM_COTENANT, memory=memory)
        assert needed_bytes(crowded, None, LIMITS) == needed


def test_a_job_with_a_limit_may_come_to_need_all_of_it() -> None:
    crowded = builders.attempt(1, failure=Failure.DEVICE_OOM_COTENANT)
    assert needed_bytes(crowded, 24 * GIB, LIMITS) == 24 * GIB
