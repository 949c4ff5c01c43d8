"""`autotune status [RUN]`: where a run is on its ladder, read from its journal and events alone."""

import json
import time
from pathlib import Path
from typing import Any

from autotune.cli.speech import say_lines
from autotune.cli.stop import orphans
from autotune.cli.terminal import describe
from autotune.core.codec import to_plain
from autotune.core.faithful import as_plain, say_faith
from autotune.core.fault import Fault, InputError
from autotune.core.history import Attempt, Story, fold
from autotune.core.plan import Plan, changes
from autotune.core.record import Finish, Launch, Prove, Wait
from autotune.core.sentence import lost_steps, say_attempt, say_launch, say_wait, tell_story
from autotune.core.units import show_seconds
from autotune.core.view import View
from autotune.world.event_file import EventFolder
from autotune.world.host import data_bytes
from autotune.world.journal import read_journal
from autotune.world.nodes import Board, Terms
from autotune.world.run_folder import RunFolder, holder, open_run_folder

EVENT_BYTES = 8 * 2**20  # of a rank, beside its first, that are read; a day of steps is less


def status(run: Path | None, watch: bool, as_json: bool) -> int:
    """Print where the run is; with `watch`, again every second until it has ended."""
    folder = open_run_folder(run if run is not None else _newest())
    while True:
        story = fold(read_journal(folder.journal))
        view = _view(folder, story.last)
        state = _state(folder, story)
        if as_json:
            print(json.dumps(_as_json(story, view, state)), flush=True)
        else:
            say_lines(_as_text(folder, story, view, state))
        if not watch or state not in ("running", "waiting", "stopping"):
            return 0
        time.sleep(1)


def _newest() -> Path:
    runs = sorted(
        (path.parent for path in Path("runs").glob("*/journal.jsonl")),
        key=lambda path: (path / "journal.jsonl").stat().st_mtime,
    )
    if not runs:
        text = "no run is named, and none lies below ./runs"
        raise InputError(Fault(text, "", "autotune status RUN, with the folder that `run` named"))
    return runs[-1]


def _view(folder: RunFolder, attempt: Attempt | None) -> View:
    view = View()
    if attempt is not None:
        place = folder.attempt(attempt.number) / "events"
        events = EventFolder(place, lag_bytes=EVENT_BYTES)
        while found := events.poll():
            for event in found:
                view.see({**event.fields, "kind": event.kind, "rank": event.rank})
    return view


def _state(folder: RunFolder, story: Story) -> str:
    if holder(folder) is None:
        if story.ended:
            return story.ended.state
        # Nobody supervises: the training may live on alone; else the run can be gone on with.
        return "running" if orphans(folder) else "stopped"
    if story.stop_asked or folder.tells_stop():
        return "stopping"
    return "waiting" if isinstance(story.pending, Wait) else "running"


def _as_json(story: Story, view: View, state: str) -> dict[str, Any]:
    last = story.last
    return {
        "state": state,
        "waiting_for": story.pending.why if isinstance(story.pending, Wait) else None,
        "attempt": last.number if last else None,
        "step": view.step,
        "total_steps": view.total,
        "plan": to_plain(last.plan) if last else None,
        "faithfulness": as_plain(story),
        "history": [
            {
                "attempt": attempt.number,
                "failure": attempt.failure.value if attempt.failure else None,
                "changes": to_plain(changes(before, attempt.plan)),
                "trial_of": attempt.launch.trial_of,
                "lost_steps": lost_steps(attempt),
            }
            for before, attempt in zip(_plans_before(story), story.attempts, strict=True)
        ],
    }


def _plans_before(story: Story) -> list[Plan]:
    """Return for each attempt the plan it followed; for the first the job's own."""
    if story.started is None:
        return []
    return [story.started.plan, *(one.plan for one in story.attempts[:-1])][: len(story.attempts)]


def _nodes(board: Board, terms: Terms) -> list[str]:
    """Return one line for each of the other nodes."""
    found = [(number, board.node(number)) for number in range(1, terms.nodes)]
    return [
        f"  node {number}: {f'{node.host}, ranks run' if node.runs else f'{node.host}, no ranks'}"
        if node
        else f"  node {number}: has not come; there: autotune join {board.run}"
        for number, node in found
    ]


def _as_text(folder: RunFolder, story: Story, view: View, state: str) -> list[str]:
    name = story.started.job_name if story.started else "?"
    lines = [f"{name}: {state}  ({folder.path})"]
    if state == "running" and holder(folder) is None:
        lines.append("nobody supervises it any more; the same `autotune run` takes it up")
    last, pending = story.last, story.pending
    if last is not None and isinstance(pending, (Launch, Prove)):
        terms = Board(folder.path).terms()  # of other nodes the process ids mean nothing here
        here = view.ranks_below(terms.ranks if terms else None)
        held = [data_bytes(pid) for pid in here.values()]
        most = max((size for size in held if size is not None), default=None)
        limit = view.settings.get("soft_limit_bytes")
        lines.append(say_attempt(last.launch))
        lines.append("  " + describe(view, most, limit if isinstance(limit, int) else None))
        if view.step and view.total and view.step_seconds:
            left = show_seconds((view.total - view.step) * view.step_seconds)
            lines.append(f"  about {left} to go at {view.step_seconds:.1f} s a step")
        if terms:
            lines += _nodes(Board(folder.path), terms)
    if isinstance(pending, Wait):
        lines.append(say_wait(pending))
    if isinstance(pending, Finish) or state == "finished":
        lines.append(f"known-good: {folder.known_good}")
    if last is not None:
        lines.append(f"last decision: {say_launch(last.launch)}")
    if any(one.launch.checkpoint_step for one in story.attempts):
        lines.append(f"against an undisturbed run: {say_faith(story)}")
    return [*lines, "", *tell_story(story)]
