"""The inner loop: watches one attempt until nothing of it runs any more, and says what it saw."""

import dataclasses
from collections.abc import Callable

from autotune.core.ended import came_to_its_end
from autotune.core.evidence import Evidence, Gap
from autotune.core.outlook import Saved
from autotune.core.policy import Thresholds
from autotune.core.rhythm import Pulse
from autotune.core.vigil import PREEMPTED, Act, Glance, Vigil, looked, watch_over
from autotune.edges import Asked, Clock, Exit, Live, Teller

# What a running attempt has shown, and whether it has just saved: `ended_by_us` and a sentence
# where it is to make way.
Steer = Callable[[Evidence, bool], tuple[str, str] | None]

POLL_SECONDS = 1.0
FIRST_POLLS_SECONDS = 0.2  # a program that dies at once is told at once
QUICK_POLLS = 10
NOTICES = frozenset({1, 10, 12, 15})  # SIGHUP, SIGUSR1, SIGUSR2, SIGTERM
NO_WORDS = "its process ended without saying how"


def watch(
    live: Live,
    attempt: int,
    asked: Asked,
    clock: Clock,
    limits: Thresholds,
    seconds_left: float | None,
    tell: Teller,
    steer: Steer | None = None,
) -> Evidence:
    """Return the evidence of the attempt, after its last process is gone.

    `seconds_left` is what the run's wall limit leaves; `steer` says of a running attempt whether
    it is ended for a better plan's sake.
    """
    began = clock.monotonic()
    helm = Helm(live, attempt, steer)
    try:
        ended, vigil = _until_it_ends(live, attempt, asked, clock, limits, seconds_left, tell, helm)
    except BaseException:
        _end(live, limits)  # trouble of our own leaves nothing that nobody watches
        raise
    gone = _end(live, limits)
    live.channel.close()
    gaps = live.settle()
    if not gone:
        gaps += (Gap("processes", "some of the attempt outlived SIGKILL"),)
    seen = gather(live, attempt, ended, vigil.ended_by_us, clock.monotonic() - began, gaps)
    return dataclasses.replace(
        seen,
        stall=vigil.stall,
        stacks=vigil.stacks,
        diverged=vigil.diverged or seen.diverged,
    )


def _until_it_ends(
    live: Live,
    attempt: int,
    asked: Asked,
    clock: Clock,
    limits: Thresholds,
    seconds_left: float | None,
    tell: Teller,
    helm: "Helm",
) -> tuple[Exit | None, Vigil]:
    """Return how the launcher ended, when it did by itself, and what was noticed meanwhile."""
    began = clock.monotonic()
    vigil, polls = Vigil(), 0
    # Who is killed at once was watched too, and what the machine counted since speaks of that.
    live.sampler.sample()
    while (ended := live.child.poll()) is None or _left_to_save(ended, live):
        live.channel.poll()
        live.sampler.sample()
        tell.progress(attempt, live.channel.view, live.sampler.latest_bytes)
        helm.compare(tell)
        now = clock.monotonic()
        interrupts = asked.read()
        glance = Glance(
            at=now,
            stop_asked=interrupts.stop_by is not None,
            hurry=interrupts.hurry,
            rescuing=live.rescue(),
            rank_died=live.rank_died(),
            noticed=ended is not None or live.channel.view.told_to_end is not None,
            seconds_left=None if seconds_left is None else seconds_left - (now - began),
            pulse=_pulse(live, vigil, limits),
            diverged=live.channel.view.course.diverged(limits.diverged_steps),
            steered=helm.look(now - began, tell) if vigil.asked_at is None else None,
        )
        vigil, act = watch_over(vigil, glance, limits)
        if act is Act.LOOK:
            lines = live.channel.output_lines
            vigil, act, said = looked(vigil, live.take_stacks(), lines, limits)
            if said is not None:
                tell.note(said)
        if act is Act.ASK_SAVE:
            if vigil.ended_by_us == glance.steered:
                live.ask_save("autotune, for another plan")
            else:
                by = _asked_by(interrupts.stop_by, vigil, live)
                tell.note(f"asked to stop by {by}: saving at the next step; once more ends at once")
                live.ask_save(by)
        if act is Act.END and vigil.asked_at is not None:
            # They were asked to save and did not: where they stand is gone with them.
            vigil = dataclasses.replace(vigil, stacks=live.take_stacks())
        if act in (Act.END, Act.KILL):
            _end(live, limits, hurry=act is Act.KILL)
            break
        polls += 1
        # Ranks that held are ended soon: neither their saving nor what follows waits for a poll.
        quick = polls <= QUICK_POLLS or bool(live.channel.view.holding)
        clock.sleep(FIRST_POLLS_SECONDS if quick else POLL_SECONDS)
    return ended, vigil


def _left_to_save(ended: Exit, live: Live) -> bool:
    """Whether somebody ended the launcher alone: its ranks still train and can still save."""
    if ended.signal not in NOTICES:
        return False
    live.channel.poll()  # whether they train is asked of what they have said by now
    return live.channel.view.step is not None and live.ranks_live()


def _asked_by(stop_by: str | None, vigil: Vigil, live: Live) -> str:
    if vigil.ended_by_us == PREEMPTED:
        return f"a signal from outside to {live.channel.view.told_to_end or 'the launcher'}"
    return stop_by or "the job's wall limit"


def _end(live: Live, limits: Thresholds, hurry: bool = False) -> bool:
    live.tell_end()
    return live.child.end(limits.term_grace, hurry)


class Helm:
    """Asks, at each new checkpoint, whether the running attempt is to make way.

    An attempt is also asked about once when it has run long enough to be judged as a trial.
    """

    def __init__(self, live: Live, attempt: int, steer: Steer | None) -> None:
        """Ask nobody where `steer` is None."""
        self._live = live
        self._attempt = attempt
        self._steer = steer
        self._seen: tuple[int | None, bool] = (None, False)
        self._compared: set[str] = set()

    def compare(self, tell: Teller) -> None:
        """Tell, once, of each setting of the plan that is not in force."""
        for said in self._live.ignored():
            if said not in self._compared:
                self._compared.add(said)
                tell.note(f"attempt {self._attempt} does not train by its plan: {said}")

    def look(self, seconds: float, tell: Teller) -> str | None:
        """Return `ended_by_us` of the end that is wanted, and tell why."""
        view = self._live.channel.view
        if self._steer is None or view.pace is None:
            return None
        seen = (view.checkpoint_step, view.pace.early_token_seconds is not None)
        if seen == self._seen:
            return None
        just_saved = view.checkpoint_step != self._seen[0]
        self._seen = seen
        so_far = gather(self._live, self._attempt, None, None, seconds)
        wanted = self._steer(so_far, just_saved)
        if wanted is None:
            return None
        tell.note(wanted[1])
        return wanted[0]


def _pulse(live: Live, vigil: Vigil, limits: Thresholds) -> Pulse:
    view = live.channel.view
    return Pulse(
        marks=view.marks,
        phase=view.phase,
        reports=bool(view.ranks),
        stepped=view.step is not None,
        output_bytes=live.channel.output_bytes,
        work=live.work() if vigil.rhythm.wants_work(limits) else None,
    )


def by_files(evidence: Evidence, saved: Saved | None) -> Evidence:
    """Return the evidence with what the checkpoints on disk add: events can be lost, files not."""
    if saved is None:
        return evidence
    reached = max(saved.step, evidence.checkpoint_step or 0)
    total = evidence.total_steps
    whole = total is not None and reached >= total and not evidence.exceptions
    finished = (evidence.finished or whole) and evidence.diverged is None
    return dataclasses.replace(evidence, checkpoint_step=reached, finished=finished)


def _left_in_peace(live: Live, ended: Exit | None, ended_by_us: str | None) -> bool:
    """Return whether a program that says nothing of its end left as one does that came to it."""
    view = live.channel.view
    if not live.exit_tells or ended is None or ended_by_us is not None or view.total is not None:
        return False
    return ended.code == 0 and not view.exceptions and view.ended >= view.ranks.keys()


def gather(
    live: Live,
    attempt: int,
    ended: Exit | None,
    ended_by_us: str | None,
    seconds: float | None,
    gaps: tuple[Gap, ...] = (),
) -> Evidence:
    """Return everything that was seen of an attempt that is over."""
    view = live.channel.view
    if ended_by_us is None and view.stopped_step is not None:
        # The ranks read the control file before we did.
        ended_by_us = PREEMPTED if view.told_to_end else "stop"
    memory, memory_gaps = live.sampler.reading()
    reached = view.checkpoint_step
    ran = came_to_its_end(view) or _left_in_peace(live, ended, ended_by_us)
    diverged = view.course.lost_at_the_end(view.total or view.step or 0) if ran else None
    if ended is not None and ended_by_us is None:
        said_nothing = (Gap(f"last words of rank {rank}", NO_WORDS) for rank in view.silent_ranks())
        gaps = (*gaps, *said_nothing)
    return Evidence(
        attempt=attempt,
        exit_code=ended.code if ended else None,
        signal=ended.signal if ended else None,
        ended_by_us=ended_by_us,
        finished=ran and diverged is None,
        step=view.step,
        total_steps=view.total,
        checkpoint_step=reached or 0,
        started_training=view.step is not None,
        phase=view.phase,
        signs=live.channel.signs(),
        exceptions=live.channel.exceptions(),
        memory=memory,
        seconds=seconds,
        gaps=(*live.channel.gaps(), *memory_gaps, *gaps),
        machine=live.sampler.machine(),
        ignored=live.ignored(),
        diverged=diverged,
        probes=view.probes,
        pace=view.pace,
        longest=view.longest,
        rescued=live.rescued(),
        trail=view.trail,
        continued=view.continued,
        global_batch=view.global_batch,
        told_to_end=view.told_to_end,
        snapshots=tuple(view.snapshots[rank] for rank in sorted(view.snapshots)),
    )
