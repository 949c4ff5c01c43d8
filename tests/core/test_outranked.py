"""Each sign that did not win says why in a few words."""

import pytest

from autotune.core.explain import as_plain, explain_lines
from autotune.world.signature_file import load_signatures

SHIPPED = load_signatures(device="cuda")
OOM = "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB."


@pytest.mark.parametrize(
    ("lines", "signature", "why"),
    [
        ([OOM, "torch.distributed.DistBackendError: NCCL error in: x.cpp:1"], "peer_lost",
         "a consequence of another death"),
        (["KeyError: 'RANK'", "{'loss': 2.0}", OOM], "launched_without_launcher",
         "the training went on after it"),
        ([OOM, "KeyError: 'RANK'"], "launched_without_launcher", "later than the cause"),
        ([OOM, "ValueError: no"], "unnamed_exception",
         "an exception without a name, beside one that has a name"),
        ([OOM, "Segmentation fault"], "native_crash", "proves nothing by itself"),
        (["{'train_runtime': 1.0}", OOM], "run_completed", "words of a healthy run"),
        (["KeyError: 'RANK'", "exits with return code = 1", "nohup: ignoring input", OOM],
         "launched_without_launcher", "ended an earlier run in this log"),
    ],
)  # fmt: skip
def test_each_outranked_sign_says_why(lines: list[str], signature: str, why: str) -> None:
    plain = as_plain(explain_lines(lines, SHIPPED), lambda _: [])
    assert plain["failure"] == "device_oom"
    assert {e["signature"]: e.get("outranked") for e in plain["evidence"]}[signature] == why
