"""Everything about a run that stays as it is while it runs, found out once at its start."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from autotune.core.job import Job
from autotune.core.plan import Device, Plan
from autotune.core.policy import Policy
from autotune.core.rung import Rung, Surroundings
from autotune.core.signature import Signatures
from autotune.frameworks.framework import Framework, Looked
from autotune.world.gpu import Gpus
from autotune.world.run_folder import RunFolder
from autotune.world.yaml_files import Document


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
