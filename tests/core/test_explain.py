"""A log is explained as the supervisor would have understood it."""

from autotune.core.explain import as_plain, as_text, explain_lines
from autotune.core.failure import Failure
from autotune.world.signature_file import load_signatures

SIGNATURES = load_signatures()
LOG = [
    "{'loss': 2.1, 'epoch': 0.1}",
    "[rank1]: Traceback (most recent call last):",
    '[rank1]:   File "t.py", line 3, in backward',
    "[rank1]: torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB.",
    "[rank0]: DistBackendError: NCCL communicator was aborted",
]
KEYS = [
    "failure", "confidence", "why", "secondary", "rank", "phase", "memory", "evidence", "remedy",
]  # fmt: skip


def test_the_json_holds_the_keys_of_the_contract() -> None:
    plain = as_plain(explain_lines(LOG, SIGNATURES), lambda _: [{"rung": "r", "why": "w"}])
    assert list(plain) == KEYS
    assert (plain["failure"], plain["rank"], plain["phase"]) == ("device_oom", 1, "backward")
    assert plain["secondary"] == ["collective_error"]
    assert plain["memory"]["requested_bytes"] == 2 * 2**30
    assert plain["memory"]["capacity_bytes"] is None
    assert plain["evidence"][0] == {
        "signature": "device_allocation_refused",
        "role": "root",
        "line": 4,
        "text": LOG[3].removeprefix("[rank1]: "),
    }
    assert plain["remedy"] == [{"rung": "r", "why": "w"}]


def test_a_person_reads_what_was_seen_why_and_what_was_outranked() -> None:
    text = "\n".join(as_text(explain_lines(LOG, SIGNATURES), "a.log", lambda _: []))
    assert text.startswith("a.log: device_oom on rank 1 during backward")
    assert "seen: line 4" in text
    assert "outranked: line 5, peer_lost (a consequence of another death)" in text


def test_a_log_without_a_word_of_failure_is_healthy_unless_its_exit_code_says_otherwise() -> None:
    lines = ["{'loss': 2.1}"]
    assert explain_lines(lines, SIGNATURES).diagnosis.failure is Failure.NONE
    assert explain_lines(lines, SIGNATURES, 1).diagnosis.failure is Failure.UNKNOWN
    assert explain_lines(lines, SIGNATURES, 137).diagnosis.failure is Failure.HOST_OOM
    assert explain_lines([], SIGNATURES).diagnosis.failure is Failure.UNKNOWN
