"""Looks at what is installed in the job's Python, in a throwaway process that may hang or die."""

import json
from collections.abc import Mapping
from pathlib import Path

from autotune.core.doctor.facts import Part, Stack
from autotune.world.throwaway import lines_of

PARTS = ("python", "build", "torch", "deepspeed", "bitsandbytes")
PART_SECONDS = 90.0  # without an answer; an import from a cold network disk is slow, not stuck


def look_at_stack(
    python: str, program: Path, env: Mapping[str, str], part_seconds: float = PART_SECONDS
) -> Stack:
    """Return what child/doctor.py, the `program`, found.

    A part that hangs or dies is left out, and the rest is asked anew.
    """
    found: dict[str, Part] = {}
    left = list(PARTS)
    while left:
        try:
            answers, began, why = _ask([python, "-u", str(program)], env, left, part_seconds)
        except OSError as error:
            return Stack(python, f"{error.strerror or error}")
        found.update(answers)
        blamed = next((name for name in left if name not in found), None)
        if blamed is None:
            break
        if blamed not in began:
            # The program itself did not come to its first part.
            return Stack(python, why or "it gave no answer", found)
        found[blamed] = Part(error=why or "it ended without an answer")
        left = left[left.index(blamed) + 1 :]
    return Stack(python, "", found)


def _ask(
    argv: list[str], env: Mapping[str, str], names: list[str], seconds: float
) -> tuple[dict[str, Part], set[str], str]:
    answered = 0

    def goes_on(piece: bytes) -> bool:
        # Progress is an answer, and there are no more of them than parts.
        nonlocal answered
        answered += piece.count(b"\n")
        return b"\n" in piece and answered <= 2 * len(names)

    lines, why = lines_of([*argv, *names], env, seconds, goes_on)
    answers: dict[str, Part] = {}
    began: set[str] = set()
    for line in lines:
        told = _read(line)
        begins, part = told.get("begins"), told.get("part")
        if begins in names:
            began.add(str(begins))
        elif part in names:
            error, held = told.get("error"), told.get("told")
            answers[str(part)] = Part(
                str(error)[:2000] if error is not None else None,
                {str(key): value for key, value in held.items()} if isinstance(held, dict) else {},
            )
    return answers, began, why


def _read(line: str) -> dict[str, object]:
    try:
        told = json.loads(line)
    except (ValueError, RecursionError):
        return {}
    return told if isinstance(told, dict) else {}
