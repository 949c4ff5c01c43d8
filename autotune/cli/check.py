"""`autotune check JOB`: every fault of job, policy, framework configuration and machine at once."""

import sys
from pathlib import Path

from autotune.cli.speech import speak_notes
from autotune.cli.wiring import lay_ground
from autotune.core.fault import CannotLaunch, InputError
from autotune.core.sentence import say_plan
from autotune.foreseeing import shape_of_model
from autotune.frameworks.ds_plan import judged
from autotune.frameworks.ds_remark import AUTO, HF_TRAINER, PLAIN
from autotune.world.yaml_files import read_text


def check(job: Path) -> int:
    """Return 0 when the job can be started; otherwise InputError names every fault."""
    if job.suffix.lower() == ".json":
        text = read_text(job)
        if '"framework"' not in text:
            return _check_deepspeed(job, text)
    try:
        ground = lay_ground(job, None, "check")
    except CannotLaunch as error:  # it may pass, and for now the job cannot be started
        raise InputError(*error.faults) from error
    speak_notes(ground.looked.notes)
    shape = shape_of_model(ground)
    if isinstance(shape, str):
        print(f"note: memory cannot be predicted: {shape}", file=sys.stderr)
    print(f"{job}: fit to run on the {ground.device}: {say_plan(ground.start)}")
    return 0


def _check_deepspeed(path: Path, text: str) -> int:
    """Look at a DeepSpeed configuration by itself, whatever program will read it."""
    # Only a program that fills it in can be meant by "auto".
    use = HF_TRAINER if f'"{AUTO}"' in text else PLAIN
    found = judged(text, str(path), use)
    speak_notes(found.notes)
    if found.faults:
        raise InputError(*found.faults)
    print(f"{path}: DeepSpeed accepts this configuration, read as by {use.who}")
    return 0
