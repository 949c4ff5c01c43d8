"""Everything about a run that stays as it is while it runs, found out once at its start."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from autotune.core.allocator import NEW_NAME, OLD_NAME, merge, show
from autotune.core.compatibility import parse_version
from autotune.core.job import Job
from autotune.core.plan import Device, Plan
from autotune.core.policy import Policy
from autotune.core.rung import Rung, Surroundings
from autotune.core.signature import Signatures
from autotune.frameworks.finetune import BLOCKING
from autotune.frameworks.framework import Framework, Looked
from autotune.launchers import deepspeed
from autotune.world.gpu import Gpus
from autotune.world.run_folder import RunFolder
from autotune.world.yaml_files import Document

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
    gpu_indices: tuple[int, ...]
    gpus: Gpus
    signatures: Signatures
    around: Surroundings
    start: Plan
    inputs: Mapping[str, str]  # digests of what the job names by path

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

    def around_now(self) -> Surroundings:
        """Return what a rung may look at, with the GPUs that have stopped answering."""
        return dataclasses.replace(self.around, broken_gpus=self.gpus.silent())

    def indices_of(self, plan: Plan) -> tuple[int, ...]:
        """Return the GPUs a plan runs on, in the order of its ranks; none on the CPU."""
        left = (index for index in self.gpu_indices if index not in plan.excluded)
        return tuple(left)[: plan.world_size]

    def gpus_of(self, plan: Plan) -> Gpus:
        """Return the GPUs a plan runs on, to be asked."""
        return self.gpus.only(self.indices_of(plan) or None)

    def environment(self, plan: Plan) -> dict[str, str]:
        """Return what a plan and the device put into the training's environment."""
        env = deepspeed.environment(self.device)
        if plan.blocking_launches:
            env[BLOCKING] = "1"
        settings = plan.allocator
        total, limit = self.gpus_of(plan).total_bytes(), self.allocator_limit
        torch = parse_version(self.versions.get("torch", "0"))
        if self.device == "cuda" and limit and total and torch >= FRACTION_SINCE:
            fraction = ("per_process_memory_fraction", f"{min(1.0, limit / total):.4f}")
            settings = merge(settings, (fraction,))
        if settings:
            env[NEW_NAME if torch >= (2, 9) else OLD_NAME] = show(settings)
        return env
