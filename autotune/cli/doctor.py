"""`autotune doctor [JOB]`: is this machine fit to train, what will it cost, and what to do."""

import json
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from autotune import child
from autotune.cli.job_needs import Asked, asked_of
from autotune.cli.speech import say_lines
from autotune.core.doctor import facts as of
from autotune.core.doctor.examine import as_plain, as_text, examine, is_fit
from autotune.core.doctor.facts import Facts
from autotune.core.evidence import Gap
from autotune.world import ops_cache
from autotune.world.build_locks import look_at_builds
from autotune.world.cgroup import ROOT, make_cgroup, own_cgroup
from autotune.world.disk_speed import look_at_disk
from autotune.world.driver import look_at_driver
from autotune.world.environment import child_environment
from autotune.world.host_memory import host_memory
from autotune.world.job_stack import look_at_stack
from autotune.world.own_limits import own_limits
from autotune.world.ports import look_at_network
from autotune.world.systemd_seen import look_at_systemd
from autotune.world.time_sync import ClockWatch

UNFIT = 2
PROGRAM = Path(child.__file__).parent / "doctor.py"
_TRY_BYTES = 64 * 2**20  # limit of the group that is made to see whether one can be

Look = TypeVar("Look")


def doctor(job: Path | None, as_json: bool, hub: bool = False) -> int:
    """Print what was found; 0 when nothing stops a training, 2 when something would.

    Raises InputError when the job file itself is wrong.
    """
    facts = look(asked_of(job), hub, lambda text: print(text, file=sys.stderr))
    findings = examine(facts)
    if as_json:
        print(json.dumps(as_plain(findings)))
    else:
        wide = shutil.get_terminal_size((100, 24)).columns
        say_lines(as_text(findings, wide))
    return 0 if is_fit(findings) else UNFIT


def look(asked: Asked, hub: bool, tell: Callable[[str], object]) -> Facts:
    """Look at everything once; what cannot be looked at is left out and named."""
    unread: dict[str, str] = {}

    def guarded(area: str, look: Callable[[], Look], otherwise: Look) -> Look:
        try:
            return look()
        except Exception as error:  # one reader that breaks must not cost the others
            unread[area] = f"{type(error).__name__}: {error}"[:300]
            return otherwise

    clock = ClockWatch()
    tell(f"looking into {asked.python}; imports take their time")
    env = child_environment(asked.python, asked.env, [], {})
    stack = guarded(
        "python", lambda: look_at_stack(asked.python, PROGRAM, env), of.Stack(asked.python)
    )
    return Facts(
        gpus=guarded("driver", look_at_driver, of.Gpus()),
        stack=stack,
        builds=guarded("builds", lambda: look_at_builds(_ours(asked, stack)), of.Builds()),
        memory=guarded("memory", host_memory, of.Memory()),
        limits=guarded("limits", own_limits, of.Limits()),
        groups=guarded("cgroup", _groups, of.Groups()),
        service=guarded("systemd", look_at_systemd, of.Service()),
        disk=look_at_disk(asked.run_folder),
        network=guarded("ports", lambda: look_at_network(hub), of.Network()),
        clock=guarded("clock", clock.read, of.Clock()),
        needs=asked.needs,
        unread=unread,
    )


def _ours(asked: Asked, stack: of.Stack) -> tuple[Path, ...]:
    """Where autotune builds extensions for this Python and this run."""
    parts = {name: stack.part(name) for name in ("torch", "deepspeed")}
    versions = {name: part.text("version") or "" for name, part in parts.items() if part}
    return (ops_cache.cache_folder(versions, asked.python), asked.run_folder / "ops")


def _groups() -> of.Groups:
    """See what group we live in, and make one and take it away again."""
    own = own_cgroup()
    made = make_cgroup(f"autotune-doctor-{os.getpid()}", _TRY_BYTES)
    why = made.why if isinstance(made, Gap) else ""
    if not isinstance(made, Gap):
        made.remove()
    version = str(own.version) if own else ""
    if own and own.version == 1 and (ROOT / "unified").is_dir():
        version = "1, beside a version 2 without the memory controller"
    return of.Groups(version, own.limit_bytes() if own else None, not why, why)
