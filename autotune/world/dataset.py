"""Reads a data file line by line and reports the bad ones by number, in bounded memory."""

import hashlib
import json
from pathlib import Path

from autotune.core.fault import Fault
from autotune.core.sample import fault_in

LONGEST_LINE_BYTES = 64 * 2**20
MOST_FAULTS = 20  # more of the same help nobody


def check_dataset(path: Path) -> tuple[str, list[Fault]]:
    """Return a digest of the file's content and what is wrong with it."""
    samples = 0
    digest = hashlib.sha256()
    faults: list[Fault] = []
    hidden = 0
    try:
        with path.open("rb") as file:
            for number, line in enumerate(iter(lambda: file.readline(LONGEST_LINE_BYTES), b""), 1):
                digest.update(line)
                if not line.strip():
                    continue
                fault = _fault_in_line(line)
                if fault is None:
                    samples += 1
                elif len(faults) < MOST_FAULTS:
                    faults.append(Fault(fault, f"{path}:{number}", "mend or delete the line"))
                else:
                    hidden += 1
    except OSError as error:
        text = f"the data cannot be read ({error.strerror})"
        return "", [Fault(text, str(path), "check the path and its permissions")]
    if hidden:
        faults.append(Fault(f"{hidden} more lines are wrong", str(path)))
    if samples == 0 and not faults:
        faults.append(Fault("the data holds no samples", str(path), "name a file that does"))
    return digest.hexdigest()[:16], faults


def _fault_in_line(line: bytes) -> str | None:
    if len(line) >= LONGEST_LINE_BYTES:
        return "the line is longer than 64 MiB"
    try:
        sample = json.loads(line)
    except (ValueError, RecursionError) as error:
        return f"the line is not JSON ({error})"
    return fault_in(sample)
