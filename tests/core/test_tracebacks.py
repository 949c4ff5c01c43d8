"""Chains, places, warnings and notebooks are read as a person reads them."""

from collections.abc import Sequence

import pytest

from autotune.core.evidence import Diagnosis
from autotune.core.explain import explain_lines
from autotune.core.failure import Failure, Phase
from autotune.world.signature_file import load_signatures

SIGNATURES = load_signatures()
TRACEBACK = "Traceback (most recent call last):"
DIRECT = "The above exception was the direct cause of the following exception:"
DURING = "During handling of the above exception, another exception occurred:"
REFUSED = "requests.exceptions.HTTPError: 403 Client Error: Forbidden"
NO_FILE = "OSError: a/b does not appear to have a file named config.json."
SHORTAGE = "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB."


def frame(path: str, function: str = "go") -> list[str]:
    return [f'  File "{path}", line 3, in {function}', "    work()"]


def explained(lines: Sequence[str], exit_code: int | None = None) -> Diagnosis:
    return explain_lines(lines, SIGNATURES, exit_code).diagnosis


def test_an_exception_raised_from_another_is_its_translation() -> None:
    lines = [TRACEBACK, *frame("a.py"), REFUSED, "", DIRECT, "", TRACEBACK, *frame("b.py")]
    assert explained([*lines, NO_FILE]).failure is Failure.CHECKPOINT_MISMATCH
    assert explained([*lines, "ValueError: it did not work"]).failure is Failure.NETWORK_HUB


def test_a_shortage_of_memory_stays_the_cause_whatever_it_is_translated_into() -> None:
    lines = [TRACEBACK, *frame("a.py"), SHORTAGE, "", DIRECT, "", TRACEBACK, *frame("b.py")]
    assert explained([*lines, NO_FILE]).failure is Failure.DEVICE_OOM


def test_an_exception_in_a_handler_does_not_hide_the_first_one() -> None:
    lines = [TRACEBACK, *frame("a.py"), REFUSED, "", DURING, "", TRACEBACK, *frame("b.py")]
    assert explained([*lines, NO_FILE]).failure is Failure.NETWORK_HUB


@pytest.mark.parametrize(
    ("path", "failure"),
    [
        ("/v/lib/python3.11/site-packages/datasets/arrow_dataset.py", Failure.DATA_ERROR),
        ("/v/lib/python3.11/site-packages/bitsandbytes/functional.py",
         Failure.QUANTIZATION_CONFLICT),
        ("/v/lib/python3.11/site-packages/mystery/core.py", Failure.USER_CODE_ERROR),
    ],
)  # fmt: skip
def test_the_place_of_a_nameless_exception_names_it(path: str, failure: Failure) -> None:
    deeper = frame("/v/lib/python3.11/site-packages/numpy/core.py")
    lines = [TRACEBACK, *frame("train.py"), *frame(path), *deeper, "KeyError: 'surprise'"]
    assert explained(lines).failure is failure


def test_a_place_says_nothing_of_what_the_users_own_code_raised_below_it() -> None:
    place = frame("/v/lib/python3.11/site-packages/datasets/arrow_dataset.py", "map")
    lines = [TRACEBACK, *frame("train.py"), *place, *frame("train.py", "tokenize"), "KeyError: 'x'"]
    assert explained(lines).failure is Failure.USER_CODE_ERROR


def test_words_of_their_own_outrank_the_place() -> None:
    place = frame("/v/lib/python3.11/site-packages/datasets/arrow_dataset.py", "map")
    lines = [TRACEBACK, *place, "OSError: [Errno 28] No space left on device"]
    assert explained(lines).failure is Failure.DISK_FULL


def test_the_frames_of_a_notebook_tell_place_and_phase() -> None:
    lines = [
        "---------------------------------------------------------------------------",
        f"KeyError                                  {TRACEBACK}",
        "Cell In[3], line 5",
        "----> 5 trainer.evaluate()",
        "File /v/site-packages/transformers/trainer.py:4051, in Trainer.evaluate(self)",
        "-> 4051     output = eval_loop(",
        "File /v/site-packages/torch/nn/modules/module.py:1751, in Module._call_impl(",
        "OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB.",
    ]
    diagnosis = explained(lines)
    assert (diagnosis.failure, diagnosis.phase) == (Failure.DEVICE_OOM, Phase.EVAL)


def test_an_exception_of_any_name_ends_a_traceback() -> None:
    lines = [TRACEBACK, *frame("train.py"), "mystery.Surprise: nobody knows"]
    assert explained(lines).failure is Failure.USER_CODE_ERROR


@pytest.mark.parametrize(
    "line",
    [
        "2031-01-01 00:00:00,123 - WARNING - x - No space left on device, keeping the old file",
        "/v/x.py:3: UserWarning: bf16 is not supported here, using fp32",
        "[W101 socket.cpp:601] The client socket has failed to connect to [node]:29500",
    ],
)
def test_a_warning_ends_nothing_unless_the_training_died_without_another_word(line: str) -> None:
    assert explained([line]).failure is Failure.NONE
    warned = explained([line], exit_code=1)
    assert warned.failure is not Failure.NONE
    assert warned.confidence < 0.5


def test_a_logged_end_is_an_end_at_whatever_level() -> None:
    line = "WARNING:torch.distributed.elastic.agent.server.api:Received Signals.SIGINT death signal"
    assert explained([line]).failure is Failure.USER_INTERRUPT


def test_the_launcher_names_the_rank_where_no_line_does() -> None:
    table = ["  rank      : 1 (local_rank: 1)", "Root Cause (first observed failure):"]
    lines = [TRACEBACK, *frame("a.py"), SHORTAGE, *table, "  rank      : 2 (local_rank: 2)"]
    assert explained(lines).rank == 2
    assert explained([*lines[:3], f"[rank0]: {SHORTAGE}", *lines[4:]]).rank == 0


def test_a_line_that_says_how_it_goes_on_is_no_failure() -> None:
    line = "Error: flash_attn is not installed, falling back to eager attention"
    assert explained([line], exit_code=1).failure is Failure.UNKNOWN


def test_a_place_of_the_same_failure_brings_its_cure() -> None:
    place = frame("/v/site-packages/deepspeed/runtime/zero/stage3.py", "unscale_and_clip_grads")
    words = "RuntimeError: Expected all tensors to be on the same device, but found at least two"
    diagnosis = explained([TRACEBACK, *place, words])
    assert diagnosis.failure is Failure.OFFLOAD_DEVICE
    assert "deepspeed>=0.14.3" in diagnosis.cure


def test_an_exception_long_after_what_was_printed_is_another_matter() -> None:
    printed = "size mismatch for head.weight: copying a param with shape torch.Size([2])"
    death = [TRACEBACK, '  File "t.py", line 3, in <module>', "    main()", "KeyError: 'x'"]
    assert explained([printed, *death]).failure is Failure.CHECKPOINT_MISMATCH
    assert explained([printed, *["quiet"] * 60, *death]).failure is Failure.USER_CODE_ERROR


def test_a_notebook_names_the_exception_where_its_end_is_cut_off() -> None:
    head = f"KeyboardInterrupt                         {TRACEBACK}"
    lines = [head, "<ipython-input-7-4f66> in <module>", "----> 1 model.fit(x, y)"]
    assert explained(lines).failure is Failure.USER_INTERRUPT


def test_the_cause_on_one_rank_outranks_the_timeout_of_those_that_wait_for_it() -> None:
    late = "[E ProcessGroupNCCL.cpp:1] [Rank 0] Watchdog caught collective operation timeout: x"
    death = [TRACEBACK, *frame("t.py"), SHORTAGE]
    stopped = [TRACEBACK, *frame("t.py"), "KeyboardInterrupt"]
    assert explained([late, *death]).failure is Failure.DEVICE_OOM
    assert explained([late, *stopped]).failure is Failure.COLLECTIVE_TIMEOUT
