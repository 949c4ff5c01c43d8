"""What a run stands on: all that stays as it is while it runs, and the GPUs that it has taken."""

import dataclasses
import socket
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from autotune.core.allocator import NEW_NAME, OLD_NAME, merge, show
from autotune.core.compatibility import parse_version
from autotune.core.inherited import Inherited
from autotune.core.job import Job
from autotune.core.plan import BLOCKING, Device, Plan
from autotune.core.policy import Policy
from autotune.core.rung import Rung, Surroundings
from autotune.core.seats import Seating
from autotune.core.signature import Signatures
from autotune.frameworks.framework import Framework, KnownGood, Looked, Meeting, Program
from autotune.launchers import deepspeed, torchrun
from autotune.world.gpu import Gpus
from autotune.world.leases import Leases
from autotune.world.nodes import Members
from autotune.world.overlay import Overlay, held
from autotune.world.run_folder import RunFolder
from autotune.world.seats import look
from autotune.world.yaml_files import Document

VISIBLE = "CUDA_VISIBLE_DEVICES"
# The allocator configuration has a cap of its own from here on (pytorch#161035).
FRACTION_SINCE = (2, 10)


@dataclass(frozen=True)
class Ground:
    """What the job file, the machine and the training's Python say."""

    run_id: str
    job: Job
    document: Document
    job_folder: Path
    folder: RunFolder
    policy: Policy
    rungs: dict[str, Rung]
    framework: Framework
    looked: Looked
    python: str
    versions: Mapping[str, str]
    device: Device
    gpus: Gpus  # its `indices` are those of the attempt that runs, or ran last
    given: tuple[int, ...]  # every GPU that the owner gave the job
    leases: Leases
    signatures: Signatures
    around: Surroundings
    start: Plan
    inputs: Mapping[str, str]  # digests of what the job names by path
    members: Members | None = None  # the other nodes, where the job trains on several
    inherited: Inherited | None = None  # the checkpoint of another run that it goes on from

    @property
    def gpu_indices(self) -> tuple[int, ...]:
        """The GPUs that the job trains on."""
        return self.gpus.indices or ()

    @property
    def device_name(self) -> str:
        """What the driver calls the job's first GPU; `cpu` without one."""
        return self.gpus.name_of(self.gpu_indices[0]) if self.gpu_indices else "cpu"

    @property
    def allocator_limit(self) -> int | None:
        """The cap of each GPU's allocator, bytes: the limit less what lies outside of it."""
        limit = self.job.devices.memory_limit
        if limit is None or self.device == "cpu":
            return limit
        return max(0, limit - self.policy.limits.cuda_context)

    @property
    def tool_folder(self) -> Path:
        """Where a tool of the user's starts, against which its paths are read."""
        return self.job_folder / str(self.job.settings.get("folder", "."))

    @property
    def nodes(self) -> int:
        """How many machines train together."""
        return self.job.launcher.nodes

    def meeting(self, node: int = 0) -> Meeting:
        """Return where the ranks of a node meet those of the first."""
        if self.nodes == 1:
            return Meeting()
        return Meeting(self.nodes, node, self.job.launcher.address or socket.gethostname())

    def overlay(self, plan: Plan) -> Overlay | None:
        """Return the package versions of a plan that are laid over the job's Python."""
        return held(self.folder.overlay(plan.pins)) if plan.pins else None

    def versions_of(self, plan: Plan) -> dict[str, str]:
        """Return the packages that a training of this plan imports, pinned ones included."""
        laid = self.overlay(plan)
        return {**self.versions, **(laid.versions if laid else {})}

    def around_now(self, plans: Iterable[Plan]) -> Surroundings:
        """Return what a rung may look at, with GPUs and packages as they are for these plans."""
        pinned = {plan.pins: self.versions_of(plan) for plan in plans if plan.pins}
        return dataclasses.replace(
            self.around, gpus=self.gpu_indices, broken_gpus=self.gpus.silent(), pinned=pinned
        )

    def seating(self) -> Seating | None:
        """Return how the GPUs given to the job are now; None on the CPU."""
        if self.device == "cpu":
            return None
        may_move = not isinstance(self.job.devices.use, list)
        return Seating(look(self.gpus, self.given, self.leases), may_move)

    def indices_of(self, plan: Plan) -> tuple[int, ...]:
        """Return the GPUs a plan runs on, in the order of its ranks; none on the CPU."""
        left = (index for index in self.gpu_indices if index not in plan.excluded)
        return tuple(left)[: plan.world_size // self.nodes]

    def gpus_of(self, plan: Plan) -> Gpus:
        """Return the GPUs a plan runs on, to be asked."""
        return self.gpus.only(self.indices_of(plan) or None)

    def command(
        self, plan: Plan, started: Program | KnownGood, port: int, node: int = 0
    ) -> tuple[str, ...]:
        """Return the whole command of a program: its own, or ranks under one of our launchers."""
        if started.starts_ranks:
            return started.argv
        if self.nodes > 1:
            # DeepSpeed's launcher would start the others by ssh, which we could not watch.
            ranks, at = plan.world_size // self.nodes, self.meeting(node)
            return torchrun.node_command(
                self.python, started.argv, ranks, port, at.nodes, at.node, at.address
            )
        use_torchrun = started.launcher == "torchrun" or "deepspeed" not in self.versions
        launch = torchrun.command if use_torchrun else deepspeed.command
        return launch(self.python, started.argv, plan.world_size, self.indices_of(plan), port)

    def devices_for(self, plan: Plan, started: Program | KnownGood) -> dict[str, str]:
        """Return what shows a plan's GPUs, and no others, to ranks that we do not place ourselves.

        DeepSpeed's launcher is told which by name, counted as the driver counts them.
        """
        if self.device == "cpu":
            return {}
        by_name = not started.starts_ranks and started.launcher == "deepspeed" and self.nodes == 1
        if by_name and "deepspeed" in self.versions:
            return {}
        return {VISIBLE: ",".join(str(index) for index in self.indices_of(plan))}

    def environment(self, plan: Plan, elsewhere_bytes: int | None = None) -> dict[str, str]:
        """Return what a plan and the device put into the training's environment.

        `elsewhere_bytes` is the memory of another node's devices, for which it is.
        """
        env = deepspeed.environment(self.device)
        if self.device == "cpu" and self.nodes > 1:
            # Else DeepSpeed's ranks share memory as if all were on one machine (shm_interface.cpp).
            env["LOCAL_SIZE"] = str(plan.world_size // self.nodes)
        if plan.blocking_launches:
            env[BLOCKING] = "1"
        settings = plan.allocator
        total, limit = elsewhere_bytes or self.gpus_of(plan).total_bytes(), self.allocator_limit
        torch = parse_version(self.versions.get("torch", "0"))
        if self.device == "cuda" and limit and total and torch >= FRACTION_SINCE:
            fraction = ("per_process_memory_fraction", f"{min(1.0, limit / total):.4f}")
            settings = merge(settings, (fraction,))
        if settings:
            env[NEW_NAME if torch >= (2, 9) else OLD_NAME] = show(settings)
        return env
