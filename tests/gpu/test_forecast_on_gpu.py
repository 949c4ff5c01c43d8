"""What is predicted of a plan on CUDA is held to what its allocator reports.

`pytest -m gpu -s tests/gpu/test_forecast_on_gpu.py` prints a row for each plan: the signed error of
the tensors against max allocated, and of the peak without its context against max reserved. The
figures of a card belong into tests/bench/RESULTS.md, with the date and the card's name.
"""

from __future__ import annotations

import json
from typing import Any

import pytest

from autotune.core.memory.forecast import Forecast
from autotune.core.memory.predict import forecast
from autotune.core.memory.reading import read_shape
from autotune.core.memory.shape import ModelShape
from autotune.core.memory.workload import Subject as Predicted
from autotune.core.memory.workload import Workload
from autotune.core.plan import Plan
from tests.e2e.real_start import Outcome, Subject
from tests.gpu.test_rungs_on_gpu import ALLOCATED, RESERVED, base, subject

pytestmark = pytest.mark.gpu
__all__ = ["subject"]  # the fixture: a hundred million parameters, trained once for each plan

WORST = 0.05  # least and most that the tensors may take beside what was told
PLANS: dict[str, dict[str, Any]] = {
    "base": {},
    "two_samples": {"micro_batch": 2, "accumulation": 4},
    "activation_checkpointing": {"activation_checkpointing": True},
    "chunked": {"loss": "chunked"},
    "eager": {"attention": "eager"},
    "stage_1": {"zero_stage": 1},
    "stage_3": {"zero_stage": 3},
    "offload_optimizer": {"offload_optimizer": True},
    "lora": {"method": "lora"},
    "lora_checkpointed": {"method": "lora", "activation_checkpointing": True},
    "nf4": {"method": "lora", "quantization": "nf4"},
    "fp32": {"dtype": "fp32"},
}


def told(trained: Subject, plan: Plan) -> Forecast:
    """Return what is predicted of one start of the tests' model."""
    config = json.loads((trained.folder / "model" / "config.json").read_text())
    shape = read_shape(config)
    assert isinstance(shape, ModelShape)
    of = Predicted(shape, "cuda", trained.sequence, evaluates=True, host_ranks=plan.world_size)
    return forecast(Workload(of, plan))


@pytest.mark.parametrize("name", PLANS)
def test_a_plan_takes_what_was_told_of_it(subject: Subject, name: str) -> None:
    plan = base().but(eval_micro_batch=8, sequence=subject.sequence, **PLANS[name])
    outcome: Outcome = subject.start(f"told_{name}", plan)
    expected = told(subject, plan)
    tensors = expected.tensors / outcome.peak(ALLOCATED) - 1
    reserved = (expected.peak - expected.outside) / outcome.peak(RESERVED) - 1
    print(f"{name:26} tensors {tensors:+.1%}  reserved {reserved:+.1%}")
    assert abs(tensors) <= WORST
