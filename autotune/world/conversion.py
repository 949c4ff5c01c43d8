"""Runs the checkpoint converter in the training's Python and returns its one line of answer."""

import json
import subprocess
from collections.abc import Mapping
from pathlib import Path

LONGEST_SECONDS = 6 * 3600  # a very large checkpoint from a slow disk


def convert(
    python: str, converter: Path, request: Mapping[str, object], env: Mapping[str, str]
) -> dict[str, object]:
    """Return the converter's answer; `ok` is false, with the error, where it gave none."""
    try:
        done = subprocess.run(
            [python, str(converter), json.dumps(request)],
            capture_output=True, text=True, errors="replace", env=env,
            timeout=LONGEST_SECONDS, check=False, stdin=subprocess.DEVNULL,
        )  # fmt: skip
        answer = json.loads(done.stdout.strip().splitlines()[-1])
    except (OSError, subprocess.SubprocessError, ValueError, IndexError) as error:
        return {"ok": False, "error": f"the converter failed ({error})"}
    return answer if isinstance(answer, dict) else {}
