"""A training that attacks its supervisor costs itself: nothing hangs, leaks or is touched."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from autotune.core.record import RunStarted
from autotune.world.journal import read_journal
from autotune.world.process import Survivors, end_all
from tests.e2e.fast_job import left_behind, make_job, run, run_folder, start, terminal
from tests.zoo import malicious

pytestmark = pytest.mark.e2e

SECRET = "hf_QxW8uYt5RkPz3NvBc7LmDs2Jf9Gh4A1e"
SHARED = Path("/dev/shm")


class Owner:
    """An owner with something to lose: files, a process, shared memory."""

    def __init__(self, folder: Path) -> None:
        self.precious = folder / "precious"
        # What a half-written save, an op and a lock look like to us, but for where they lie.
        half = self.precious / "checkpoint-99"
        half.mkdir(parents=True)
        (half / "autotune-begun.json").touch()
        (self.precious / "lock").write_text("held")
        (self.precious / "file").write_text("precious\n" * 1000)
        (self.precious / "rank0.json").write_text("{}")
        self.segment = SHARED / f"autotune-test-{os.getpid()}"
        self.segment.write_bytes(b"precious")
        self.process = subprocess.Popen(["sleep", "600"])
        self.before = self.held()

    def kept(self) -> bool:
        """Return whether nothing is gone or changed; a training may write where it likes."""
        now = self.held()
        added = {
            Path(path).relative_to(self.precious).parts[0] for path in now.keys() - self.before
        }
        # What the training writes itself: its checkpoints, and the stacks of its ranks.
        saves = all(name.startswith(("checkpoint-", "rank")) for name in added)
        return saves and all(now.get(path, "gone") == held for path, held in self.before.items())

    def held(self) -> dict[str, object]:
        """Return all that must stay as it is."""
        paths = sorted(self.precious.rglob("*"))
        held: dict[str, object] = {
            str(path): path.read_bytes() if path.is_file() else None for path in paths
        }
        return {**held, "segment": self.segment.exists(), "process": self.process.poll()}

    def end(self) -> None:
        """Take away what the test made."""
        self.process.kill()
        self.process.wait()
        self.segment.unlink(missing_ok=True)


@pytest.fixture
def owner(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Owner]:
    found = Owner(tmp_path)
    monkeypatch.setenv("PRECIOUS", str(found.precious))
    monkeypatch.setenv("VICTIM", str(found.process.pid))
    monkeypatch.setenv("SHARED", found.segment.name)
    monkeypatch.setenv("GIVEN_TOKEN", SECRET)
    monkeypatch.setenv("WITHHELD_TOKEN", SECRET[::-1])
    yield found
    found.end()


def attacked_job(folder: Path, attacks: str) -> Path:
    job = make_job(
        folder / "job",
        env_from=["GIVEN_TOKEN"],
        limits={"log_bytes": "1MiB", "wall": "20s", "attempts": 3},
    )
    program = Path(malicious.__file__)
    python = job.parent / "python"
    python.write_text(f'#!/bin/sh\nexec "{sys.executable}" "{program}" {attacks} "$@"\n')
    return job


@pytest.mark.parametrize("attacks", malicious.ATTACKS)
def test_no_attack_hangs_us_breaks_us_or_reaches_what_is_not_the_runs(
    attacks: str, owner: Owner, tmp_path: Path
) -> None:
    job = attacked_job(tmp_path, attacks)
    for _ in range(2):  # the second time it goes on from what the attack left, or refuses in words
        supervisor = start(job)
        try:
            code = supervisor.wait(timeout=120)
        finally:
            supervisor.kill()
            end_all(Survivors(run_id_of(job) + "/001"), term_grace=0)
        assert code in (0, 1, 3), terminal(job)
        assert owner.kept()
        assert left_behind(job) == []
    assert "bug in autotune" not in terminal(job)


def run_id_of(job: Path) -> str:
    events = read_journal(run_folder(job) / "journal.jsonl")
    return next(event.run_id for event in events if isinstance(event, RunStarted))


def test_what_a_training_says_reaches_no_terminal_as_orders(owner: Owner, tmp_path: Path) -> None:
    job = attacked_job(tmp_path, "words")
    run(job)
    shown = terminal(job)
    for verb in (["status", str(run_folder(job))], ["explain", str(run_folder(job))]):
        done = subprocess.run(
            [sys.executable, "-m", "autotune.cli.app", *verb],
            capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
        shown += done.stdout + done.stderr
    assert "pwned" in shown  # it was said, and came through as harmless words
    assert [char for char in shown if not (char.isprintable() or char == "\n")] == []
    assert "\nforged line" not in shown


def test_secrets_stand_in_nothing_that_we_write(owner: Owner, tmp_path: Path) -> None:
    job = attacked_job(tmp_path, "words")
    run(job)
    assert "GIVEN_TOKEN" in (run_folder(job) / "attempts/001/command.json").read_text()
    said_by_the_training = {"output.log", "rank0.jsonl"}
    ours = [
        path
        for path in run_folder(job).rglob("*")
        if path.is_file() and path.name not in said_by_the_training
    ]
    assert (run_folder(job) / "journal.jsonl") in ours
    for secret in (SECRET, SECRET[::-1]):
        assert [path for path in ours if secret.encode() in path.read_bytes()] == []
        assert secret not in terminal(job)
    assert SECRET in (run_folder(job) / "attempts/001/output.log").read_text()


def test_what_we_write_is_the_owners_alone_whatever_the_umask(owner: Owner, tmp_path: Path) -> None:
    job = attacked_job(tmp_path, "words")
    before = os.umask(0)
    try:
        run(job)
    finally:
        os.umask(before)
    folder = run_folder(job)
    assert folder.stat().st_mode & 0o777 == 0o700
    theirs = {"checkpoints", "events", "ops", "stacks"}  # below them the training itself writes
    ours = [path for path in folder.rglob("*") if not theirs & set(path.relative_to(folder).parts)]
    assert [str(p) for p in ours if p.is_file() and p.stat().st_mode & 0o077] == []
