"""`autotune check JOB`: every fault of job, policy, framework configuration and machine at once."""

from pathlib import Path

from autotune.cli.wiring import lay_ground
from autotune.core.sentence import say_plan


def check(job: Path) -> int:
    """Return 0 when the job can be started; otherwise InputError names every fault."""
    ground = lay_ground(job, None, "check")
    print(f"{job}: fit to run on the {ground.device}: {say_plan(ground.start)}")
    return 0
