"""Words of the known-good: the story as comments, the proof, and a script without autotune."""

import json
import shlex
from typing import Any

from autotune.core.faithful import as_plain, say_faith
from autotune.core.history import Story
from autotune.core.plan import Plan
from autotune.core.sentence import changed_from_start, printable, say_plan, tell_story


def story_comments(story: Story, plan: Plan) -> str:
    """Return the story of the run as YAML or shell comments."""
    proof = story.proof
    lines = [
        "Known-good configuration, written by autotune.",
        f"The plan that ran: {say_plan(plan)}.",
        f"Changed against the job as given: {changed_from_start(story, plan)}.",
        f"Proof: {proof.why if proof else 'unproven; the job asked for no proof'}.",
        f"Against an undisturbed run: {say_faith(story)}.",
        "",
        "The story:",
        *tell_story(story),
    ]
    # What a child said stands in here; a bare carriage return would end the comment.
    shown = (printable(line) for text in lines for line in text.split("\n"))
    return "".join(f"# {line}".rstrip() + "\n" for line in shown)


def proof_file(story: Story, plan: Plan) -> dict[str, Any]:
    """Return the content of proof.json."""
    proof = story.proof
    return {
        "proven": bool(proof and proof.ok),
        "why": proof.why if proof else "unproven: the job asked for no proof",
        "step": proof.step if proof else None,
        "loss": proof.loss if proof else None,
        "eval_loss": proof.eval_loss if proof else None,
        "peak_bytes": proof.peak_bytes if proof else None,
        "attempts": len(story.attempts),
        "plan": say_plan(plan),
        "faithfulness": as_plain(story),
    }


def launch_script(
    name: str,
    argv: tuple[str, ...],
    env: dict[str, str],
    env_from: list[str],
    comments: str,
    folder: str | None = None,
) -> str:
    """Return a POSIX shell script that starts the training without autotune.

    `argv` begins with the interpreter; names in `env_from` hold secrets and are only named. It
    starts in `folder`, or beside the script where that is None.
    """
    python, *rest = argv
    exports = [f"export {key}={shlex.quote(value)}" for key, value in sorted(env.items())]
    needed = [f': "${{{key}:?export {key} first}}"' for key in env_from]
    command = " ".join(shlex.quote(part) for part in rest)
    return "\n".join(
        [
            "#!/bin/sh",
            f"# Trains {name} with the known-good plan, without autotune: sh launch.sh",
            "# Checkpoints go to `output` beside this file; PYTHON names another interpreter.",
            comments.rstrip("\n"),
            "set -eu",
            f"cd {shlex.quote(folder)}" if folder else 'cd "$(dirname "$0")"',
            *exports,
            *needed,
            f"INTERPRETER={shlex.quote(python)}",
            'PYTHON="${PYTHON:-$INTERPRETER}"',
            "# DeepSpeed compiles extensions with the ninja that lies beside the interpreter.",
            'PATH="$(dirname "$PYTHON"):$PATH"; export PATH',
            f'exec "$PYTHON" {command}',
            "",
        ]
    )


def as_json(value: Any) -> str:
    """Return JSON as our files hold it."""
    return json.dumps(value, indent=1) + "\n"
