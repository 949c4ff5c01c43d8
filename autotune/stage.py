"""Carries out what the loop decides: renders plans, converts checkpoints, starts and recovers."""

import contextlib
from collections.abc import Mapping
from pathlib import Path

from autotune import child
from autotune.core.carry import (
    SavedShape,
    WantedShape,
    conversion_request,
    decide_carry,
)
from autotune.core.codec import to_plain
from autotune.core.continuity import tolerance_between
from autotune.core.evidence import Evidence, Gap
from autotune.core.failure import Role
from autotune.core.fault import CannotRecord, Fault
from autotune.core.history import Story
from autotune.core.outlook import Saved, shape_of
from autotune.core.plan import Plan
from autotune.core.proof import judge_proof
from autotune.core.record import (
    AttemptEnded,
    AttemptStarted,
    Finish,
    Launch,
    Prepared,
    Prove,
    Proved,
)
from autotune.core.resumed import Expected
from autotune.core.units import show_seconds
from autotune.edges import Asked, Clock, Teller
from autotune.foreseeing import Foreseer
from autotune.ground import Ground
from autotune.known_good import RELAUNCH_PORT, write_known_good
from autotune.launchers import deepspeed
from autotune.live import LiveAttempt
from autotune.spawn import RESCUE, Spawner, Start
from autotune.watch import gather, watch
from autotune.world import checkpoints, ops_cache
from autotune.world.conversion import convert
from autotune.world.environment import child_environment
from autotune.world.files import make_folder, remove_tree, write_json
from autotune.world.overlay import Source, lay
from autotune.world.process import Survivors, boot_id, end_all
from autotune.world.rotation import rotate
from autotune.world.shared_memory import prefix_of, sweep

CONVERTER = Path(child.__file__).parent / "convert.py"


class RunStage:
    """The real stage: processes, files and checkpoints of one run."""

    def __init__(
        self, ground: Ground, clock: Clock, asked: Asked, tell: Teller, foreseer: Foreseer
    ) -> None:
        """Work in the run folder of `ground`; `asked` cuts short what takes long."""
        self._foreseer = foreseer
        self._ground = ground
        self._clock = clock
        self._asked = asked
        self._stop_asked = lambda: bool(asked.read().stop_by)
        self._tell = tell
        self._spawner = Spawner(ground, clock, tell)

    def saved(self) -> Saved | None:
        """Return the newest complete checkpoint."""
        found = checkpoints.newest(self._ground.folder.checkpoints)
        if found is None:
            return None
        return self._named(found)

    def earlier(self) -> tuple[Saved, ...]:
        """Return the complete checkpoints before the newest one, newest first."""
        found = list(checkpoints.whole(self._ground.folder.checkpoints))
        return tuple(self._named(one) for one in found[1:])

    def free_bytes(self, plan: Plan) -> int | None:
        """Return what is free on the fullest of the plan's GPUs; None: nobody can tell."""
        return self._ground.gpus_of(plan).free_bytes()

    def seat(self, devices: tuple[int, ...]) -> str:
        """Take the leases of these GPUs and work on them; return who has one, or ""."""
        ground = self._ground
        if ground.members is not None and not ground.members.wait(self._stop_asked, self._tell):
            return "not every node has come"
        wanted = devices or ground.gpu_indices
        if not wanted:
            return ""
        known = set(ground.leases.faults)
        holder = ground.leases.take(ground.gpus.uuid_of(index) for index in wanted)
        for key, why in ground.leases.faults.items():
            if key not in known:
                self._tell.note(f"other jobs are not kept off {key or 'a GPU'}: {why}")
        if holder is not None:
            return f"a GPU of {', '.join(map(str, wanted))} is leased to {holder}"
        ground.gpus.indices = wanted
        return ""

    def clear_way(self, launch: Launch) -> None:
        """Set checkpoints aside and empty compiled extensions, as the launch says."""
        ground = self._ground
        ground.folder.refuse_links()
        for name in launch.set_aside:
            place = checkpoints.set_aside(
                ground.folder.path / name, f"attempt-{launch.attempt:03d}"
            )
            self._tell.note(f"{name} is set aside as {place.relative_to(ground.folder.path)}")
        if launch.rebuild_ops:
            ops_cache.forget(
                ground.folder.ops, ops_cache.cache_folder(ground.versions, ground.python)
            )

    def prepare(self, launch: Launch) -> Prepared | None:
        """Lay packages and convert the checkpoint of `launch`; None when nothing is needed."""
        laid = self._lay_packages(launch)
        return laid if laid is not None and not laid.ok else self._converted(launch) or laid

    def _lay_packages(self, launch: Launch) -> Prepared | None:
        ground, pins = self._ground, launch.plan.pins
        if not pins or ground.overlay(launch.plan) is not None:
            return None
        self._tell.note(f"other versions of packages are fetched: {', '.join(pins)}")
        mark = f"{ground.run_id}/overlay"
        end_all(Survivors(mark), term_grace=5)  # that a dead supervisor left working here
        wheels, began = ground.job.pins.wheels, self._clock.monotonic()
        ours = deepspeed.environment(ground.device)
        env = child_environment(ground.python, ground.job.env, ground.job.env_from, ours)
        source = Source(
            ground.python,
            env,
            ground.job_folder / wheels if wheels else None,
            mark,
            self._stop_asked,
        )
        made = lay(ground.folder.overlay(pins), pins, source)
        seconds = round(self._clock.monotonic() - began, 1)
        ok = not isinstance(made, str)
        why = made if isinstance(made, str) else ", ".join(made.names())
        return Prepared(launch.attempt, ok, launch.checkpoint, why, seconds, "packages")

    def _converted(self, launch: Launch) -> Prepared | None:
        if not launch.carry.conversions or launch.checkpoint is None:
            return None
        folder = self._ground.folder
        folder.refuse_links()
        target = folder.staged / f"{launch.attempt:03d}" / Path(launch.checkpoint).name
        mark = f"{self._ground.run_id}/convert-{launch.attempt:03d}"
        end_all(Survivors(mark), term_grace=5)  # that a dead supervisor left working here
        remove_tree(target.parent)
        make_folder(target.parent)
        request = conversion_request(
            launch.carry,
            WantedShape(**shape_of(launch.plan)),
            str(folder.path / launch.checkpoint),
            str(target),
        )
        began = self._clock.monotonic()
        answer = self._convert(request, mark)
        seconds = round(self._clock.monotonic() - began, 1)
        if not answer.get("ok"):
            remove_tree(target.parent)
            why = str(answer.get("error", "the converter gave no answer"))
            return Prepared(launch.attempt, False, why=why, seconds=seconds)
        resume = str(target.relative_to(folder.path))
        return Prepared(launch.attempt, True, resume=resume, seconds=seconds)

    def start(self, launch: Launch, resume: str | None) -> LiveAttempt:
        """Start the attempt."""
        ground = self._ground
        folder = ground.folder.attempt(launch.attempt)
        start = Start(
            launch.plan,
            launch.carry,
            launch.attempt,
            folder,
            resume,
            expected=launch.expected,
            risk=launch.risk,
        )
        return self._spawner.spawn(start)

    def recover(self, launch: Launch, started: AttemptStarted | None) -> Evidence | None:
        """End what a dead supervisor left of this attempt and return what is known of it."""
        ground = self._ground
        folder = ground.folder.attempt(launch.attempt)
        survivors = Survivors(self._spawner.mark(folder), started)
        # Nothing outlives a boot, and process ids of another one are strangers.
        rebooted = started is not None and started.boot_id != boot_id()
        left = not rebooted and bool(survivors.alive())
        if not left and not (folder / "output.log").exists():
            return None
        if left:
            longest = show_seconds(ground.policy.limits.stop_grace)
            told = f"it is told to save and end, and ended after {longest} at most"
            self._tell.note(f"attempt {launch.attempt} still runs; {told}")
            self._end_survivors(survivors)
        if ground.members is not None and ground.members.wait(self._stop_asked, self._tell):
            ground.members.clear(ground.policy.limits.term_grace)
        live = self._spawner.live(launch.plan, launch.attempt, folder, None)
        live.channel.close()
        live.settle()
        live.rescuer.publish_left()
        said_why = live.channel.exceptions() or any(
            sign.role is Role.ROOT for sign in live.channel.signs()
        )
        by_us = None if said_why and not left else "supervisor_lost"
        why = "another supervisor started it and died before it ended"
        gap = Gap("exit code", "the machine was started anew" if rebooted else why)
        view = live.channel.view
        seconds = max(0.0, (view.last_at or 0) - (view.first_at or 0))
        return gather(live, launch.attempt, None, by_us, seconds, (gap,))

    def prove(self, step: Prove) -> Proved | None:
        """Load the last checkpoint in a throwaway process, run one step and one evaluation."""
        ground = self._ground
        if not ground.framework.proves:
            why = f"unproven: {ground.framework.name} cannot be told to train one step and stop"
            return Proved(False, why, step.checkpoint_step)
        folder = ground.folder.path / "attempts" / "proof"
        end_all(Survivors(self._spawner.mark(folder)), ground.policy.limits.term_grace)
        sweep(prefix_of(folder))  # of a proof that died with its supervisor
        shape = shape_of(step.plan)
        carry = decide_carry(SavedShape(**shape), WantedShape(**shape))
        # The same plan as the training's: what was saved must come back as it was.
        tolerance = tolerance_between(step.plan, step.plan, ground.policy.limits)
        expected = Expected(tolerance)
        live = self._spawner.spawn(
            Start(step.plan, carry, step.attempt, folder, step.checkpoint, "prove", expected)
        )
        limits, wall = ground.policy.limits, ground.job.limits.wall
        evidence = watch(live, step.attempt, self._asked, self._clock, limits, wall, self._tell)
        remove_tree(folder / "output")  # what a tool saved on the way
        if evidence.ended_by_us and self._asked.read().stop_by:
            return None
        return judge_proof(live.channel.view, evidence, step)

    def write_known_good(self, step: Finish, story: Story) -> None:
        """Write the known-good folder."""
        ground = self._ground
        target = ground.folder.known_good
        carry = decide_carry(None, WantedShape(**shape_of(step.plan)))
        setting = self._spawner.setting(Start(step.plan, carry, 1, target), RELAUNCH_PORT)
        try:
            write_known_good(ground, setting, story)
        except OSError as error:
            text = f"the known-good could not be written ({error.strerror})"
            hint = "free disk space, then start the same command again; the training is done"
            raise CannotRecord(Fault(text, str(target), hint)) from error

    def tidy(self, launch: Launch) -> None:
        """Remove the checkpoints that this attempt left half-written."""
        self._ground.folder.refuse_links()
        folder = self._ground.folder.checkpoints
        for name in checkpoints.remove_broken(folder, launch.checkpoint_step):
            self._tell.note(f"{name} was only half written and is removed")
        remove_tree(self._ground.folder.attempt(launch.attempt) / RESCUE)

    def keep(self, launch: Launch, ended: AttemptEnded) -> None:
        """Lay the diagnosis beside the output, drop the staged copy, keep what was compiled."""
        ground = self._ground
        path = ground.folder.attempt(ended.attempt)
        found = {"diagnosis": to_plain(ended.diagnosis), "evidence": to_plain(ended.evidence)}
        with contextlib.suppress(OSError):  # the journal holds the same, and that is what counts
            write_json(path / "diagnosis.json", found)
        self._foreseer.remember(launch, ended)
        limits = ground.job.limits
        oldest_at = self._clock.now() - limits.logs_age
        for cut in rotate(ground.folder.path / "attempts", limits.logs_bytes, oldest_at):
            self._tell.note(f"{cut.relative_to(ground.folder.path)} is cut to its head and tail")
        remove_tree(ground.folder.staged / f"{ended.attempt:03d}")
        ops_cache.keep(ground.folder.ops, ops_cache.cache_folder(ground.versions, ground.python))

    def _named(self, found: checkpoints.Checkpoint) -> Saved:
        name = str(found.path.relative_to(self._ground.folder.path))
        return Saved(name, found.step, found.attempt)

    def _end_survivors(self, survivors: Survivors) -> None:
        ground = self._ground
        ground.folder.tell_ranks_to_stop("autotune was started again")
        deadline = self._clock.monotonic() + ground.policy.limits.stop_grace
        while survivors.alive() and self._clock.monotonic() < deadline:
            if self._asked.read().hurry:
                break
            self._clock.sleep(0.5)
        ground.folder.tell_ranks_of_end()
        end_all(survivors, ground.policy.limits.term_grace)
        self._asked.read()  # what the owner asked for meanwhile is heard before it is cleared
        if ground.folder.stop_asked_by() is None:
            ground.folder.clear_stop()

    def _convert(self, request: Mapping[str, object], mark: str) -> dict[str, object]:
        ground = self._ground
        env = child_environment(
            ground.python, ground.job.env, [], deepspeed.environment(ground.device)
        )
        return convert(ground.python, CONVERTER, request, env, mark, self._stop_asked)
