"""Writes the known-good folder: a job file that starts at the plan that ran, and a relaunch."""

import copy
import dataclasses
import io
import shutil
from collections.abc import Mapping
from typing import Any

from ruamel.yaml import YAML

from autotune.core.allocator import NEW_NAME, OLD_NAME, show
from autotune.core.history import Story
from autotune.core.known_good import as_json, launch_script, proof_file, story_comments
from autotune.core.plan import BLOCKING, Plan
from autotune.frameworks.framework import Setting
from autotune.ground import VISIBLE, Ground
from autotune.world.files import make_folder, sync, write_text
from autotune.world.overlay import Overlay
from autotune.world.policy_file import find_policy, is_path
from autotune.world.probe_folder import python_path

RELAUNCH_PORT = 29555
PINS = "pins.txt"


def write_known_good(ground: Ground, setting: Setting, story: Story) -> None:
    """Write job.yaml, launch.sh with the tool's own files, and proof.json."""
    folder, plan, job = ground.folder.known_good, setting.plan, ground.job
    good = ground.framework.known_good(setting)
    make_folder(folder)
    comments = story_comments(story, plan)
    argv = ground.command(plan, good, RELAUNCH_PORT)
    env = {**good.env, **job.env, **ground.environment(plan), **ground.devices_for(plan, good)}
    laid = ground.overlay(plan)
    if laid is not None:
        env["PYTHONPATH"] = python_path(laid.path, env.get("PYTHONPATH"))
        write_text(folder / PINS, pinned(laid))
    script = launch_script(job.name, argv, env, job.env_from, comments, good.folder)
    for node in range(1, ground.nodes):
        there = dataclasses.replace(setting, meeting=ground.meeting(node))
        own = ground.framework.known_good(there)
        start = ground.command(plan, own, RELAUNCH_PORT, node)
        # Which GPUs are free there is for whoever starts it to say.
        shared = {name: value for name, value in env.items() if name != VISIBLE}
        text = launch_script(
            job.name, start, {**shared, **own.env}, job.env_from, comments, own.folder
        )
        write_text(folder / f"launch-node-{node}.sh", text, mode=0o700)
    write_text(folder / "job.yaml", comments + "\n" + known_good_job(ground, plan, good.settings))
    for name, text in good.files.items():
        write_text(folder / name, text)
    for name, source in good.copies.items():
        (folder / name).unlink(missing_ok=True)  # a link that was planted there is not followed
        shutil.copyfile(source, folder / name)
        (folder / name).chmod(0o600)
        sync(folder / name)
    write_text(folder / "proof.json", as_json(proof_file(story, plan)))
    write_text(folder / "launch.sh", script, mode=0o700)
    for named in (folder, folder.parent):  # the journal says next that the run is finished
        sync(named)


def pinned(laid: Overlay) -> str:
    """Return the requirements of an overlay, which say themselves how to make it again."""
    lines = (
        "# These versions lie over the training's Python: launch.sh names the folder under",
        "# PYTHONPATH. Without that folder, make another and name it there:",
        f"#   python -m pip install --no-deps --only-binary :all: --target FOLDER -r {PINS}",
        *laid.requirements,
    )
    return "\n".join(lines) + "\n"


def known_good_job(ground: Ground, plan: Plan, settings: Mapping[str, Any]) -> str:
    """Return the job file that starts at `plan`; paths are absolute, since it lies elsewhere."""
    job: dict[str, Any] = copy.deepcopy(ground.document.value)
    job["batch"] = {"global": plan.global_batch, "micro": plan.micro_batch}
    job["start"] = "as_given"
    job["settings"] = copy.deepcopy(dict(settings))
    env = dict(ground.job.env)
    if plan.allocator:
        env = {k: v for k, v in env.items() if k not in (NEW_NAME, OLD_NAME)}
        env[NEW_NAME] = show(plan.allocator)
    if plan.blocking_launches:
        env[BLOCKING] = "1"
    if env != ground.job.env:
        job["env"] = env
    laid = ground.overlay(plan)
    if laid is not None:
        wheels = ground.job.pins.wheels
        pins: dict[str, Any] = {"packages": list(laid.names()), "use": "always"}
        where = {"wheels": str(ground.job_folder / wheels)} if wheels else {}
        job["pins"] = {**pins, **where}
    if plan.excluded:
        job["devices"] = {**job.get("devices", {}), "use": list(ground.indices_of(plan))}
    elif ground.gpu_indices and ground.job.devices.use == "auto":
        # What auto finds another time may be another number of ranks than was proven.
        ranks = plan.world_size // ground.nodes
        job["devices"] = {**job.get("devices", {}), "use": ranks}
    if ground.inherited is not None:
        again = {"continue_from": ground.inherited.source}
        job["checkpoints"] = {**job.get("checkpoints", {}), **again}
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
