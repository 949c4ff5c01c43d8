"""Writes the known-good folder: a job file that starts at the plan that ran, and a relaunch."""

import copy
import io
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from autotune.core.allocator import NEW_NAME, OLD_NAME, show
from autotune.core.history import Story
from autotune.core.known_good import as_json, launch_script, proof_file, story_comments
from autotune.core.plan import Plan
from autotune.frameworks.finetune import BLOCKING, train_file
from autotune.frameworks.finetune_at_plan import settings_with_plan
from autotune.frameworks.framework import Setting
from autotune.ground import Ground
from autotune.launchers import deepspeed
from autotune.world.files import make_folder, write_text
from autotune.world.policy_file import find_policy, is_path

RELAUNCH_PORT = 29555


def write_known_good(
    ground: Ground, setting: Setting, story: Story, env: Mapping[str, str], trainer: Path
) -> None:
    """Write job.yaml, launch.sh with its files, ds_config.json and proof.json."""
    folder, plan = ground.folder.known_good, setting.plan
    make_folder(folder)
    comments = story_comments(story, plan)
    train = relocatable(train_file(setting))
    argv = deepspeed.command(
        ground.python, (trainer.name, "train.json"), plan.world_size, ground.indices_of(plan),
        RELAUNCH_PORT,
    )  # fmt: skip
    script = launch_script(
        ground.job.name, argv, {**ground.job.env, **env}, ground.job.env_from, comments
    )
    write_text(folder / "job.yaml", comments + "\n" + known_good_job(ground, plan))
    write_text(folder / "train.json", as_json(train))
    write_text(folder / "ds_config.json", as_json(train["deepspeed"]))
    write_text(folder / "proof.json", as_json(proof_file(story, plan)))
    shutil.copyfile(trainer, folder / trainer.name)
    write_text(folder / "launch.sh", script, mode=0o700)


def relocatable(train: dict[str, Any]) -> dict[str, Any]:
    """Return the trainer's file as a relaunch reads it: from anywhere, and without a supervisor."""
    train = copy.deepcopy(train)
    train["checkpoints"].update(dir="output", resume=None)
    train["continuity"] = None
    train["rehearse"] = False  # a proof was made
    train["channel"].update(events="output/events", control=None)
    return train


def known_good_job(ground: Ground, plan: Plan) -> str:
    """Return the job file that starts at `plan`; paths are absolute, since it lies elsewhere."""
    job: dict[str, Any] = copy.deepcopy(ground.document.value)
    job["batch"] = {"global": plan.global_batch, "micro": plan.micro_batch}
    job["start"] = "as_given"
    job["settings"] = settings_with_plan(
        ground.job, dict(ground.looked.deepspeed), plan, str(ground.job_folder)
    )
    env = dict(ground.job.env)
    if plan.allocator:
        env = {k: v for k, v in env.items() if k not in (NEW_NAME, OLD_NAME)}
        env[NEW_NAME] = show(plan.allocator)
    if plan.blocking_launches:
        env[BLOCKING] = "1"
    if env != ground.job.env:
        job["env"] = env
    if plan.excluded:
        job["devices"] = {**job.get("devices", {}), "use": list(ground.indices_of(plan))}
    if is_path(ground.job.policy):
        job["policy"] = str(find_policy(ground.job.policy, ground.job_folder))
    if ground.job.python:
        job["python"] = ground.python
    text = io.StringIO()
    yaml = YAML()
    yaml.default_flow_style = False
    yaml.width = 100
    yaml.dump(job, text)
    return text.getvalue()
