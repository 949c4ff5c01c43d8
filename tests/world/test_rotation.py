"""Logs of attempts that are over are cut short, the oldest first, and nothing else is touched."""

import os
from pathlib import Path

from autotune.world.event_file import EventFolder
from autotune.world.rotation import KEPT_BYTES, rotate

MIB = 2**20


def attempt(attempts: Path, number: int, size: int, at: float = 1000.0) -> Path:
    """Write an attempt's log of numbered lines, changed at `at`."""
    folder = attempts / f"{number:03d}"
    (folder / "events").mkdir(parents=True)
    (folder / "diagnosis.json").write_text("x" * MIB)
    log = folder / "output.log"
    line = b"%015d\n"
    log.write_bytes(b"".join(line % n for n in range(size // 16)))
    os.utime(log, (at, at))
    return log


def test_the_oldest_are_cut_until_all_together_fit(tmp_path: Path) -> None:
    logs = [attempt(tmp_path, n, 2 * MIB) for n in (1, 2, 3, 4)]
    assert rotate(tmp_path, 5 * MIB, 0.0) == tuple(logs[:2])
    sizes = [log.stat().st_size for log in logs]
    assert all(size <= KEPT_BYTES for size in sizes[:2])
    assert sizes[2:] == [2 * MIB, 2 * MIB]
    kept = logs[0].read_bytes()
    assert kept.startswith(b"%015d\n" % 0)
    assert kept.endswith(b"%015d\n" % (2 * MIB // 16 - 1))
    assert b"bytes of output are left out here" in kept
    assert (logs[0].parent / "diagnosis.json").stat().st_size == MIB
    assert rotate(tmp_path, 5 * MIB, 0.0) == ()


def test_what_is_too_old_is_cut_whatever_it_takes(tmp_path: Path) -> None:
    old, new = attempt(tmp_path, 1, MIB, at=10.0), attempt(tmp_path, 2, MIB, at=30.0)
    assert rotate(tmp_path, 100 * MIB, 20.0) == (old,)
    assert new.stat().st_size == MIB


def test_what_leads_elsewhere_is_not_followed(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_bytes(b"x" * MIB)
    log = attempt(tmp_path / "attempts", 1, 16)
    log.unlink()
    log.symlink_to(victim)
    proof = tmp_path / "attempts" / "proof"
    proof.mkdir()
    (proof / "output.log").write_bytes(b"x" * MIB)
    assert rotate(tmp_path / "attempts", 0, 1e12) == ()
    assert victim.stat().st_size == MIB
    assert rotate(tmp_path / "nowhere", 0, 1e12) == ()


def test_events_of_a_long_attempt_keep_their_head_and_tail_while_they_are_written(
    tmp_path: Path,
) -> None:
    path = tmp_path / "rank0.jsonl"
    ours, seen = EventFolder(tmp_path, 4 * MIB), 0
    with path.open("ab") as file:
        for step in range(20_000):
            file.write(b'{"kind": "step", "step": %d, "pad": "%s"}\n' % (step, b"x" * 1000))
            if step % 500 == 499:
                file.flush()
                seen += len(ours.poll())
        file.flush()
        while found := ours.poll():
            seen += len(found)
    assert seen == 20_000
    assert path.stat().st_blocks * 512 <= 5 * MIB
    assert path.stat().st_size > 19 * MIB
    # Who reads it later, as `autotune status` does, passes over what is gone.
    later, steps = EventFolder(tmp_path), []
    while found := later.poll():
        steps += [event.fields["step"] for event in found]
    assert (steps[0], steps[-1]) == (0, 19_999)
    assert len(steps) < 5000
