"""The figures of every wording of an out-of-memory message are read."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autotune.core.oom_message import parse_oom
from tests.builders import figures

MIB = 1 / 1024


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        (  # torch up to 1.4
            "CUDA out of memory. Tried to allocate 512.00 MiB (GPU 0; 8.00 GiB total capacity; "
            "6.00 GiB already allocated; 256.00 MiB free; 1.00 GiB cached)",
            figures(requested=0.5, capacity=8, allocated=6, free=0.25, reserved=7),
        ),
        (  # torch 1.5 to 2.0
            "CUDA out of memory. Tried to allocate 512.00 MiB (GPU 1; 8.00 GiB total capacity; "
            "6.00 GiB already allocated; 0 bytes free; 7.00 GiB reserved in total by PyTorch)",
            figures(requested=0.5, capacity=8, allocated=6, free=0, reserved=7),
        ),
        (  # torch 2.1, with its misspelling
            "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacty of 24.00 "
            "GiB of which 1.00 GiB is free. Including non-PyTorch memory, this process has 22.00 "
            "GiB memory in use. Of the allocated memory 20.00 GiB is allocated by PyTorch, and "
            "512.00 MiB is reserved by PyTorch but unallocated.",
            figures(
                requested=2, capacity=24, free=1, process=22, other_processes=0, allocated=20,
                reserved=20.5,
            ),
        ),
        (  # torch 2.9 and later under a cap
            "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 80.00 "
            "GiB of which 60.00 GiB is free. Including non-PyTorch memory, this process has 20.00 "
            "GiB memory in use. 24.00 GiB allowed; Of the allocated memory 18.00 GiB is allocated "
            "by PyTorch, with 1.00 GiB allocated in private pools (e.g., CUDA Graphs), and 1.00 "
            "GiB is reserved by PyTorch but unallocated.",
            figures(
                requested=2, capacity=80, free=60, process=20, other_processes=0, limit=24,
                allocated=18, reserved=19,
            ),
        ),
        (
            "HIP out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 64.00 "
            "GiB of which 1.00 GiB is free. Of the allocated memory 60.00 GiB is allocated by "
            "PyTorch, and 1.00 GiB is reserved by PyTorch but unallocated.",
            figures(requested=2, capacity=64, free=1, allocated=60, reserved=61),
        ),
        (
            "DefaultCPUAllocator: can't allocate memory: you tried to allocate 1073741824 bytes.",
            figures(requested=1),
        ),
        ("CUDA out of memory. Tried to allocate 512.00 MiB. GPU ", figures(requested=0.5)),
        ("CUDA error: out of memory", figures()),
    ],
)  # fmt: skip
def test_each_wording_gives_its_figures(message: str, expected: object) -> None:
    read = parse_oom(message)
    if read.other_processes_bytes is None:
        read = parse_oom(message)
    assert {k: v or 0 for k, v in vars(read).items()} == {
        k: v or 0 for k, v in vars(expected).items()
    }


def test_a_container_does_not_know_its_own_pid() -> None:
    read = parse_oom(
        "CUDA out of memory. Tried to allocate 1.00 GiB. GPU 0 has a total capacity of 16.00 GiB "
        "of which 0 bytes is free. Process 815 has 15.50 GiB memory in use. Of the allocated "
        "memory 14.00 GiB is allocated by PyTorch, and 1.00 GiB is reserved by PyTorch but "
        "unallocated."
    )
    assert read.process_bytes == int(15.5 * 2**30)
    assert read.other_processes_bytes == 0


def test_of_messages_run_together_the_first_is_read() -> None:
    one = "CUDA out of memory. Tried to allocate {} GiB (GPU 0; 8.00 GiB total capacity)"
    assert parse_oom(one.format(1) + one.format(2)).requested_bytes == 2**30


@given(st.text(alphabet="0123456789.GMKiB Tried to allocate free;,()", max_size=200))
def test_garbage_never_raises(text: str) -> None:
    parse_oom("Tried to allocate " + text)
