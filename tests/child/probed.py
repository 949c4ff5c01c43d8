"""Starts small Python programs with the probe laid before them, and reads what it wrote."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from autotune.world.probe_folder import lay_probe, python_path

FAKE_STACK = str(Path(__file__).parent / "fake_stack")
SOURCE = Path(__file__).parents[2] / "autotune" / "child" / "probe"


@dataclass
class Probed:
    """One attempt's folder with the probe in it."""

    folder: Path
    given: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("events", "stacks"):
            (self.folder / name).mkdir(parents=True, exist_ok=True)
        self.control = self.folder / "control.json"
        given = {
            "attempt": 1,
            "events": str(self.folder / "events"),
            "stacks": str(self.folder / "stacks"),
            "control": str(self.control),
            "limit": None,
            "own_events": False,
            "rescue": None,
        }
        self.place = lay_probe(SOURCE, self.folder, {**given, **self.given})

    def environment(
        self, rank: int | None = 0, more_path: str = FAKE_STACK, **more: str
    ) -> dict[str, str]:
        """Return an environment with the way to the probe and then to `more_path`."""
        kept = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("PYTHON", "COV", "AUTOTUNE"))
        }
        ranks = {} if rank is None else {"RANK": str(rank)}
        return {**kept, "PYTHONPATH": python_path(self.place, more_path), **ranks, **more}

    def start(
        self, *argv: str | Path, env: Mapping[str, str] | None = None, **more: Any
    ) -> subprocess.Popen[str]:
        """Start this Python with `argv`, as rank 0 unless `env` says otherwise."""
        return subprocess.Popen(
            [sys.executable, *map(str, argv)],
            env=dict(self.environment() if env is None else env),
            cwd=self.folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            **more,
        )

    def run(
        self, *argv: str | Path, env: Mapping[str, str] | None = None, **more: Any
    ) -> tuple[int, str, str]:
        """Run this Python with `argv`; its exit code, output and errors."""
        process = self.start(*argv, env=env, **more)
        out, err = process.communicate(timeout=300)
        return process.returncode, out, err

    def program(self, text: str, *argv: str, **more: Any) -> tuple[int, str, str]:
        """Run a program of these lines."""
        path = self.folder / "program.py"
        path.write_text(text)
        return self.run(path, *argv, **more)

    def events(self, rank: int = 0, kinds: Sequence[str] = ()) -> list[dict[str, Any]]:
        """Return what this rank wrote, of these kinds or of all."""
        path = self.folder / "events" / f"rank{rank}.jsonl"
        lines = path.read_text().splitlines() if path.exists() else []
        events = [json.loads(line) for line in lines]
        return [event for event in events if not kinds or event["kind"] in kinds]

    def written(self) -> list[str]:
        """Return the names of the event files."""
        return sorted(path.name for path in (self.folder / "events").iterdir())
