"""A bare log of any failure is told what would be tried, or that it stops and why."""

import pytest

from autotune.cli.remedies import remedies_for
from autotune.cli.wiring import all_rungs
from autotune.core.evidence import Reason
from autotune.core.failure import Failure, Phase, Role
from tests import builders

FIRST = {
    Failure.DEVICE_OOM: "shrink_buckets",
    Failure.DEVICE_OOM_FRAGMENTATION: "allocator_settings",
    Failure.DEVICE_OOM_COTENANT: "wait_for_neighbour",
    Failure.HOST_OOM: "no_loader_workers",
    Failure.OFFLOAD_DEVICE: "drop_offload",
    Failure.DTYPE_KERNEL_GAP: "plainer_attention",
    Failure.QUANTIZATION_CONFLICT: "zero_down",
    Failure.CHECKPOINT_MISMATCH: "previous_checkpoint",
    Failure.CHECKPOINT_CORRUPT: "previous_checkpoint",
    Failure.DISK_FULL: "retry_unchanged",
    Failure.COLLECTIVE_TIMEOUT: "retry_unchanged",
    Failure.COLLECTIVE_ERROR: "retry_unchanged",
    Failure.RENDEZVOUS_PORT: "another_port",
    Failure.NUMERIC_DIVERGENCE: "stop",
    Failure.GPU_HARDWARE: "exclude_device",
    Failure.ILLEGAL_ACCESS: "blocking_launches",
    Failure.DRIVER_MISMATCH: "stop",
    Failure.OP_BUILD: "drop_offload",
    Failure.MISSING_DEPENDENCY: "stop",
    Failure.CONFIG_ERROR: "stop",
    Failure.DATA_ERROR: "stop",
    Failure.NETWORK_HUB: "retry_unchanged",
    Failure.PREEMPTED: "retry_unchanged",
    Failure.USER_INTERRUPT: "stop",
    Failure.USER_CODE_ERROR: "stop",
    Failure.HANG: "retry_unchanged",
    Failure.UNKNOWN: "retry_unchanged",
}


@pytest.mark.parametrize("failure", [one for one in Failure if one is not Failure.NONE])
def test_every_failure_of_a_bare_log_has_its_remedy(failure: Failure) -> None:
    found = remedies_for(builders.diagnosis(failure))
    assert found[0]["rung"] == FIRST[failure]
    assert all(one["rung"] in {*all_rungs(), "stop"} and one["why"] for one in found)
    assert [one["rung"] for one in found[:-1]].count("stop") == 0


def test_a_healthy_log_has_none() -> None:
    assert remedies_for(builders.diagnosis(Failure.NONE)) == []


@pytest.mark.parametrize(
    ("failure", "signature", "rung"),
    [
        (Failure.NETWORK_HUB, "hub_refused", "stop"),
        (Failure.USER_CODE_ERROR, "native_crash", "retry_unchanged"),
        (Failure.OP_BUILD, "toolkit_missing", "drop_offload"),
    ],
)
def test_what_the_log_shows_chooses_the_rule(failure: Failure, signature: str, rung: str) -> None:
    why = builders.diagnosis(failure, evidence=(Reason(signature, Role.ROOT, 1, "words"),))
    found = remedies_for(why)
    assert found[0]["rung"] == rung
    assert "rebuild_ops" not in [one["rung"] for one in found]


def test_the_cure_that_a_diagnosis_knows_is_said_with_and_without_rungs() -> None:
    cure = "pip install -U 'bitsandbytes>=0.43'"
    for failure in (Failure.MISSING_DEPENDENCY, Failure.QUANTIZATION_CONFLICT):
        found = remedies_for(builders.diagnosis(failure, cure=cure))
        assert found[-1] == {"rung": "stop", "why": cure}


def test_the_phase_of_a_bare_log_is_heeded() -> None:
    found = remedies_for(builders.diagnosis(Failure.DEVICE_OOM, phase=Phase.EVAL))
    assert found[0]["rung"] == "eval_micro_batch"
