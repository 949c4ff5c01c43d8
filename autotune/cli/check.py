"""`autotune check JOB`: every fault of job, policy, framework configuration and machine at once."""

import sys
from pathlib import Path

from autotune.cli.speech import speak_notes
from autotune.cli.wiring import lay_ground
from autotune.core.sentence import say_plan
from autotune.foreseeing import shape_of_model


def check(job: Path) -> int:
    """Return 0 when the job can be started; otherwise InputError names every fault."""
    ground = lay_ground(job, None, "check")
    speak_notes(ground.looked.notes)
    shape = shape_of_model(ground)
    if isinstance(shape, str):
        print(f"note: memory cannot be predicted: {shape}", file=sys.stderr)
    print(f"{job}: fit to run on the {ground.device}: {say_plan(ground.start)}")
    return 0
