"""Carries out what the loop decides: renders plans, converts checkpoints, starts and recovers."""

import contextlib
import os
import shutil
from collections.abc import Mapping
from pathlib import Path

from autotune import child
from autotune.core.carry import (
    Carry,
    SavedShape,
    WantedShape,
    conversion_request,
    decide_carry,
)
from autotune.core.codec import to_plain
from autotune.core.decide import Saved, shape_of
from autotune.core.evidence import Evidence, Gap
from autotune.core.failure import Role
from autotune.core.fault import CannotLaunch, CannotRecord, Fault
from autotune.core.history import Story
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
from autotune.edges import Asked, Clock, Command, Teller
from autotune.frameworks.framework import Setting
from autotune.ground import Ground
from autotune.known_good import write_known_good
from autotune.launchers import deepspeed
from autotune.live import LiveAttempt
from autotune.watch import gather, watch
from autotune.world import checkpoints, ops_cache
from autotune.world.cgroup import Cgroup, make_cgroup
from autotune.world.channel import AttemptChannel
from autotune.world.conversion import convert
from autotune.world.environment import child_environment, free_port
from autotune.world.files import make_folder, write_json, write_text
from autotune.world.host import MemorySampler
from autotune.world.process import RunningAttempt, Survivors, boot_id, end_all
from autotune.world.shared_memory import prefix_of, sweep
from autotune.world.stacks import StackTaker

TRAINER = Path(child.__file__).parent / "finetune.py"
CONVERTER = Path(child.__file__).parent / "convert.py"


class RunStage:
    """The real stage: processes, files and checkpoints of one run."""

    def __init__(self, ground: Ground, clock: Clock, asked: Asked, tell: Teller) -> None:
        """Work in the run folder of `ground`; `asked` cuts short what takes long."""
        self._ground = ground
        self._clock = clock
        self._asked = asked
        self._tell = tell

    def saved(self) -> Saved | None:
        """Return the newest complete checkpoint."""
        found = checkpoints.newest(self._ground.folder.checkpoints)
        if found is None:
            return None
        name = str(found.path.relative_to(self._ground.folder.path))
        return Saved(name, found.step, found.attempt)

    def prepare(self, launch: Launch) -> Prepared | None:
        """Convert the checkpoint of `launch` into a staged copy; None when nothing is needed."""
        if not launch.carry.conversions or launch.checkpoint is None:
            return None
        folder = self._ground.folder
        target = folder.staged / f"{launch.attempt:03d}" / Path(launch.checkpoint).name
        mark = f"{self._ground.run_id}/convert-{launch.attempt:03d}"
        end_all(Survivors(mark), term_grace=5)  # that a dead supervisor left working here
        shutil.rmtree(target.parent, ignore_errors=True)
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
            shutil.rmtree(target.parent, ignore_errors=True)
            why = str(answer.get("error", "the converter gave no answer"))
            return Prepared(launch.attempt, False, why=why, seconds=seconds)
        resume = str(target.relative_to(folder.path))
        return Prepared(launch.attempt, True, resume=resume, seconds=seconds)

    def start(self, launch: Launch, resume: str | None) -> LiveAttempt:
        """Start the attempt."""
        ground = self._ground
        folder = ground.folder.attempt(launch.attempt)
        return self._spawn(launch.plan, launch.carry, launch.attempt, folder, resume, "train")

    def recover(self, launch: Launch, started: AttemptStarted | None) -> Evidence | None:
        """End what a dead supervisor left of this attempt and return what is known of it."""
        ground = self._ground
        folder = ground.folder.attempt(launch.attempt)
        survivors = Survivors(self._mark(folder), started)
        # Nothing outlives a boot, and process ids of another one are strangers.
        rebooted = started is not None and started.boot_id != boot_id()
        left = not rebooted and bool(survivors.alive())
        if not left and not (folder / "output.log").exists():
            return None
        if left:
            self._tell.note(f"attempt {launch.attempt} still runs; it is told to save and end")
            self._end_survivors(survivors)
        live = self._live(launch.attempt, folder, None, None)
        live.channel.close()
        live.settle()
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
        folder = ground.folder.path / "attempts" / "proof"
        end_all(Survivors(self._mark(folder)), ground.policy.limits.term_grace)
        sweep(prefix_of(folder))  # of a proof that died with its supervisor
        shape = shape_of(step.plan)
        carry = decide_carry(SavedShape(**shape), WantedShape(**shape))
        live = self._spawn(step.plan, carry, step.attempt, folder, step.checkpoint, "prove")
        limits, wall = ground.policy.limits, ground.job.limits.wall
        evidence = watch(live, step.attempt, self._asked, self._clock, limits, wall, self._tell)
        if evidence.ended_by_us and self._asked.read().stop_by:
            return None
        return judge_proof(live.channel.view, evidence, step)

    def write_known_good(self, step: Finish, story: Story) -> None:
        """Write the known-good folder."""
        ground = self._ground
        target = ground.folder.known_good
        carry = decide_carry(None, WantedShape(**shape_of(step.plan)))
        setting = self._setting(step.plan, carry, 1, target, None, "train")
        try:
            write_known_good(ground, setting, story, ground.environment(step.plan), TRAINER)
        except OSError as error:
            text = f"the known-good could not be written ({error.strerror})"
            hint = "free disk space, then start the same command again; the training is done"
            raise CannotRecord(Fault(text, str(target), hint)) from error

    def tidy(self, launch: Launch) -> None:
        """Remove the checkpoints that this attempt left half-written."""
        folder = self._ground.folder.checkpoints
        for name in checkpoints.remove_broken(folder, launch.checkpoint_step):
            self._tell.note(f"{name} was only half written and is removed")

    def keep(self, ended: AttemptEnded) -> None:
        """Lay the diagnosis beside the output, drop the staged copy, keep what was compiled."""
        ground = self._ground
        path = ground.folder.attempt(ended.attempt)
        found = {"diagnosis": to_plain(ended.diagnosis), "evidence": to_plain(ended.evidence)}
        with contextlib.suppress(OSError):  # the journal holds the same, and that is what counts
            write_json(path / "diagnosis.json", found)
        shutil.rmtree(ground.folder.staged / f"{ended.attempt:03d}", ignore_errors=True)
        ops_cache.keep(ground.folder.ops, ops_cache.cache_folder(ground.versions))

    def _spawn(
        self, plan: Plan, carry: Carry, attempt: int, folder: Path, resume: str | None, mode: str
    ) -> LiveAttempt:
        try:
            return self._spawn_unguarded(plan, carry, attempt, folder, resume, mode)
        except OSError as error:
            text = f"the attempt's files could not be written ({error.strerror})"
            hint = "free disk space or mend the folder, then start the same command again"
            raise CannotLaunch(Fault(text, str(error.filename or folder), hint)) from error

    def _spawn_unguarded(
        self, plan: Plan, carry: Carry, attempt: int, folder: Path, resume: str | None, mode: str
    ) -> LiveAttempt:
        ground = self._ground
        shutil.rmtree(folder, ignore_errors=True)  # of a start that never came to be
        for made in (folder, folder / "events", folder / "stacks", ground.folder.ops):
            make_folder(made)
        if ground.folder.stop_asked_by() is None:
            ground.folder.clear_stop()  # of an order that was for the ranks before these
        ops_cache.clear_locks(ground.folder.ops)
        ops_cache.warm(ground.folder.ops, ops_cache.cache_folder(ground.versions))
        setting = self._setting(plan, carry, attempt, folder, resume, mode)
        program = ground.framework.program(setting)
        for name, text in program.files.items():
            write_text(folder / name, text)
        port = free_port()
        argv = deepspeed.command(
            ground.python,
            (str(TRAINER), *(str(folder / name) for name in program.argv)),
            plan.world_size,
            ground.gpu_indices,
            port,
        )
        ours = ground.environment(plan)
        ours["TORCH_EXTENSIONS_DIR"] = str(ground.folder.ops)
        job = ground.job
        env = child_environment(ground.python, job.env, job.env_from, ours)
        # The names of secrets may stand in our files, their values never.
        shown = {"argv": argv, "env": {**job.env, **ours}, "env_from": job.env_from}
        shown["shared_memory"] = deepspeed.shared_memory_prefix(os.getuid(), port)
        write_json(folder / "command.json", shown)
        write_json(folder / "plan.json", to_plain(plan))
        cgroup = self._cgroup(folder)
        command = Command(argv, env, str(folder))
        inside = cgroup.path if isinstance(cgroup, Cgroup) else None
        if isinstance(cgroup, Gap):
            self._tell.note(f"host_memory_limit is not enforced: {cgroup.why}")
        mark, output = self._mark(folder), folder / "output.log"
        running = RunningAttempt(attempt, mark, command, output, inside)
        return self._live(attempt, folder, running, cgroup)

    def _live(
        self,
        attempt: int,
        folder: Path,
        running: RunningAttempt | None,
        cgroup: Cgroup | Gap | None,
    ) -> LiveAttempt:
        ground = self._ground
        channel = AttemptChannel(folder, ground.signatures, ground.job.limits.log_bytes)
        sampler = MemorySampler(
            ground.device,
            ground.job.devices.memory_limit,
            lambda: channel.view,
            ground.gpus,
            cgroup,
        )
        return LiveAttempt(
            attempt, running, channel, sampler, ground.folder, ground.gpus, cgroup,
            self._clock, ground.policy.limits.release, prefix_of(folder),
            StackTaker(folder / "stacks", ground.folder.ops, ground.python), ground.signatures,
        )  # fmt: skip

    def _setting(
        self, plan: Plan, carry: Carry, attempt: int, folder: Path, resume: str | None, mode: str
    ) -> Setting:
        ground = self._ground
        return Setting(
            job=ground.job,
            looked=ground.looked,
            job_folder=str(ground.job_folder),
            plan=plan,
            device=ground.device,
            attempt=attempt,
            folder=str(folder),
            checkpoints=str(ground.folder.checkpoints),
            control=str(ground.folder.control),
            resume=str(ground.folder.path / resume) if resume else None,
            load_universal=carry.load_universal,
            ds_overrides=carry.ds_overrides,
            mode=mode,
            limit_bytes=ground.allocator_limit,
        )

    def _cgroup(self, folder: Path) -> Cgroup | Gap | None:
        limit = self._ground.job.devices.host_memory_limit
        if limit is None:
            return None
        return make_cgroup(f"autotune-{self._ground.run_id}-{folder.name}", limit)

    def _mark(self, folder: Path) -> str:
        return f"{self._ground.run_id}/{folder.name}"

    def _end_survivors(self, survivors: Survivors) -> None:
        ground = self._ground
        ground.folder.tell_ranks_to_stop("autotune was started again")
        deadline = self._clock.monotonic() + ground.policy.limits.stop_grace
        while survivors.alive() and self._clock.monotonic() < deadline:
            if self._asked.read().hurry:
                break
            self._clock.sleep(0.5)
        end_all(survivors, ground.policy.limits.term_grace)
        self._asked.read()  # what the owner asked for meanwhile is heard before it is cleared
        if ground.folder.stop_asked_by() is None:
            ground.folder.clear_stop()

    def _convert(self, request: Mapping[str, object], mark: str) -> dict[str, object]:
        ground = self._ground
        env = child_environment(
            ground.python, ground.job.env, [], deepspeed.environment(ground.device)
        )
        return convert(
            ground.python, CONVERTER, request, env, mark, lambda: bool(self._asked.read().stop_by)
        )
