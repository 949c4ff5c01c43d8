"""Two looks tell a hang from slowness, and the stacks name who holds the others up."""

import dataclasses
from typing import Any

import pytest

from autotune.core.diagnosis import diagnose
from autotune.core.evidence import Diagnosis, Evidence
from autotune.core.failure import Failure, Phase, Role
from autotune.core.policy import Thresholds
from autotune.core.record import AttemptEnded, decode, encode
from autotune.core.rhythm import Pulse
from autotune.core.stack import Frame, Helper, Lock, Stack, with_waiting
from autotune.core.stall import Stall, still_moving
from autotune.core.vigil import Act, Glance, Vigil, looked, watch_over
from autotune.world.signature_file import load_signatures
from tests import builders

GPU = load_signatures(device="cuda")
PACKAGES = "/venv/lib/python3.11/site-packages"
ALL_REDUCE = (f"{PACKAGES}/torch/distributed/distributed_c10d.py", 3156, "all_reduce")
BARRIER = (f"{PACKAGES}/torch/distributed/distributed_c10d.py", 5284, "barrier")
BATON = (f"{PACKAGES}/torch/utils/file_baton.py", 56, "wait")
LOADER = (f"{PACKAGES}/torch/utils/data/dataloader.py", 1285, "_try_get_data")
SELECT = ("/usr/lib/python3.11/multiprocessing/connection.py", 257, "poll")
SSL = ("/usr/lib/python3.11/ssl.py", 1166, "read")
SYNC = (f"{PACKAGES}/torch/cuda/__init__.py", 1085, "synchronize")
MATRIX = (f"{PACKAGES}/torch/nn/modules/linear.py", 125, "forward")
OWN = ("/home/me/train.py", 12, "train_step")
STALL = Stall("between two steps", 660.0, 600.0, lines=100)


def stack(rank: int, *frames: tuple[str, int, str], **seen: Any) -> Stack:
    """Return a rank that sleeps, innermost frame first, read with the signatures of a GPU job."""
    given = {"state": "S", "source": "faulthandler", "cpu_seconds": 5.0, **seen}
    made = Stack(4710 + rank, rank, frames=tuple(Frame(*frame) for frame in frames), **given)
    return with_waiting(made, GPU)


def named(*stacks: Stack, **seen: Any) -> Diagnosis:
    given = {"ended_by_us": "hang", "stall": STALL, "phase": Phase.TRAIN, **seen}
    return diagnose(Evidence(1, stacks=stacks, **given))


@pytest.mark.parametrize(
    ("stacks", "rank", "words"),
    [
        ([stack(0, ALL_REDUCE, OWN), stack(1, MATRIX, OWN, state="T")], 1,
         "rank 1 (process 4711) is stopped, by SIGSTOP or a debugger"),
        ([stack(0, ALL_REDUCE), stack(1, SELECT, LOADER, OWN)], 1, "A worker of its data loader"),
        ([stack(0, SSL, OWN), stack(1, BARRIER)], 0, "Meanwhile rank 1 waits for it at `barrier`"),
        ([stack(0, ALL_REDUCE), stack(1, MATRIX, OWN), stack(2, ALL_REDUCE)], 1,
         "rank 1 stands still at `forward` (torch/nn/modules/linear.py, line 125), called from "
         "`train_step` (/home/me/train.py, line 12), and rank 0, rank 2 wait for it"),
        ([stack(0, ALL_REDUCE), stack(1, SYNC, OWN)], 1, "The GPU does not finish"),
        ([stack(0, ALL_REDUCE), stack(1, BARRIER)], None, "in different collectives"),
        ([stack(0, ALL_REDUCE), stack(1, ALL_REDUCE)], None, "all ranks wait in the same"),
        ([stack(0, MATRIX, state="D", kernel="rpc_wait"), stack(1, ALL_REDUCE)], 0,
         "for a disk or a network file system (rpc_wait)"),
        ([stack(0, SELECT, OWN)], 0, "a thread or a process that it started itself"),
        ([stack(0), stack(1, ALL_REDUCE)], 0, "its stack could not be taken"),
        ([], None, "no stack could be taken"),
    ],
)  # fmt: skip
def test_the_one_who_holds_the_others_up_is_named(
    stacks: list[Stack], rank: int | None, words: str
) -> None:
    found = named(*stacks)
    assert (found.failure, found.rank, found.phase) == (Failure.HANG, rank, Phase.TRAIN)
    assert words in found.why
    assert "nothing moved for 11 min 0 s between two steps, where its rhythm" in found.why


def test_what_still_moves_is_named_with_less_certainty_and_not_as_standing_still() -> None:
    moving = dataclasses.replace(STALL, moving="the stack of rank 1 moves")
    found = named(stack(0, ALL_REDUCE), stack(1, MATRIX, OWN), stall=moving)
    assert "rank 1 is at `forward`" in found.why
    assert "(the stack of rank 1 moves, and gets nowhere)" in found.why
    assert found.confidence < named(stack(0, ALL_REDUCE), stack(1, MATRIX, OWN)).confidence


def test_a_lock_of_ours_is_promised_away_and_a_strangers_is_only_named() -> None:
    ours, theirs = Lock("/run/ops/a/lock", ours=True), Lock("/home/b/lock", ours=False)
    assert "lock is the run's own and is removed" in named(stack(0, BATON, locks=(ours,))).why
    assert "leaves it alone: remove it once" in named(stack(0, BATON, locks=(theirs,))).why


def test_a_worker_that_is_stopped_is_told_with_the_rank_that_waits_for_it() -> None:
    helper = Helper(99, "pt_data_worker", "T")
    assert "pt_data_worker 99 is stopped" in named(stack(0, LOADER, helpers=(helper,))).why


def test_the_evidence_shows_the_frames_of_the_culprit_first() -> None:
    reasons = named(stack(0, ALL_REDUCE), stack(1, SSL, OWN)).evidence
    assert reasons[0].text == f'rank 1 [S]: File "{SSL[0]}", line 1166, in read'
    assert (reasons[0].signature, reasons[0].role) == ("waits_for_network", Role.ROOT)
    assert reasons[-1].signature == "waits_in_collective"


def test_words_before_the_silence_name_what_the_stacks_do_not() -> None:
    full = builders.sign(Failure.DISK_FULL, line=99)
    assert named(stack(0, ALL_REDUCE), signs=(full,)).failure is Failure.DISK_FULL
    assert named(stack(0, SSL), signs=(full,)).failure is Failure.HANG


def test_words_of_its_end_and_exceptions_from_it_prove_nothing() -> None:
    late = builders.sign(Failure.COLLECTIVE_ERROR, line=101)
    raised = builders.exception("ConnectionError", message="peer is gone")
    found = named(stack(0, ALL_REDUCE), signs=(late,), exceptions=(raised,))
    assert found.failure is Failure.HANG


def test_evidence_with_stacks_survives_the_journal() -> None:
    seen = Evidence(1, stall=STALL, stacks=(stack(0, BATON, locks=(Lock("/l", True, 3.0),)),))
    event = AttemptEnded(1, seen, diagnose(seen))
    assert decode(encode(event, at=1.0)) == event


@pytest.mark.parametrize(
    ("first", "second", "moving"),
    [
        (stack(0, MATRIX), stack(0, MATRIX), None),
        (stack(0, MATRIX), stack(0, OWN), "moves"),
        (stack(0, MATRIX), stack(0, MATRIX, cpu_seconds=7.0), "computes at 20% of a core"),
        (stack(0, MATRIX), stack(0, MATRIX, state="R"), "computes"),
        # A collective spins, and a loop of waiting shows another line each time.
        (stack(0, ALL_REDUCE), stack(0, ALL_REDUCE, cpu_seconds=15.0, state="R"), None),
        (stack(0, BATON), stack(0, ("/usr/lib/x.py", 1, "sleep"), BATON), None),
        (stack(0, ALL_REDUCE, MATRIX), stack(0, ALL_REDUCE, OWN), "moves"),
        # Slow workers of a loader, and a GPU that is waited for by spinning, are at work.
        (stack(0, LOADER), stack(0, LOADER), None),
        (stack(0, LOADER), stack(0, LOADER, cpu_seconds=15.0), "computes"),
        (stack(0, SYNC), stack(0, SYNC, cpu_seconds=15.0), "computes"),
        (stack(0, SYNC, MATRIX), stack(0, SYNC, OWN), "moves"),
        (stack(0, BATON), stack(0, ALL_REDUCE), "moves"),
        (stack(0), stack(0), None),
        (stack(0), stack(0, cpu_seconds=15.0), "computes"),
        (stack(0, MATRIX), stack(0, MATRIX, state="T"), "all of it is stopped"),
    ],
)
def test_what_moves_or_computes_is_slow_and_what_stands_or_waits_hangs(
    first: Stack, second: Stack, moving: str | None
) -> None:
    said = still_moving((first,), (second,), seconds=10.0)
    assert (said is None) if moving is None else (moving in (said or ""))


def test_one_rank_that_moves_excuses_those_that_wait_for_it() -> None:
    waiting = stack(0, ALL_REDUCE)
    assert still_moving((waiting, stack(1, MATRIX)), (waiting, stack(1, OWN)), 10.0)


def test_one_stopped_rank_of_two_is_a_hang_and_both_are_a_persons_pause() -> None:
    running, stopped = stack(0, ALL_REDUCE), stack(1, MATRIX, state="T")
    assert still_moving((running, stopped), (running, stopped), 10.0) is None
    both = (stack(0, ALL_REDUCE, state="T"), stopped)
    assert still_moving(both, both, 10.0)


LIMITS: Thresholds = builders.shipped().limits
TRAINING = Pulse(marks=9, phase=Phase.TRAIN, reports=True, stepped=True)
STILL, MOVED = (stack(0, ALL_REDUCE),), (stack(0, OWN),)


class Watch:
    """A vigil over a training that is silent, with looks as they are asked for."""

    def __init__(self) -> None:
        self.vigil, self.at, self.notes = Vigil(), 0.0, 0
        self.looks = 0

    def until_it_acts(self, *stacks: tuple[Stack, ...]) -> Act:
        """Look each second and answer every wish for stacks with the next of these."""
        answers = list(stacks)
        while True:
            glance = Glance(self.at, pulse=TRAINING)
            self.vigil, act = watch_over(self.vigil, glance, LIMITS)
            if act is Act.LOOK:
                self.looks += 1
                taken = answers.pop(0)
                self.vigil, act, note = looked(self.vigil, taken, 7, LIMITS)
                self.notes += note is not None
            if act is not Act.LEAVE or not answers:
                return act
            self.at += 1.0


def test_a_silence_is_looked_into_twice_before_it_is_ended() -> None:
    watch = Watch()
    assert watch.until_it_acts(STILL, STILL) is Act.END
    assert watch.at == LIMITS.silence_step + 1 + LIMITS.stack_pause
    assert watch.vigil.ended_by_us == "hang"
    assert watch.vigil.stall is not None
    assert (watch.vigil.stall.lines, watch.vigil.stall.moving) == (7, None)


def test_what_moves_is_given_twice_the_time_and_then_looked_at_again() -> None:
    watch = Watch()
    assert watch.until_it_acts(STILL, MOVED, STILL, STILL) is Act.END
    assert watch.at == 2 * LIMITS.silence_step + 1 + LIMITS.stack_pause
    assert watch.notes == 1


def test_what_moves_for_ever_is_ended_in_the_end() -> None:
    watch = Watch()
    moving = [STILL, MOVED] * (LIMITS.stall_looks + 1)
    assert watch.until_it_acts(*moving) is Act.END
    assert watch.notes == LIMITS.stall_looks
    assert watch.at > 2**LIMITS.stall_looks * LIMITS.silence_step


def test_progress_between_the_looks_takes_the_doubt_away() -> None:
    watch = Watch()
    assert watch.until_it_acts(STILL) is Act.LEAVE
    assert watch.vigil.doubt is not None
    moved = dataclasses.replace(TRAINING, marks=10)
    vigil, act = watch_over(watch.vigil, Glance(watch.at + 1, pulse=moved), LIMITS)
    assert (vigil.doubt, act) == (None, Act.LEAVE)


def test_once_asked_to_save_only_the_grace_counts() -> None:
    vigil, act = watch_over(Vigil(), Glance(0.0, stop_asked=True, pulse=TRAINING), LIMITS)
    assert act is Act.ASK_SAVE
    for at in range(1, int(LIMITS.stop_grace)):
        vigil, act = watch_over(vigil, Glance(float(at), stop_asked=True, pulse=TRAINING), LIMITS)
        assert act is Act.LEAVE
    assert watch_over(vigil, Glance(LIMITS.stop_grace, pulse=TRAINING), LIMITS)[1] is Act.END


def test_a_lost_course_ends_the_attempt() -> None:
    vigil, act = watch_over(Vigil(), Glance(0.0, diverged="the loss is lost"), LIMITS)
    assert (vigil.ended_by_us, act) == ("diverged", Act.END)
    found = diagnose(Evidence(1, ended_by_us="diverged", diverged="the loss is lost", step=70))
    assert found.failure is Failure.NUMERIC_DIVERGENCE
    assert found.why == "the loss is lost, at step 70"
