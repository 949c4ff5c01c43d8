"""The outer loop: ask core for the next step, write it down, do it, write down what came of it."""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass, field

from autotune.core.climb import steer
from autotune.core.decide import next_step
from autotune.core.diagnosis import diagnose
from autotune.core.evidence import Diagnosis, Evidence
from autotune.core.history import Story, tell
from autotune.core.outlook import Outlook
from autotune.core.pauses import pause
from autotune.core.record import (
    AttemptEnded,
    Decided,
    Ended,
    Event,
    Finish,
    GiveUp,
    Launch,
    Prove,
    Step,
    Stop,
    StopAsked,
    Unseated,
    Wait,
    Waited,
)
from autotune.edges import Asked, Clock, Journal, Stage, Teller
from autotune.watch import by_files, watch

FINISHED, GAVE_UP, STOPPED = 0, 1, 4  # exit codes of `autotune run`
WAIT_POLL_SECONDS = 1.0  # between two looks whether somebody asked for a stop


@dataclass
class Supervisor:
    """One run, from its journal's last line to its end."""

    story: Story
    outlook: Callable[[Story], Outlook]  # looked up again before every decision
    journal: Journal
    stage: Stage
    clock: Clock
    asked: Asked
    tell: Teller
    between: Callable[[], None] = lambda: None  # called before each step, when no attempt runs
    replayed: Step | None = field(init=False)  # decided by a supervisor that died before doing it

    def __post_init__(self) -> None:
        """Remember what was left undone."""
        self.replayed = self.story.pending

    def run(self) -> int:
        """Do one step after the other until the last; return the exit code."""
        while True:
            self.between()
            self._hear_stop()
            step = next_step(self.story, self.outlook(self.story))
            if step is not self.story.pending:
                self._write(Decided(step))
            code = self._do(step)
            self.replayed = None
            if code is not None:
                return code

    def _do(self, step: Step) -> int | None:
        if isinstance(step, Launch):
            self._attempt(step)
        elif isinstance(step, Wait):
            self._wait(step)
        elif isinstance(step, Prove):
            proved = self.stage.prove(step) if self._seated(step) else None
            if proved is not None:  # else the loop hears the stop that cut it short
                self._write(proved)
        elif isinstance(step, Finish):
            self.stage.write_known_good(step, self.story)
            return self._end("finished", FINISHED)
        elif isinstance(step, GiveUp):
            return self._end("gave_up", GAVE_UP)
        elif isinstance(step, Stop):
            return self._end("stopped", STOPPED)
        return None

    def _attempt(self, launch: Launch) -> None:
        if self.replayed is launch:
            left = self.stage.recover(launch, self.story.attempts[-1].started)
            if left is not None:
                self._attempt_ended(launch, left)
                return
        if not self._seated(launch):
            return
        self.stage.clear_way(launch)
        prepared = self.stage.prepare(launch)
        if prepared is not None and not prepared.ok and self.asked.read().stop_by:
            cut = Evidence(
                launch.attempt, ended_by_us="stop", checkpoint_step=launch.checkpoint_step
            )
            self._attempt_ended(launch, cut)
            return
        if prepared is not None:
            self._write(prepared)
            if not prepared.ok:
                evidence = Evidence(launch.attempt, checkpoint_step=launch.checkpoint_step)
                found = Diagnosis(prepared.failure, 1.0, prepared.why)
                self._attempt_ended(launch, evidence, found)
                return
        live = self.stage.start(launch, prepared.resume if prepared else launch.checkpoint)
        outlook = self.outlook(self.story)
        left_seconds = outlook.job.limits.wall - self.story.attempt_seconds
        limits = outlook.policy.limits
        try:
            self._write(live.child.identity)
        except BaseException:
            live.child.end(limits.term_grace)  # nothing is left that nobody watches
            raise
        evidence = watch(
            live,
            launch.attempt,
            self.asked,
            self.clock,
            limits,
            left_seconds,
            self.tell,
            lambda seen, saved: steer(self.story, outlook, seen, saved),
        )
        self._attempt_ended(launch, evidence)

    def _attempt_ended(
        self, launch: Launch, seen: Evidence, diagnosis: Diagnosis | None = None
    ) -> None:
        # A half-written checkpoint may hold the very room the journal needs.
        self.stage.tidy(launch)
        evidence = by_files(seen, self.stage.saved())
        event = AttemptEnded(evidence.attempt, evidence, diagnosis or diagnose(evidence))
        self._write(event)
        self.stage.keep(launch, event)

    def _seated(self, step: Launch | Prove) -> bool:
        """Take the devices of a step; what could not be had is decided about again."""
        refused = self.stage.seat(step.devices)
        if refused:
            self._write(Unseated(refused))
        return not refused

    def _wait(self, wait: Wait) -> None:
        began = self.clock.monotonic()
        looks, look_at, room = 0, min(wait.at_least, wait.seconds), None
        while True:
            waited = self.clock.monotonic() - began
            if waited >= look_at or waited >= wait.seconds:
                room = self._room(wait)
                looks, look_at = looks + 1, waited + pause(looks, self._name)
            if room or waited >= wait.seconds:
                break
            if self.asked.read().stop_by:
                self._hear_stop()
                return
            self.clock.sleep(min(WAIT_POLL_SECONDS, wait.seconds - waited))
        # Of devices it is asked anew with the next decision, which may be another launch.
        self._write(Waited(round(waited, 1), None if wait.for_devices else room))

    @property
    def _name(self) -> str:
        """What tells this run's pauses from those of others that wait for the same."""
        return self.story.started.run_id if self.story.started else ""

    def _room(self, wait: Wait) -> bool | None:
        """Return whether what is waited for is there; None where nobody can tell."""
        last = self.story.last
        if wait.for_devices:
            then = dataclasses.replace(self.story, pending=None, unseated="")
            return not isinstance(next_step(then, self.outlook(self.story)), Wait)
        if wait.free_bytes is None or last is None:
            return None
        free = self.stage.free_bytes(last.plan)
        return None if free is None else free >= wait.free_bytes

    def _hear_stop(self) -> None:
        by = self.asked.read().stop_by
        if by is not None and self.story.stop_asked is None:
            self._write(StopAsked(by))

    def _end(self, state: str, code: int) -> int:
        self._write(Ended(state, code))
        return code

    def _write(self, event: Event) -> None:
        self.journal.append(event)
        self.story = tell(self.story, event)
        self.tell.event(event)
