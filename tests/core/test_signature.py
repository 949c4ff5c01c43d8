"""The signatures that are shipped find what they should, nothing near it, and quickly."""

import time

import pytest

from autotune.core.failure import Failure, Role
from autotune.core.signature import CPU, CUDA, FRAME, OUTPUT, STACK, Signatures, applicable
from autotune.world.signature_file import load_signatures
from tests.core.signature_samples import SAMPLES

SIGNATURES = load_signatures(device=CPU)
MATCHES = [(name, line) for name, (lines, _) in SAMPLES.items() for line in lines]
MISSES = [(name, line) for name, (_, lines) in SAMPLES.items() for line in lines]


def found(line: str) -> list[str]:
    """Search the line as one of output, of a traceback's frames and of a stack's."""
    places = (SIGNATURES, SIGNATURES.of_frames, SIGNATURES.of_stacks)
    return sorted(item.signature.name for place in places for item in place.search(line))


@pytest.mark.parametrize(("name", "line"), MATCHES)
def test_a_signature_finds_its_samples(name: str, line: str) -> None:
    assert name in found(line)


@pytest.mark.parametrize(("name", "line"), MISSES)
def test_a_signature_passes_over_what_only_resembles_it(name: str, line: str) -> None:
    assert name not in found(line)


def test_there_are_as_many_near_misses_as_matches() -> None:
    assert len(MISSES) >= len(MATCHES)


@pytest.mark.parametrize("line", [line for _, line in MATCHES + MISSES])
def test_the_derived_filter_loses_nothing(line: str) -> None:
    plainly = sorted(
        entry.name
        for where in (OUTPUT, FRAME, STACK)
        for entry in applicable(SIGNATURES.entries, CPU, where)
        if any(pattern.search(line) for pattern in entry.compiled)
    )
    assert found(line) == plainly


def test_the_same_words_mean_the_device_or_the_host() -> None:
    line = "RuntimeError: DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"
    for device, failure in (
        (CPU, Failure.DEVICE_OOM),
        (CUDA, Failure.HOST_OOM),
        (None, Failure.HOST_OOM),
    ):
        roots = [
            item.signature.failure
            for item in Signatures(SIGNATURES.entries, device).search(line)
            if item.signature.role is Role.ROOT
            and item.signature.failure is not Failure.USER_CODE_ERROR
        ]
        assert roots == [failure]


@pytest.mark.parametrize(
    "piece",
    ["a", "1", " ", "loss: ", "step 1 ", 'File "', "ImportError: ", "Error", ".so: ",
     "ValueError: ", "not implemented for '", "training ", "*** JOB 1 ON ",
     "is killed by signal: ", "Process 1 has "],
)  # fmt: skip
def test_no_line_stalls_the_watcher(piece: str) -> None:
    line = (piece * 8192)[:8192]
    began = time.process_time()
    found(line)
    # A thousand times what it takes: this catches the explosive, and no slow machine.
    assert time.process_time() - began < 5


def test_every_failure_that_words_can_name_has_a_signature() -> None:
    silent = {Failure.HANG, Failure.DEVICE_OOM_FRAGMENTATION, Failure.DEVICE_OOM_COTENANT}
    assert {entry.failure for entry in SIGNATURES.entries} | silent == set(Failure)
