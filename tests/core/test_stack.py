"""Stacks of both sources read alike, and each wait is recognised by its frame."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autotune.core.signature import STACK
from autotune.core.stack import (
    MOST_FRAMES,
    Frame,
    Stack,
    frames_of_faulthandler,
    frames_of_py_spy,
    with_waiting,
)
from autotune.world.signature_file import load_signatures

GPU = load_signatures(device="cuda")
PACKAGES = "/venv/lib/python3.11/site-packages"

FAULTHANDLER = """\
main thread 0x7f3a5c000740
Thread 0x00007f3a10ff9700 (most recent call first):
  File "/app/train.py", line 3 in follow
  File "/usr/lib/python3.11/threading.py", line 982 in run
  File "/usr/lib/python3.11/threading.py", line 1002 in _bootstrap

Current thread 0x00007f3a5c000740 (most recent call first):
  File "/app/train.py", line 9 in step
  File "/app/train.py", line 20 in <module>
"""
PY_SPY = """\
Process 32051: python /app/train.py
Python v3.11.7 (/usr/bin/python3.11)

Thread 32051 (idle): "MainThread"
    step (/app/train.py:9)
    <module> (/app/train.py:20)
Thread 32053 (idle): "Thread-1 (follow)"
    follow (/app/train.py:3)
    Thread.run (/usr/lib/python3.11/threading.py:982)
    Thread._bootstrap (/usr/lib/python3.11/threading.py:1002)
"""
AUTOGRAD = """\
main thread 0x1
Thread 0x0000000000000002 (most recent call first):
  File "/app/ddp.py", line 7 in all_reduce
  File "/app/zero.py", line 8 in reduce_partition_and_remove_grads

Thread 0x0000000000000001 (most recent call first):
  File "/app/graph.py", line 9 in _engine_run_backward
"""


def test_both_sources_give_the_same_frames_innermost_first() -> None:
    frames = (Frame("/app/train.py", 9, "step"), Frame("/app/train.py", 20, "<module>"))
    assert frames_of_faulthandler(FAULTHANDLER) == frames
    assert frames_of_py_spy(PY_SPY) == frames


def test_of_several_dumps_and_threads_the_main_one_counts() -> None:
    unnamed = FAULTHANDLER.partition("\n")[2]
    assert frames_of_faulthandler(unnamed)[0].function == "step"  # the oldest is written last


def test_a_thread_that_a_library_started_works_for_the_main_one() -> None:
    functions = [frame.function for frame in frames_of_faulthandler(AUTOGRAD)]
    assert functions == ["all_reduce", "reduce_partition_and_remove_grads", "_engine_run_backward"]


def test_a_name_in_brackets_is_read_over_as_newer_pythons_write_it() -> None:
    text = FAULTHANDLER.replace("5c000740 (most", "5c000740 [MainThread] (most")
    assert frames_of_faulthandler(text) == frames_of_faulthandler(FAULTHANDLER)


def test_what_a_terminal_would_obey_is_made_visible() -> None:
    (frame, _) = frames_of_faulthandler(FAULTHANDLER.replace("in step", "in \x1b[2Jstep"))
    assert frame.function == "?[2Jstep"


@given(st.text(max_size=400))
def test_no_text_stops_the_reading(text: str) -> None:
    for read in (frames_of_faulthandler, frames_of_py_spy):
        assert len(read(text)) <= MOST_FRAMES


def test_a_deep_stack_is_cut_at_its_outer_end() -> None:
    deep = "".join(f'  File "/a.py", line {n} in f\n' for n in range(1, 500))
    frames = frames_of_faulthandler(f"Thread 0x1 (most recent call first):\n{deep}")
    assert [frames[0].line, len(frames)] == [1, MOST_FRAMES]


# A frame that each entry finds, and one that only resembles it.
SAMPLES = {
    "waits_for_build_lock": (
        (f"{PACKAGES}/torch/utils/file_baton.py", "wait"),
        (f"{PACKAGES}/torch/utils/file_baton.py", "try_acquire"),
    ),
    "waits_for_loader_worker": (
        (f"{PACKAGES}/torch/utils/data/dataloader.py", "_try_get_data"),
        (f"{PACKAGES}/torch/utils/data/dataloader.py", "_next_data"),
    ),
    "waits_for_network": (
        ("/usr/lib/python3.11/ssl.py", "read"),
        (f"{PACKAGES}/huggingface_hub/utils/_validators.py", "_inner_fn"),
    ),
    "waits_for_file_lock": (
        (f"{PACKAGES}/filelock/_api.py", "acquire"),
        (f"{PACKAGES}/filelock/_api.py", "release"),
    ),
    "waits_for_person": (
        ("/usr/lib/python3.11/pdb.py", "interaction"),
        ("/app/my_cmd.py", "cmdloop"),
    ),
    "waits_in_collective": (
        (f"{PACKAGES}/deepspeed/comm/torch.py", "inference_all_reduce"),
        (f"{PACKAGES}/deepspeed/comm/comm.py", "init_distributed"),
    ),
    "waits_to_meet": (
        (f"{PACKAGES}/torch/distributed/rendezvous.py", "_create_c10d_store"),
        ("/app/rendezvous.py", "meet"),
    ),
    "waits_for_device": (
        (f"{PACKAGES}/torch/cuda/__init__.py", "synchronize"),
        (f"{PACKAGES}/torch/cuda/__init__.py", "is_available"),
    ),
    "waits_for_own_process": (
        ("/usr/lib/python3.11/threading.py", "join"),
        ("/usr/lib/python3.11/threading.py", "_bootstrap"),
    ),
}


def named(*frames: tuple[str, str]) -> str | None:
    stack = Stack(1, frames=tuple(Frame(file, 7, function) for file, function in frames))
    waiting = with_waiting(stack, GPU).waiting
    return waiting.signature if waiting else None


@pytest.mark.parametrize("name", SAMPLES)
def test_a_wait_is_found_by_its_frame_and_not_by_one_that_resembles_it(name: str) -> None:
    right, wrong = SAMPLES[name]
    assert named(right) == name
    assert named(wrong) != name


def test_every_entry_for_stacks_has_its_samples() -> None:
    assert {e.name for e in GPU.entries if e.where == STACK} == set(SAMPLES)


def test_entries_for_stacks_find_nothing_in_output_and_the_other_way_round() -> None:
    line = f'  File "{SAMPLES["waits_for_build_lock"][0][0]}", line 7, in wait'
    assert [f.signature.name for f in GPU.search(line) if f.signature.where == STACK] == []
    assert GPU.of_stacks.search("torch.OutOfMemoryError: CUDA out of memory") == []


def test_a_frame_that_says_more_wins_over_the_wait_inside_it() -> None:
    inner = ("/usr/lib/python3.11/multiprocessing/connection.py", "poll")
    loader = SAMPLES["waits_for_loader_worker"][0]
    assert named(inner) == "waits_for_own_process"
    assert named(inner, loader) == "waits_for_loader_worker"


def test_a_collective_within_a_guarded_download_is_the_collective() -> None:
    barrier = (f"{PACKAGES}/torch/distributed/distributed_c10d.py", "barrier")
    assert named(barrier, SAMPLES["waits_for_network"][0]) == "waits_in_collective"
