"""Starts an attempt: its folder and files, its environment and port, its ranks and what watches."""

import dataclasses
import os
from dataclasses import dataclass
from pathlib import Path

from autotune import child
from autotune.core.carry import Carry
from autotune.core.codec import to_plain
from autotune.core.evidence import Gap
from autotune.core.fault import CannotLaunch, Fault
from autotune.core.plan import Plan
from autotune.core.record import Risk
from autotune.core.resumed import Expected
from autotune.core.secret import secret_values
from autotune.edges import Clock, Command, Teller
from autotune.frameworks.framework import Setting
from autotune.ground import VISIBLE, Ground
from autotune.launchers import deepspeed
from autotune.live import LiveAttempt
from autotune.rescue import Rescuer
from autotune.world import ops_cache
from autotune.world.cgroup import Cgroup, left_cgroup, make_cgroup
from autotune.world.channel import AttemptChannel, output_name
from autotune.world.environment import child_environment, free_port
from autotune.world.files import make_folder, read_json, remove_tree, write_json, write_text
from autotune.world.host import MemorySampler
from autotune.world.nodes import Order
from autotune.world.probe_folder import lay_probe, python_path
from autotune.world.process import RunningAttempt
from autotune.world.rescued import RescueFolder
from autotune.world.shared_memory import prefix_of
from autotune.world.spread import SpreadAttempt
from autotune.world.stacks import StackTaker

RESCUE = "rescue"  # where ranks that were refused memory write what is to be saved
TRAINER = Path(child.__file__).parent / "finetune.py"
PROBE = Path(child.__file__).parent / "probe"


@dataclass(frozen=True)
class Start:
    """One start of a plan's ranks: from where, into which folder, and what is expected of it."""

    plan: Plan
    carry: Carry
    attempt: int
    folder: Path
    resume: str | None = None  # the checkpoint, relative to the run folder
    mode: str = "train"  # train | prove
    expected: Expected | None = None
    risk: Risk | None = None


class Spawner:
    """Starts the attempts of one run."""

    def __init__(self, ground: Ground, clock: Clock, tell: Teller) -> None:
        """Work in the run folder of `ground`."""
        self._ground = ground
        self._clock = clock
        self._tell = tell

    def spawn(self, start: Start) -> LiveAttempt:
        """Start the ranks of a plan in the attempt's own folder; raises CannotLaunch."""
        try:
            return self._spawn(start)
        except OSError as error:
            text = f"the attempt's files could not be written ({error.strerror})"
            hint = "free disk space or mend the folder, then start the same command again"
            place = str(error.filename or start.folder)
            raise CannotLaunch(Fault(text, place, hint)) from error

    def _spawn(self, start: Start) -> LiveAttempt:
        plan, attempt, folder = start.plan, start.attempt, start.folder
        ground = self._ground
        ground.folder.refuse_links()
        remove_tree(folder)  # of a start that never came to be
        for made in (folder, folder / "events", folder / "stacks", ground.folder.ops):
            make_folder(made)
        if ground.folder.stop_asked_by() is None:
            ground.folder.clear_stop()  # of an order that was for the ranks before these
        ops_cache.clear_locks(ground.folder.ops)
        ops_cache.warm(ground.folder.ops, ops_cache.cache_folder(ground.versions, ground.python))
        port = ground.job.launcher.port or free_port(self._drawn())
        program = ground.framework.program(self.setting(start, port))
        for name, text in program.files.items():
            write_text(folder / name, text)
        probe = self._lay_probe(folder, attempt, program.own_events, saves=start.mode == "train")
        argv = ground.command(plan, program, port)
        ours = {**program.env, **ground.environment(plan), **ground.devices_for(plan, program)}
        ours["TORCH_EXTENSIONS_DIR"] = str(ground.folder.ops)
        job = ground.job
        env = child_environment(ground.python, job.env, job.env_from, ours)
        laid = ground.overlay(plan)
        if laid is not None:
            path = python_path(laid.path, env.get("PYTHONPATH"))
            ours["PYTHONPATH"] = env["PYTHONPATH"] = path
        if probe is not None:
            ours["PYTHONPATH"] = env["PYTHONPATH"] = python_path(probe, env.get("PYTHONPATH"))
        # The names of secrets may stand in our files, their values never.
        shown = {"argv": argv, "env": {**job.env, **ours}, "env_from": job.env_from, "port": port}
        shown["shared_memory"] = deepspeed.shared_memory_prefix(os.getuid(), port)
        write_json(folder / "command.json", shown)
        write_json(folder / "plan.json", to_plain(plan))
        cgroup = self._cgroup(folder)
        command = Command(argv, env, program.folder or str(folder))
        inside = cgroup.path if isinstance(cgroup, Cgroup) else None
        if isinstance(cgroup, Gap) and ground.job.devices.host_memory_limit is not None:
            self._tell.note(f"host_memory_limit is not enforced: {cgroup.why}")
        mark, output = self.mark(folder), folder / "output.log"
        running: RunningAttempt | SpreadAttempt
        # First here: what cannot be started here is started nowhere.
        running = RunningAttempt(attempt, mark, command, output, inside)
        try:
            order = self._start_elsewhere(start, port, ours)
            if ground.members is not None and order is not None:
                running = SpreadAttempt(running, ground.members, order)
            return self.live(plan, attempt, folder, running, cgroup, program.exit_tells)
        except BaseException:
            # Trouble of our own leaves nothing that nobody watches.
            running.end(ground.policy.limits.term_grace)
            raise

    def live(
        self,
        plan: Plan,
        attempt: int,
        folder: Path,
        running: RunningAttempt | SpreadAttempt | None,
        cgroup: Cgroup | Gap | None = None,
        exit_tells: bool = False,
    ) -> LiveAttempt:
        """Return what watches an attempt; without `running` it is one of a dead supervisor."""
        if running is None:
            cgroup = left_cgroup(self._cgroup_name(folder))
        ground, gpus = self._ground, self._ground.gpus_of(plan)
        # What the training says of them reaches neither journal nor terminal.
        secrets = secret_values(os.environ, ground.job.env_from)
        most = ground.job.limits.log_bytes
        channel = AttemptChannel(folder, ground.signatures, most, secrets, ground.nodes)
        sampler = MemorySampler(
            ground.device,
            ground.job.devices.memory_limit,
            lambda: channel.view,
            gpus,
            cgroup,
            plan.world_size // ground.nodes,
        )
        rescuer = Rescuer(
            attempt,
            ground.folder,
            RescueFolder(folder / RESCUE, plan.world_size),
            self._clock,
            ground.policy.limits.rescue_grace,
        )
        return LiveAttempt(
            attempt, running, channel, sampler, ground.folder, gpus, cgroup,
            self._clock, ground.policy.limits.release, prefix_of(folder),
            StackTaker(folder / "stacks", ground.folder.ops, ground.python), ground.signatures,
            plan, rescuer, ground.around.knobs, exit_tells, ground.members,
        )  # fmt: skip

    def _start_elsewhere(self, start: Start, port: int, ours: dict[str, str]) -> Order | None:
        """Have the other nodes start their ranks, with the same files and environment."""
        ground, members = self._ground, self._ground.members
        if members is None:
            return None
        job, commands = ground.job, {}
        for number, node in members.present().items():
            program = ground.framework.program(self.setting(start, port, number))
            shared = {k: v for k, v in ours.items() if k != VISIBLE}
            env = {**shared, **program.env, **ground.environment(start.plan, node.total_bytes)}
            commands[number] = {
                "argv": ground.command(start.plan, program, port, number),
                "python": ground.python,
                "env": {**job.env, **env},
                "env_from": list(job.env_from),
                "folder": program.folder or str(start.folder),
                "mark": f"{self.mark(start.folder)}/node-{number}",
                "output": output_name(number),
            }
        return members.start(start.folder, commands)

    def setting(self, start: Start, port: int, node: int = 0) -> Setting:
        """Return what the framework is to describe; `port` is where the ranks meet."""
        ground = self._ground
        looked, laid = ground.looked, ground.overlay(start.plan)
        if laid is not None:
            versions = {**looked.versions, **laid.versions}
            looked = dataclasses.replace(looked, versions=versions)
        return Setting(
            job=ground.job,
            looked=looked,
            job_folder=str(ground.job_folder),
            plan=start.plan,
            device=ground.device,
            attempt=start.attempt,
            folder=str(start.folder),
            checkpoints=str(ground.folder.checkpoints),
            control=str(ground.folder.control),
            resume=str(ground.folder.path / start.resume) if start.resume else None,
            load_universal=start.carry.load_universal,
            ds_overrides=start.carry.ds_overrides,
            mode=start.mode,
            expected=start.expected,
            risk=start.risk,
            limit_bytes=ground.allocator_limit,
            python=ground.python,
            port=port,
            devices=ground.indices_of(start.plan),
            trainer=str(TRAINER),
            meeting=ground.meeting(node),
        )

    def _lay_probe(self, folder: Path, attempt: int, own_events: bool, saves: bool) -> Path | None:
        """Lay the probe into the attempt's folder, unless the job does without it."""
        ground = self._ground
        if ground.job.probe == "off":
            return None
        limit, seconds = ground.allocator_limit, ground.policy.limits.rescue_grace
        given = {
            "attempt": attempt,
            "events": str(folder / "events"),
            "stacks": str(folder / "stacks"),
            "control": str(ground.folder.control),
            # The built-in trainer sets its limit itself, after its ops are built.
            "limit": None
            if limit is None or own_events
            else {"device": ground.device, "bytes": limit},
            "own_events": own_events,
            "snapshot_bytes": ground.job.snapshot or 0,
            "rescue": {"folder": str(folder / RESCUE), "seconds": seconds} if saves else None,
        }
        return lay_probe(PROBE, folder, given)

    def _cgroup(self, folder: Path) -> Cgroup | Gap:
        """A group for each attempt: kills in it are its own, and no neighbour's."""
        limit = self._ground.job.devices.host_memory_limit
        return make_cgroup(self._cgroup_name(folder), limit)

    def _cgroup_name(self, folder: Path) -> str:
        return f"autotune-{self._ground.run_id}-{folder.name}"

    def mark(self, folder: Path) -> str:
        """Return what names the processes of one attempt folder."""
        return f"{self._ground.run_id}/{folder.name}"

    def _drawn(self) -> frozenset[int]:
        """Return the ports of this run's attempts so far; one may have been lost to a stranger."""
        folder = self._ground.folder.path / "attempts"
        held = (read_json(path) for path in folder.glob("*/command.json"))
        ports = (one.get("port") for one in held if isinstance(one, dict))
        return frozenset(port for port in ports if isinstance(port, int))
