"""A training that prints gigabytes of anything: the supervisor and the disk stay small."""

from pathlib import Path

import pytest

from tests.e2e.fast_job import make_job, run, run_folder, start, trained_steps, until

pytestmark = pytest.mark.e2e

MIB = 2**20


@pytest.mark.parametrize("kind", ["binary", "no_newline", "ansi", "lines"])
def test_a_flood_of_output_neither_grows_nor_stops_the_supervisor(
    tmp_path: Path, kind: str
) -> None:
    job = make_job(
        tmp_path, {"flood": [kind, 300], "total": 20, "seconds": 0.1}, limits={"log_bytes": "8MiB"}
    )
    supervisor = start(job)
    peaks: list[int] = []

    def over() -> bool:
        peaks.append(_resident_peak(supervisor.pid))
        return supervisor.poll() is not None

    until(over, "the end of the run")

    assert supervisor.returncode == 0
    # Imports alone take about half of this; reading 300 MiB whole would show.
    assert 0 < max(peaks) < 160 * MIB
    log = run_folder(job) / "attempts" / "001" / "output.log"
    assert log.stat().st_size < 9 * MIB
    assert log.stat().st_blocks * 512 < 9 * MIB
    assert b"bytes" in log.read_bytes()  # the gap is named where it is
    assert trained_steps(job) == list(range(1, 21))
    assert '"reading":"output' in (run_folder(job) / "journal.jsonl").read_text()


def test_a_quiet_log_is_kept_whole(tmp_path: Path) -> None:
    job = make_job(tmp_path, {"say": "a line of some importance"})

    assert run(job) == 0

    log = (run_folder(job) / "attempts" / "001" / "output.log").read_text()
    assert log.startswith("a line of some importance\n")


def _resident_peak(pid: int) -> int:
    try:
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    return 0
