"""Any command line under the real supervisor: it fails, its places change, it comes to its end."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from autotune.world.yaml_files import read_document

pytestmark = pytest.mark.e2e

PROGRAM = """
import sys
micro, accumulation = map(int, sys.argv[1:3])
if micro > 4:
    text = "DefaultCPUAllocator: can't allocate memory: you tried to allocate 134217728 bytes."
    raise RuntimeError("[enforce fail at alloc_cpu.cpp:118] . " + text)
print("trained", micro, accumulation)
"""


def started(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "DS_ACCELERATOR": "cpu", "XDG_STATE_HOME": str(folder / "state")}
    env["PYTHONPATH"] = str(Path(__file__).parents[2])
    return subprocess.run(
        [sys.executable, "-m", "autotune.cli.app", "run", *words],
        cwd=folder, env=env, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip


def test_a_command_without_a_job_file_is_recovered_by_its_places(tmp_path: Path) -> None:
    (tmp_path / "train.py").write_text(PROGRAM)
    words = ("--", "python", "train.py", "{micro_batch=16}", "{accumulation=2}")
    done = started(tmp_path, *words)
    assert done.returncode == 0, done.stderr
    run = tmp_path / "runs" / "train"
    assert (run / "attempts" / "003" / "output.log").read_text().strip() == "trained 4 8"
    good = read_document(run / "known-good" / "job.yaml").value
    assert good["settings"]["command"] == [
        "python",
        "train.py",
        "{micro_batch=4}",
        "{accumulation=8}",
    ]
    relaunched = subprocess.run(
        [str(run / "known-good" / "launch.sh")], capture_output=True, text=True, check=True
    )
    assert relaunched.stdout.strip() == "trained 4 8"
    assert "trained to its end" in done.stderr
    again = started(tmp_path, *words)  # it is over, and says so
    assert again.returncode == 0
    assert not (run / "attempts" / "004").exists()


def test_a_program_that_fails_without_a_place_for_anything_is_given_up(tmp_path: Path) -> None:
    (tmp_path / "train.py").write_text("import sys\nsys.exit('ValueError: no such data')\n")
    done = started(tmp_path, "--", "python", "train.py")
    assert done.returncode == 1, done.stderr
    assert "gave up" in done.stderr
