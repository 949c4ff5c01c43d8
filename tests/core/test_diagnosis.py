"""What ended an attempt is named from the strongest evidence there is."""

from typing import Any

import pytest

from autotune.core.diagnosis import diagnose
from autotune.core.evidence import Memory, RankException
from autotune.core.failure import Failure, Phase, Role
from autotune.core.scan import Scanner, with_signs
from autotune.world.signature_file import load_signatures
from tests.builders import A_SHORTAGE, GIB, cpu_memory, evidence, exception, figures, sign

CPU = load_signatures(device="cpu")
GPU = load_signatures(device="cuda")


def raised(kind: str, message: str, **changes: Any) -> RankException:
    return with_signs(exception(kind, message=message, **changes), CPU)


def test_a_training_that_finished_by_its_files_has_no_failure_whatever_the_exit_code() -> None:
    seen = evidence(finished=True, exit_code=137, signs=(sign(Failure.DEVICE_OOM),))
    assert diagnose(seen).failure is Failure.NONE


def test_what_we_ended_ourselves_is_not_a_failure() -> None:
    seen = evidence(ended_by_us="stop", signal=9, signs=(sign(Failure.USER_INTERRUPT),))
    assert diagnose(seen).failure is Failure.NONE


def test_ending_the_peers_of_a_dead_rank_hides_neither_its_cause_nor_its_rank() -> None:
    seen = evidence(ended_by_us="rank_died", signs=(sign(Failure.DEVICE_OOM, rank=2),))
    diagnosis = diagnose(seen)
    assert (diagnosis.failure, diagnosis.rank) == (Failure.DEVICE_OOM, 2)


def test_silence_that_we_ended_is_a_hang() -> None:
    assert diagnose(evidence(ended_by_us="hang", signal=9)).failure is Failure.HANG


def test_an_exception_outranks_words_and_brings_its_phase() -> None:
    shortage = raised("RuntimeError", A_SHORTAGE[14:], rank=1, phase=Phase.EVAL)
    seen = evidence(
        exceptions=(shortage,), memory=cpu_memory(), signs=(sign(Failure.NETWORK_HUB, line=1),)
    )
    diagnosis = diagnose(seen)
    assert diagnosis.failure is Failure.DEVICE_OOM
    assert (diagnosis.rank, diagnosis.phase) == (1, Phase.EVAL)
    assert [r.signature for r in diagnosis.outranked] == ["a_network_hub"]


def test_the_first_rank_to_fail_wins_by_its_clock() -> None:
    late = raised("ValueError", "no such column", rank=0, at=20.0)
    early = raised("MemoryError", "", rank=3, at=10.0)
    seen = evidence(exceptions=(late, early), memory=cpu_memory())
    assert diagnose(seen).rank == 3


def test_a_consequence_never_wins_over_its_cause() -> None:
    lost = raised("RuntimeError", "[gloo/transport/tcp/pair.cc:547] Connection closed by peer")
    cause = raised("RuntimeError", A_SHORTAGE[14:], rank=1, at=99.0)
    seen = evidence(exceptions=(lost, cause), memory=cpu_memory())
    assert (diagnose(seen).failure, diagnose(seen).rank) == (Failure.DEVICE_OOM, 1)


def test_a_lost_peer_and_a_silent_kill_are_a_kill() -> None:
    lost = raised("RuntimeError", "[gloo/transport/tcp/pair.cc:547] Connection closed by peer")
    seen = evidence(exceptions=(lost,), exit_code=247)
    assert diagnose(seen).failure is Failure.HOST_OOM


@pytest.mark.parametrize(
    ("data_gib", "phase", "failure"),
    [
        (1.95, Phase.BACKWARD, Failure.DEVICE_OOM),
        (None, Phase.BACKWARD, Failure.DEVICE_OOM),
        (0.4, Phase.BACKWARD, Failure.USER_CODE_ERROR),
    ],
)
def test_words_that_prove_nothing_need_the_size_of_the_process(
    data_gib: float | None, phase: Phase, failure: Failure
) -> None:
    size = None if data_gib is None else int(data_gib * GIB)
    died = raised("RuntimeError", "could not create a primitive", phase=phase, data_bytes=size)
    assert diagnose(evidence(exceptions=(died,), memory=cpu_memory())).failure is failure


@pytest.mark.parametrize(
    ("kind", "message"), [("MemoryError", ""), ("RuntimeError", "std::bad_alloc")]
)
def test_an_allocation_refused_on_the_cpu_device_is_the_devices(kind: str, message: str) -> None:
    died = raised(kind, message, data_bytes=2 * GIB - 1)
    diagnosis = diagnose(evidence(exceptions=(died,), memory=cpu_memory()))
    assert diagnosis.failure is Failure.DEVICE_OOM
    assert diagnosis.figures.process_bytes == 2 * GIB - 1
    assert diagnosis.figures.limit_bytes == 2 * GIB


def test_the_same_words_on_a_gpu_are_the_hosts() -> None:
    died = with_signs(exception(message=A_SHORTAGE[14:]), GPU)
    seen = evidence(exceptions=(died,), memory=Memory(device="cuda"))
    assert diagnose(seen).failure is Failure.HOST_OOM


def test_a_handler_that_fails_does_not_hide_the_cause() -> None:
    chain = (
        "Traceback (most recent call last):\n"
        '  File "t.py", line 3, in backward\n'
        "    loss.backward()\n"
        f"{A_SHORTAGE}\n\n"
        "During handling of the above exception, another exception occurred:\n\n"
        "Traceback (most recent call last):\n"
        '  File "t.py", line 9, in <module>\n'
        "    dump()\n"
        "PermissionError: [Errno 13] Permission denied: 'dump.json'\n"
    )
    died = raised("PermissionError", "[Errno 13] Permission denied: 'dump.json'", traceback=chain)
    diagnosis = diagnose(evidence(exceptions=(died,), memory=cpu_memory()))
    assert (diagnosis.failure, diagnosis.phase) == (Failure.DEVICE_OOM, Phase.BACKWARD)


def test_the_place_of_an_exception_without_a_name_can_name_it() -> None:
    trace = (
        "Traceback (most recent call last):\n"
        '  File "/venv/lib/transformers/hf_argparser.py", line 372, in parse_dict\n'
        '    raise ValueError("...")\n'
    )
    died = raised("ValueError", "surprising words", traceback=trace)
    assert diagnose(evidence(exceptions=(died,))).failure is Failure.CONFIG_ERROR


def test_the_earliest_root_wins_and_the_rest_is_outranked() -> None:
    seen = evidence(signs=(sign(Failure.DISK_FULL, 50), sign(Failure.DEVICE_OOM, 20, rank=1)))
    diagnosis = diagnose(seen)
    assert (diagnosis.failure, diagnosis.rank) == (Failure.DEVICE_OOM, 1)
    assert diagnosis.secondary == (Failure.DISK_FULL,)


def test_a_named_root_outranks_an_earlier_exception_without_a_name() -> None:
    seen = evidence(signs=(sign(Failure.USER_CODE_ERROR, 5), sign(Failure.DEVICE_OOM, 20)))
    assert diagnose(seen).failure is Failure.DEVICE_OOM


def test_what_the_training_went_on_after_did_not_end_it() -> None:
    moved = sign(Failure.NONE, 30, Role.CONTEXT, signature="step_counted")
    early, late = sign(Failure.NETWORK_HUB, 20), sign(Failure.DISK_FULL, 40)
    assert diagnose(evidence(signs=(early, moved, late))).failure is Failure.DISK_FULL
    assert diagnose(evidence(signs=(early, moved), exit_code=None)).failure is Failure.UNKNOWN


def test_lines_from_a_buffer_after_death_do_not_bring_it_back_to_life() -> None:
    moved = sign(Failure.NONE, 30, Role.CONTEXT, signature="loss_reported")
    assert diagnose(evidence(signs=(sign(Failure.DEVICE_OOM, 20), moved))).failure is (
        Failure.DEVICE_OOM
    )


@pytest.mark.parametrize(
    ("changes", "failure"),
    [
        ({"signal": 9}, Failure.HOST_OOM),
        ({"exit_code": 137}, Failure.HOST_OOM),
        ({"exit_code": -9}, Failure.HOST_OOM),
        ({"exit_code": 130}, Failure.USER_INTERRUPT),
        ({"exit_code": 143}, Failure.PREEMPTED),
        ({"exit_code": 139}, Failure.USER_CODE_ERROR),
        ({"exit_code": 1}, Failure.UNKNOWN),
        ({"exit_code": 255}, Failure.UNKNOWN),
        ({"exit_code": 0}, Failure.UNKNOWN),
        ({"exit_code": None}, Failure.UNKNOWN),
    ],
)
def test_without_a_word_the_signal_speaks(changes: dict[str, int], failure: Failure) -> None:
    assert diagnose(evidence(**changes)).failure is failure


def test_a_kill_the_cgroup_counted_makes_us_sure() -> None:
    guessed = diagnose(evidence(exit_code=137))
    counted = diagnose(evidence(exit_code=137, memory=Memory(cgroup_oom_kills=1)))
    assert counted.failure is guessed.failure is Failure.HOST_OOM
    assert counted.confidence > 0.9 > 0.6 > guessed.confidence


@pytest.mark.parametrize(
    ("gib", "failure"),
    [
        ({"requested": 1, "capacity": 24, "free": 0.5, "allocated": 22, "reserved": 22.5},
         Failure.DEVICE_OOM),
        ({"requested": 1, "capacity": 24, "free": 0.5, "allocated": 20, "reserved": 22.5},
         Failure.DEVICE_OOM_FRAGMENTATION),
        ({"requested": 4, "capacity": 24, "free": 0.5, "allocated": 20, "reserved": 22.5},
         Failure.DEVICE_OOM),
        ({"requested": 3, "capacity": 80, "free": 55, "limit": 24, "allocated": 22,
          "reserved": 23.5, "process": 24, "other_processes": 0}, Failure.DEVICE_OOM),
        ({"requested": 1, "capacity": 80, "free": 55, "limit": 24, "allocated": 22,
          "reserved": 23.5, "process": 24, "other_processes": 0},
         Failure.DEVICE_OOM_FRAGMENTATION),
        ({"requested": 1, "capacity": 24, "free": 0.5, "allocated": 10, "reserved": 11},
         Failure.DEVICE_OOM_COTENANT),
        # Free memory that equals the request is none to spare: the neighbour's, and no cap of ours.
        ({"requested": 0.02, "capacity": 16, "free": 0.02, "allocated": 1.72, "reserved": 1.75},
         Failure.DEVICE_OOM_COTENANT),
        # Nor are a few hundred megabytes between crowded neighbours.
        ({"requested": 0.08, "capacity": 24, "free": 0.26, "allocated": 7.6, "reserved": 7.7,
          "process": 8, "other_processes": 15.3}, Failure.DEVICE_OOM_COTENANT),
        # Our own cap refused beside a neighbour who leaves room: not the neighbour's fault.
        ({"requested": 2, "capacity": 80, "free": 26, "limit": 24, "allocated": 22.5,
          "reserved": 23, "process": 25}, Failure.DEVICE_OOM),
    ],
)  # fmt: skip
def test_the_figures_tell_the_kinds_of_shortage_apart(
    gib: dict[str, float], failure: Failure
) -> None:
    found = sign(Failure.DEVICE_OOM, figures=figures(**gib))
    assert diagnose(evidence(signs=(found,))).failure is failure


def test_shuffled_signatures_give_the_same_diagnosis() -> None:
    lines = [
        "[rank1]: Traceback (most recent call last):",
        '[rank1]:   File "t.py", line 3, in evaluate',
        "[rank1]:     raise RuntimeError('CUDA out of memory. Tried to allocate 9 GiB')",
        "[rank1]: torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB.",
        "[rank0]: RuntimeError: NCCL communicator was aborted on rank 0.",
        "torch.distributed.elastic.multiprocessing.errors.ChildFailedError:",
    ]
    found = []
    for entries in (GPU.entries, tuple(reversed(GPU.entries)), GPU.entries[9:] + GPU.entries[:9]):
        scanner = Scanner(type(GPU)(entries, "cuda"))
        for line in lines:
            scanner.feed(line)
        found.append(diagnose(evidence(signs=scanner.signs())))
    assert found[0] == found[1] == found[2]
    assert (found[0].failure, found[0].rank, found[0].phase) == (
        Failure.DEVICE_OOM, 1, Phase.EVAL,
    )  # fmt: skip
    assert found[0].evidence[0].line == 4


def test_an_error_in_a_destructor_is_a_consequence() -> None:
    scanner = Scanner(GPU)
    for line in (
        "Exception ignored in: <function Loader.__del__ at 0x7f>",
        "Traceback (most recent call last):",
        '  File "t.py", line 3, in __del__',
        "    self.close()",
        "OSError: [Errno 28] No space left on device",
    ):
        scanner.feed(line)
    assert [s.role for s in scanner.signs()] == [Role.CASCADE]


@pytest.mark.parametrize(("code", "crash"), [(139, True), (134, True), (137, False)])
def test_a_bare_crash_is_one_whose_words_are_missing(code: int, crash: bool) -> None:
    reasons = diagnose(evidence(exit_code=code)).evidence
    assert ("native_crash" in [r.signature for r in reasons]) is crash
