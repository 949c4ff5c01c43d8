"""Failures of memory and of cards that do not say so are seen through, and doubt is said."""

from dataclasses import replace
from typing import Any

import pytest

from autotune.core.broken_card import blamed_cards
from autotune.core.codec import from_plain, to_plain
from autotune.core.diagnosis import diagnose
from autotune.core.evidence import (
    Card,
    CurvePoint,
    Evidence,
    KernelEvent,
    Machine,
    Memory,
    OomFigures,
    RankException,
)
from autotune.core.failure import Failure, Phase, Role, Trait
from autotune.core.scan import Scanner, with_signs
from autotune.world.signature_file import load_signatures
from tests.builders import GIB, evidence, exception, figures, sign

GPU = load_signatures(device="cuda")
CARD = Memory(device="cuda", device_total_bytes=80 * GIB)
ROOMY = Machine(
    kernel_read=True, oom_kills=0, memory_bytes=64 * GIB, available_low_bytes=40 * GIB,
    shm_bytes=8 * GIB, shm_free_low_bytes=7 * GIB,
)  # fmt: skip
KILL = KernelEvent(
    "oom_kill", "Memory cgroup out of memory: Killed process 812 (python)", seconds=50.0,
    ours=True, rank=1, pid=812, task="python", constraint="memcg", resident_bytes=3 * GIB,
)  # fmt: skip


def raised(kind: str, message: str, **changes: Any) -> RankException:
    return with_signs(exception(kind, message=message, **changes), GPU)


def printed(*lines: str, **changes: Any) -> Evidence:
    scanner = Scanner(GPU)
    for line in lines:
        scanner.feed(line)
    return evidence(signs=scanner.signs(), **{"memory": CARD, **changes})


def with_kernel(*events: KernelEvent, **changes: Any) -> Machine:
    return replace(ROOMY, kernel=events, **changes)


# --- killed -------------------------------------------------------------------------------------


def test_a_bare_kill_with_a_record_is_certain_and_says_who_was_killed() -> None:
    found = diagnose(evidence(exit_code=137, machine=with_kernel(KILL)))
    assert (found.failure, found.rank) == (Failure.HOST_OOM, 1)
    assert found.confidence > 0.95
    assert "rank 1, python (process 812)" in found.why
    assert "3.00 GiB" in found.why
    assert "memory cgroup was full" in found.why
    assert found.evidence[0].text == KILL.text


def test_a_bare_kill_without_a_record_where_one_would_stand_is_in_doubt_and_says_so() -> None:
    guessed = diagnose(evidence(exit_code=137))
    doubted = diagnose(evidence(exit_code=137, machine=ROOMY))
    assert guessed.failure is doubted.failure is Failure.HOST_OOM
    assert doubted.confidence < guessed.confidence
    assert "administrator" in doubted.why[:200]  # people see no more of it
    assert doubted.traits == (Trait.UNEXPLAINED_KILL,)
    assert "40.00 GiB" in doubted.why


def test_what_befell_a_neighbour_does_not_lift_the_doubt() -> None:
    theirs = replace(KILL, ours=False, rank=None)
    machine = with_kernel(theirs, oom_kills=1)
    assert diagnose(evidence(exit_code=137, machine=machine)).confidence < 0.5


@pytest.mark.parametrize(
    ("machine", "least", "most"),
    [
        (with_kernel(replace(KILL, ours=None, rank=None)), 0.8, 0.9),
        (replace(ROOMY, cgroup_kills=1), 0.8, 0.9),
        (replace(ROOMY, kernel_read=False, oom_kills=2), 0.65, 0.75),
        (replace(ROOMY, kernel_read=False), 0.2, 0.3),  # the machine's own counter did not move
        (replace(ROOMY, available_low_bytes=GIB), 0.55, 0.65),
        (replace(ROOMY, stalled_seconds=30.0), 0.55, 0.65),
        (Machine(memory_bytes=64 * GIB, available_low_bytes=GIB), 0.55, 0.65),
        (Machine(memory_bytes=64 * GIB, available_low_bytes=40 * GIB), 0.5, 0.5),
    ],
)
def test_each_record_makes_as_sure_as_it_is_worth(
    machine: Machine, least: float, most: float
) -> None:
    found = diagnose(evidence(exit_code=137, machine=machine))
    assert found.failure is Failure.HOST_OOM
    assert least <= found.confidence <= most


def test_a_worker_that_the_kernel_killed_is_the_cause_of_what_its_rank_raised() -> None:
    worker = replace(KILL, rank=None, task="pt_data_worker", seconds=95.0)
    error = raised("RuntimeError", "the worker is gone", traceback="RuntimeError: gone")
    seen = evidence(exceptions=(error,), machine=with_kernel(worker), seconds=100.0)
    found = diagnose(seen)
    assert found.failure is Failure.HOST_OOM
    assert "pt_data_worker" in found.why
    assert "the worker is gone" in found.why


def test_a_kill_that_was_lived_through_long_before_is_not_the_cause() -> None:
    worker = replace(KILL, rank=None, seconds=95.0)
    error = raised("KeyError", "'text'")
    seen = evidence(exceptions=(error,), machine=with_kernel(worker), seconds=5000.0)
    assert diagnose(seen).failure is Failure.USER_CODE_ERROR


def test_what_was_lived_through_explains_no_later_kill_either() -> None:
    worker = replace(KILL, rank=None, seconds=95.0)
    machine = with_kernel(worker, cgroup_kills=1, counted_seconds=95.0)
    later = diagnose(evidence(exit_code=137, machine=machine, seconds=5000.0))
    assert later.confidence < 0.4
    error = raised("KeyError", "'text'")
    raised_later = evidence(exceptions=(error,), machine=machine, seconds=5000.0)
    assert diagnose(raised_later).failure is Failure.USER_CODE_ERROR
    soon = diagnose(evidence(exit_code=137, machine=machine, seconds=100.0))
    assert soon.confidence > 0.95


def test_a_hang_is_explained_by_a_kill_however_long_ago() -> None:
    worker = replace(KILL, rank=None, seconds=95.0)
    hung = evidence(ended_by_us="hang", machine=with_kernel(worker), seconds=5000.0)
    assert diagnose(hung).failure is Failure.HOST_OOM


def test_a_kill_that_only_a_cgroup_counted_explains_what_was_raised_then() -> None:
    error = raised("RuntimeError", "the worker is gone")
    counted = Machine(kernel_read=False, cgroup_kills=1, counted_seconds=95.0)
    seen = evidence(exceptions=(error,), machine=counted, seconds=100.0)
    assert diagnose(seen).failure is Failure.HOST_OOM
    assert diagnose(replace(seen, seconds=5000.0)).failure is Failure.USER_CODE_ERROR


def test_a_kill_hides_behind_the_words_of_the_other_ranks() -> None:
    seen = printed("RuntimeError: NCCL error: remote process exited or there was a network error",
                   machine=with_kernel(KILL))  # fmt: skip
    assert diagnose(seen).failure is Failure.HOST_OOM
    assert diagnose(replace(seen, machine=ROOMY)).failure is not Failure.HOST_OOM


def test_a_process_named_by_the_training_itself_is_ours() -> None:
    unplaced = replace(KILL, ours=None, rank=None, pid=4711)
    words = "RuntimeError: DataLoader worker (pid 4711) is killed by signal: Killed."
    named = diagnose(printed(words, machine=with_kernel(unplaced)))
    other = diagnose(printed(words.replace("4711", "9"), machine=with_kernel(unplaced)))
    assert named.confidence > 0.95 > other.confidence


def test_a_compiler_killed_for_memory_is_no_fault_of_the_extension() -> None:
    words = "RuntimeError: Error building extension 'cpu_adam'"
    compiler = with_kernel(replace(KILL, rank=None, task="cc1plus"))
    assert diagnose(printed(words, machine=compiler)).failure is Failure.HOST_OOM
    assert diagnose(printed(words, machine=with_kernel(KILL))).failure is Failure.OFFLOAD_DEVICE


def test_what_a_rank_named_itself_stands_beside_a_kill() -> None:
    error = raised("ValueError", "CUDA out of memory. Tried to allocate 2.00 GiB")
    seen = evidence(exceptions=(error,), memory=CARD, machine=with_kernel(KILL))
    assert diagnose(seen).failure is Failure.DEVICE_OOM


def test_what_finished_or_was_ended_by_us_stays_no_failure() -> None:
    assert diagnose(evidence(finished=True, machine=with_kernel(KILL))).failure is Failure.NONE
    stopped = evidence(ended_by_us="stop", machine=with_kernel(KILL))
    assert diagnose(stopped).failure is Failure.NONE


# --- shared memory, pinning, processes ----------------------------------------------------------


@pytest.mark.parametrize("code", [135, 249])
def test_a_bus_error_with_shared_memory_full_is_the_hosts(code: int) -> None:
    full = replace(ROOMY, shm_bytes=64 * 2**20, shm_free_low_bytes=0)
    found = diagnose(evidence(exit_code=code, machine=full))
    assert (found.failure, found.traits) == (Failure.HOST_OOM, (Trait.SHARED_MEMORY_FULL,))
    assert found.confidence >= 0.9
    assert "64.00 MiB" in found.why


def test_a_bus_error_beside_much_shared_memory_is_in_doubt() -> None:
    found = diagnose(evidence(exit_code=135, machine=ROOMY))
    assert found.failure is Failure.HOST_OOM
    assert found.confidence < 0.5
    assert "7.00 GiB" in found.why


def test_a_broken_memory_module_is_nobodys_lack_of_memory() -> None:
    text = "Memory failure: 0x1: Killing python:812 due to hardware memory corruption"
    poison = KernelEvent("memory_failure", text, ours=True, pid=812)
    found = diagnose(evidence(exit_code=135, machine=with_kernel(poison)))
    assert found.failure is Failure.UNKNOWN
    assert "memory module" in found.why


def test_no_space_left_in_shared_memory_is_no_full_disk() -> None:
    for there in (
        "OSError: [Errno 28] No space left on device: '/dev/shm/psm_1'",
        "RuntimeError: unable to allocate shared memory(shm) for file </torch_12_165_0>: "
        "No space left on device (28)",
    ):
        assert diagnose(printed(there)).failure is Failure.HOST_OOM
        assert diagnose(printed(there)).traits == (Trait.SHARED_MEMORY_FULL,)
    elsewhere = "OSError: [Errno 28] No space left on device: '/data/out'"
    assert diagnose(printed(elsewhere)).failure is Failure.DISK_FULL


BARE_CUDA = "CUDA error: out of memory"
PINNING = 'File "/v/torch/utils/data/_utils/pin_memory.py", line 98, in pin_memory'


def test_pinned_memory_that_runs_out_is_the_hosts_though_cuda_says_it() -> None:
    framed = raised("RuntimeError", BARE_CUDA, traceback=f"{PINNING}\nRuntimeError: {BARE_CUDA}")
    machine = replace(ROOMY, lock_limit_bytes=8 * 2**20)
    for seen in (
        evidence(exceptions=(framed,), memory=CARD, machine=machine),
        printed(PINNING, f"RuntimeError: {BARE_CUDA}", machine=machine),
        printed(
            f"RuntimeError: {BARE_CUDA}",
            memory=replace(CARD, device_free_low_bytes=78 * GIB), machine=machine,
        ),
    ):  # fmt: skip
        found = diagnose(seen)
        assert (found.failure, found.traits) == (Failure.HOST_OOM, (Trait.PINNED_MEMORY,))
        assert "may lock 8.00 MiB" in found.why


def test_cudas_own_words_on_a_full_or_unknown_card_are_the_devices() -> None:
    full = replace(CARD, device_free_low_bytes=GIB)
    for memory in (full, CARD):
        seen = printed(f"RuntimeError: {BARE_CUDA}", memory=memory)
        assert diagnose(seen).failure is Failure.DEVICE_OOM


def test_a_loader_that_is_asked_to_pin_is_no_frame_that_pins() -> None:
    line = "    for batch in DataLoader(rows, pin_memory=True):"
    error = raised("RuntimeError", BARE_CUDA, traceback=f"{line}\nRuntimeError: {BARE_CUDA}")
    seen = evidence(exceptions=(error,), memory=CARD)
    assert diagnose(seen).failure is Failure.DEVICE_OOM


def test_torchs_own_refusal_is_never_taken_for_pinning() -> None:
    words = "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB."
    seen = printed(PINNING, words, memory=replace(CARD, device_free_low_bytes=78 * GIB))
    assert diagnose(seen).failure is not Failure.HOST_OOM


@pytest.mark.parametrize(
    ("status", "free", "failure"),
    [
        ("CUBLAS_STATUS_ALLOC_FAILED", 2, Failure.DEVICE_OOM),
        ("CUBLAS_STATUS_ALLOC_FAILED", 70, Failure.USER_CODE_ERROR),
        ("CUBLAS_STATUS_ALLOC_FAILED", 30, Failure.DEVICE_OOM),
        ("CUBLAS_STATUS_NOT_INITIALIZED", 2, Failure.DEVICE_OOM),
        ("CUDNN_STATUS_NOT_INITIALIZED", 2, Failure.DEVICE_OOM),
        ("CUDNN_STATUS_NOT_INITIALIZED", 70, Failure.DRIVER_MISMATCH),
    ],
)
def test_a_cuda_librarys_refusal_is_judged_by_what_the_card_had_free(
    status: str, free: int, failure: Failure
) -> None:
    error = raised("RuntimeError", f"CUDA error: {status} when calling `create(handle)`")
    memory = replace(CARD, device_free_low_bytes=free * GIB)
    found = diagnose(evidence(exceptions=(error,), memory=memory))
    assert found.failure is failure
    assert (found.cure == "") is (failure is not Failure.DRIVER_MISMATCH)


@pytest.mark.parametrize(
    ("words", "free", "held", "failure"),
    [
        ("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `x`", 70, 76, Failure.DEVICE_OOM),
        ("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `x`", 70, 4, Failure.USER_CODE_ERROR),
        ("CUDA error: CUBLAS_STATUS_NOT_INITIALIZED in `x`", None, 76, Failure.DEVICE_OOM),
        ("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `x`", None, 4, Failure.DEVICE_OOM),
        ("CUDA error: out of memory", 70, 76, Failure.DEVICE_OOM),
        ("CUDA error: out of memory", 70, 4, Failure.HOST_OOM),
    ],
)
def test_what_a_rank_held_in_its_last_moment_counts_more_than_a_card_that_was_free_before(
    words: str, free: int | None, held: int, failure: Failure
) -> None:
    error = raised("RuntimeError", words, reserved_bytes=held * GIB)
    memory = replace(CARD, device_free_low_bytes=None if free is None else free * GIB)
    assert diagnose(evidence(exceptions=(error,), memory=memory)).failure is failure


def test_nccls_out_of_memory_is_the_devices() -> None:
    words = "NCCL WARN Cuda failure 2 'out of memory'"
    full = replace(CARD, device_free_low_bytes=GIB)
    assert diagnose(printed(words, memory=full)).failure is Failure.DEVICE_OOM


def test_a_thread_refused_by_a_limit_names_the_limit() -> None:
    error = raised("RuntimeError", "can't start new thread")
    limited = replace(ROOMY, process_limit=512, threads_peak=500)
    found = diagnose(evidence(exceptions=(error,), memory=CARD, machine=limited))
    assert (found.failure, found.traits) == (Failure.HOST_OOM, (Trait.PROCESS_LIMIT,))
    assert "512" in found.why
    refused = KernelEvent("fork_refused", "cgroup: fork rejected by pids controller", ours=None)
    told = diagnose(evidence(exceptions=(error,), memory=CARD, machine=with_kernel(refused)))
    assert told.traits == (Trait.PROCESS_LIMIT,)
    roomy = diagnose(evidence(exceptions=(error,), memory=CARD, machine=ROOMY))
    assert roomy.traits == ()


# --- what the figures and the curve add ---------------------------------------------------------


def test_one_request_larger_than_the_device_says_that_less_work_does_not_cure_it() -> None:
    asked = sign(Failure.DEVICE_OOM, figures=figures(requested=100, capacity=80, free=40))
    found = diagnose(evidence(signs=(asked,)))
    assert (found.failure, found.traits) == (Failure.DEVICE_OOM, (Trait.REQUEST_EXCEEDS_DEVICE,))
    assert "larger than the whole device" in found.why


def test_one_request_larger_than_our_own_cap_counts_as_larger_than_the_device() -> None:
    asked = sign(Failure.DEVICE_OOM, figures=figures(requested=30, capacity=80, free=60, limit=24))
    assert diagnose(evidence(signs=(asked,))).traits == (Trait.REQUEST_EXCEEDS_DEVICE,)


RISE = tuple(CurvePoint(float(n), 3 * n, 10 * GIB + n * GIB // 4, GIB) for n in range(40))


def test_memory_that_grew_until_the_end_is_a_leak_of_whoever_ran_out() -> None:
    shortage = sign(Failure.DEVICE_OOM, figures=OomFigures(), phase=Phase.FORWARD)
    memory = replace(CARD, curve=RISE)
    assert Trait.LEAKING in diagnose(evidence(signs=(shortage,), memory=memory)).traits
    loading = replace(shortage, phase=Phase.LOAD)
    assert diagnose(evidence(signs=(loading,), memory=memory)).traits == ()
    host = diagnose(evidence(signs=(sign(Failure.HOST_OOM),), memory=memory))
    assert host.traits == ()
    turned = tuple(replace(p, rank_bytes=None, host_bytes=p.rank_bytes) for p in RISE)
    grew = replace(CARD, curve=turned)
    assert diagnose(evidence(signs=(sign(Failure.HOST_OOM),), memory=grew)).traits == (
        Trait.LEAKING,
    )


# --- cards --------------------------------------------------------------------------------------

XID = KernelEvent(
    "xid", "NVRM: Xid (PCI:0000:3b:00): 79", seconds=9.0, ours=True, bus_id="0000:3b:00", code=79
)
NCCL = "RuntimeError: NCCL error: unhandled cuda error"


@pytest.mark.parametrize("code", [48, 64, 74, 79, 94, 95, 119, 120])
def test_an_xid_of_broken_hardware_outranks_what_the_ranks_show_of_it(code: int) -> None:
    machine = with_kernel(replace(XID, code=code))
    for words in ("RuntimeError: CUDA error: an illegal memory access was encountered", NCCL):
        found = diagnose(printed(words, machine=machine))
        assert found.failure is Failure.GPU_HARDWARE
        assert f"Xid {code}: " in found.why
        assert "0000:3b:00" in found.why


def test_an_xid_of_a_neighbours_card_changes_nothing() -> None:
    theirs = with_kernel(replace(XID, ours=False))
    words = "RuntimeError: CUDA error: an illegal memory access was encountered"
    assert diagnose(printed(words, machine=theirs)).failure is Failure.ILLEGAL_ACCESS


def test_a_broken_card_does_not_outrank_a_cause_of_another_kind() -> None:
    words = "train.py: error: unrecognized arguments: --lerning_rate"
    assert diagnose(printed(words, machine=with_kernel(XID))).failure is Failure.CONFIG_ERROR


def test_an_error_that_has_nothing_to_do_with_a_card_is_not_the_cards() -> None:
    seen = evidence(exceptions=(raised("KeyError", "'text'"),), machine=with_kernel(XID))
    assert diagnose(seen).failure is Failure.USER_CODE_ERROR
    of_card = raised("RuntimeError", "CUDA driver error: unknown error")
    assert diagnose(replace(seen, exceptions=(of_card,))).failure is Failure.GPU_HARDWARE


def test_an_xid_that_was_lived_through_long_before_is_not_blamed_for_an_error_of_the_code() -> None:
    error = raised("ValueError", "no such device name in the table")
    seen = evidence(exceptions=(error,), machine=with_kernel(replace(XID, code=74)), seconds=9000.0)
    assert diagnose(seen).failure is Failure.USER_CODE_ERROR
    assert diagnose(replace(seen, seconds=20.0)).failure is Failure.GPU_HARDWARE
    waited = evidence(ended_by_us="hang", machine=seen.machine, seconds=9000.0)
    assert diagnose(waited).failure is Failure.GPU_HARDWARE


def test_of_two_cards_the_one_whose_xid_came_first_is_blamed() -> None:
    cards = (Card(0, "0000:1a:00"), Card(3, "0000:3b:00"))
    link = replace(XID, bus_id="0000:1a:00", code=74, seconds=10.0)
    row = replace(link, code=63, seconds=1.0)
    seen = evidence(machine=with_kernel(row, link, XID, cards=cards))
    assert blamed_cards(seen) == {3}
    assert blamed_cards(evidence(machine=with_kernel(row, cards=cards))) == {0}
    assert blamed_cards(evidence(machine=with_kernel(replace(XID, code=31), cards=cards))) == set()


def test_an_xid_that_follows_the_death_of_a_process_proves_nothing() -> None:
    after = with_kernel(replace(XID, code=45))
    assert diagnose(evidence(exit_code=137, machine=after)).failure is Failure.HOST_OOM
    assert diagnose(evidence(machine=after)).failure is Failure.UNKNOWN


@pytest.mark.parametrize("code", [13, 31, 43])
def test_an_xid_of_a_kernels_own_fault_names_it_where_no_words_do(code: int) -> None:
    machine = with_kernel(replace(XID, code=code))
    assert diagnose(evidence(machine=machine)).failure is Failure.ILLEGAL_ACCESS
    late = "RuntimeError: CUDA error: unspecified launch failure"
    assert diagnose(printed(late, machine=machine)).failure is Failure.ILLEGAL_ACCESS
    assert diagnose(printed(late, machine=ROOMY)).failure is Failure.ILLEGAL_ACCESS
    fallen = with_kernel(replace(XID, code=79))
    assert diagnose(printed(late, machine=fallen)).failure is Failure.GPU_HARDWARE


@pytest.mark.parametrize("code", [13, 31, 43, 68, 69])
def test_an_abort_beside_an_xid_of_a_kernels_own_fault_is_that_kernels(code: int) -> None:
    machine = with_kernel(replace(XID, code=code, rank=1))
    for seen in (
        evidence(signal=6, machine=machine),
        evidence(exit_code=250, machine=machine),
        printed("Fatal Python error: Aborted", machine=machine),
        evidence(exceptions=(raised("RuntimeError", "CUDA error: unknown"),), machine=machine),
    ):
        found = diagnose(seen)
        assert (found.failure, found.rank) == (Failure.ILLEGAL_ACCESS, 1)
        assert f"Xid {code}: " in found.why


@pytest.mark.parametrize("code", [13, 31, 43])
def test_a_crash_that_no_kernel_brings_about_stays_what_it_was(code: int) -> None:
    machine = with_kernel(replace(XID, code=code))
    for seen in (
        evidence(signal=11, machine=machine),  # a segmentation fault of the host's
        evidence(exceptions=(raised("KeyError", "'device'"),), machine=machine),
        evidence(signal=6, machine=with_kernel(replace(XID, code=45))),  # written after any death
        evidence(signal=6, machine=with_kernel(replace(XID, code=code, ours=False))),
        evidence(signal=6, machine=with_kernel(replace(XID, code=code, ours=None))),
        evidence(signal=6, machine=machine, seconds=9000.0),  # hours before
    ):
        assert diagnose(seen).failure is Failure.USER_CODE_ERROR


def test_an_abort_beside_a_broken_card_is_the_cards() -> None:
    own, card = replace(XID, code=31, seconds=8.0), replace(XID, code=48)
    seen = evidence(signal=6, machine=with_kernel(own, card))
    assert diagnose(seen).failure is Failure.GPU_HARDWARE


def test_a_card_in_doubt_is_blamed_only_where_nothing_else_is() -> None:
    machine = with_kernel(replace(XID, code=63))
    assert diagnose(evidence(machine=machine)).failure is Failure.GPU_HARDWARE
    code = raised("KeyError", "'text'")
    seen = evidence(exceptions=(code,), machine=machine)
    assert diagnose(seen).failure is Failure.USER_CODE_ERROR


@pytest.mark.parametrize(
    "card",
    [
        Card(3, "0000:3b:00", lost=True),
        Card(3, "0000:3b:00", uncorrected_errors=2),
        Card(3, "0000:3b:00", remap_failed=True),
    ],
)
def test_a_card_that_broke_meanwhile_is_the_cause_of_a_collective_that_failed(card: Card) -> None:
    found = diagnose(printed(NCCL, machine=replace(ROOMY, cards=(card,))))
    assert found.failure is Failure.GPU_HARDWARE
    assert "GPU 3 (0000:3b:00)" in found.why


def test_a_card_that_was_only_slow_or_is_to_be_mended_changes_nothing() -> None:
    card = Card(3, "0000:3b:00", remap_pending=True, slowed_by=("heat",))
    machine = replace(ROOMY, cards=(card,))
    assert diagnose(evidence(machine=machine)).failure is Failure.UNKNOWN


# --- figures ------------------------------------------------------------------------------------


def test_a_neighbour_is_known_by_nvml_where_the_message_tells_only_what_torch_holds() -> None:
    asked = figures(requested=2, capacity=80, free=1, allocated=20, reserved=22)
    seen = evidence(signs=(sign(Failure.DEVICE_OOM, figures=asked),))
    assert diagnose(seen).failure is Failure.DEVICE_OOM_COTENANT  # all there is to go by
    sibling = replace(seen, memory=replace(CARD, device_others_bytes=0))
    assert diagnose(sibling).failure is Failure.DEVICE_OOM  # our own other rank holds the rest
    joined = replace(seen, memory=replace(CARD, device_others_bytes=50 * GIB))
    assert diagnose(joined).failure is Failure.DEVICE_OOM_COTENANT


def test_a_message_without_figures_is_judged_by_nvml_or_not_at_all() -> None:
    bare = sign(Failure.DEVICE_OOM, figures=OomFigures())
    held = replace(CARD, device_others_bytes=60 * GIB)
    assert diagnose(evidence(signs=(bare,), memory=held)).failure is Failure.DEVICE_OOM_COTENANT
    assert diagnose(evidence(signs=(bare,), memory=CARD)).failure is Failure.DEVICE_OOM


@pytest.mark.parametrize(
    ("gib", "failure"),
    [
        # 5 % of an 80 GiB card is 4 GiB: less than that unallocated explains nothing.
        ({"requested": 4, "capacity": 80, "free": 1, "allocated": 75, "reserved": 78.9},
         Failure.DEVICE_OOM),
        ({"requested": 4, "capacity": 80, "free": 1, "allocated": 74, "reserved": 78.1},
         Failure.DEVICE_OOM_FRAGMENTATION),
        # A quarter of the card is 20 GiB.
        ({"requested": 1, "capacity": 80, "free": 0.5, "allocated": 59, "reserved": 59.9,
          "process": 60}, Failure.DEVICE_OOM),
        ({"requested": 1, "capacity": 80, "free": 0.5, "allocated": 58, "reserved": 58.5,
          "process": 59}, Failure.DEVICE_OOM_COTENANT),
        # Under our own cap the whole card's free memory is not ours to count on.
        ({"requested": 3, "capacity": 80, "free": 50, "limit": 24, "allocated": 22.9,
          "reserved": 23}, Failure.DEVICE_OOM),
        ({"requested": 3, "capacity": 80, "free": 50, "limit": 24, "allocated": 20.5,
          "reserved": 23}, Failure.DEVICE_OOM_FRAGMENTATION),
    ],
)  # fmt: skip
def test_fragmentation_and_a_neighbour_begin_where_the_figures_say(
    gib: dict[str, float], failure: Failure
) -> None:
    found = sign(Failure.DEVICE_OOM, figures=figures(**gib))
    assert diagnose(evidence(signs=(found,))).failure is failure


SHORT = {"requested": 4, "capacity": 80, "free": 1, "reserved": 60, "process": 62}


@pytest.mark.parametrize(
    ("gib", "memory", "failure"),
    [
        # Of 80 GiB 79 were free, we hold 62 and 1 is left: others have taken 16 since.
        (SHORT, {"device_free_before_bytes": 79 * GIB}, Failure.DEVICE_OOM_COTENANT),
        # They were there before: a quarter of the card is not theirs, and the rest is the machine.
        (SHORT, {"device_free_before_bytes": 63 * GIB}, Failure.DEVICE_OOM),
        # What they took would not have been enough.
        ({**SHORT, "requested": 18}, {"device_free_before_bytes": 79 * GIB}, Failure.DEVICE_OOM),
        # Nobody saw the card before.
        (SHORT, {}, Failure.DEVICE_OOM),
        # What torch holds is not all that is ours, unless NVML knows the others.
        ({**SHORT, "process": 0}, {"device_free_before_bytes": 79 * GIB}, Failure.DEVICE_OOM),
        (
            {**SHORT, "process": 0},
            {"device_free_before_bytes": 79 * GIB, "device_others_bytes": 15 * GIB},
            Failure.DEVICE_OOM_COTENANT,
        ),
        # A few hundred megabytes more are anybody's.
        ({**SHORT, "free": 14.5, "requested": 15}, {"device_free_before_bytes": 78 * GIB},
         Failure.DEVICE_OOM),
    ],
)  # fmt: skip
def test_what_others_took_since_the_start_is_theirs_however_small(
    gib: dict[str, float], memory: dict[str, Any], failure: Failure
) -> None:
    told = figures(**{name: size for name, size in gib.items() if size})
    seen = evidence(signs=(sign(Failure.DEVICE_OOM, figures=told),), memory=replace(CARD, **memory))
    assert diagnose(seen).failure is failure


# --- crashes and stuck processes ----------------------------------------------------------------


def test_the_kernel_says_in_which_library_a_rank_crashed() -> None:
    text = "python[812]: segfault at 0 ip 00007f1 sp 00007ffd error 4 in libnccl.so[7f+1]"
    trap = KernelEvent("trap", text, ours=True, rank=2, pid=812, task="python")
    found = diagnose(evidence(exit_code=139, machine=with_kernel(trap)))
    assert (found.failure, found.rank) == (Failure.USER_CODE_ERROR, 2)
    assert "libnccl.so" in found.why
    lived_on = diagnose(
        evidence(exceptions=(raised("KeyError", "'x'"),), machine=with_kernel(trap))
    )
    assert "libnccl.so" not in lived_on.why


def test_the_kernel_says_that_a_silent_process_was_stuck_below_the_program() -> None:
    text = "INFO: task python:812 blocked for more than 120 seconds."
    stuck = KernelEvent("hung_task", text, ours=True, rank=2, pid=812)
    found = diagnose(evidence(ended_by_us="hang", machine=with_kernel(stuck)))
    assert (found.failure, found.rank) == (Failure.HANG, 2)
    assert "blocked for more than 120 seconds" in found.why


# --- the record ---------------------------------------------------------------------------------


def test_evidence_of_the_machine_goes_through_the_journal_unchanged() -> None:
    whole = evidence(
        machine=with_kernel(KILL, XID, cards=(Card(0, slowed_by=("heat",)),)),
        memory=replace(CARD, curve=RISE),
    )
    assert from_plain(Evidence, to_plain(whole)) == whole


def test_evidence_written_before_there_was_a_machine_in_it_still_loads() -> None:
    old = to_plain(evidence(exit_code=137))
    del old["machine"], old["memory"]["curve"], old["memory"]["device_free_low_bytes"]
    loaded = from_plain(Evidence, old)
    assert loaded.machine == Machine()
    assert diagnose(loaded).failure is Failure.HOST_OOM


def test_roles_of_a_kill_stay_what_they_were_in_text() -> None:
    killed = sign(Failure.HOST_OOM, role=Role.CONFIRMS, signature="killed_outright")
    alone = diagnose(evidence(signs=(killed,)))
    doubted = diagnose(evidence(signs=(killed,), machine=ROOMY))
    assert alone.failure is doubted.failure is Failure.HOST_OOM
    assert doubted.confidence < alone.confidence
