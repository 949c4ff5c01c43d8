"""What the owner wants outlives whatever else the ranks are told."""

import fcntl
import json
import multiprocessing
import os
import threading
from pathlib import Path
from typing import Any

import pytest

from autotune.core.fault import AlreadyRunning
from autotune.world.run_folder import RunFolder, RunLock, holder
from tests.e2e.fast_job import until


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    return RunFolder(tmp_path)


def said(folder: RunFolder) -> dict[str, Any]:
    held: dict[str, Any] = json.loads(folder.control.read_text())
    return held


def test_a_stop_is_still_known_when_ranks_were_told_to_save_and_to_end(folder: RunFolder) -> None:
    folder.ask_stop("autotune stop")
    folder.tell_ranks_to_rescue(1, 7, 1)
    assert folder.stop_asked_by() == "autotune stop"
    folder.release_ranks(1)
    folder.tell_ranks_to_stop("an end of ours")
    folder.tell_ranks_of_end()
    assert folder.stop_asked_by() == "autotune stop"
    assert folder.tells_stop()
    assert said(folder)["command"] == "end"
    folder.clear_stop()
    assert folder.stop_asked_by() is None
    assert said(folder) == {"seq": 6, "command": "run", "by": "autotune"}


def test_a_stop_of_ours_is_nobodys_wish(folder: RunFolder) -> None:
    folder.tell_ranks_to_stop("another plan")
    assert folder.tells_stop()
    assert folder.stop_asked_by() is None
    folder.tell_ranks_of_end()
    assert not folder.tells_stop()


def test_a_stop_that_an_older_autotune_wrote_is_one(folder: RunFolder) -> None:
    folder.control.write_text(json.dumps({"seq": 3, "command": "stop", "by": "somebody"}))
    assert folder.stop_asked_by() == "somebody"
    folder.release_ranks(1)
    assert folder.stop_asked_by() == "somebody"
    assert said(folder)["seq"] == 4


def test_one_supervises_and_whoever_asks_is_told_who(folder: RunFolder) -> None:
    assert holder(folder) is None
    lock = RunLock(folder)
    assert holder(folder) == os.getpid()
    with pytest.raises(AlreadyRunning, match=f"process {os.getpid()}"):
        RunLock(folder)
    lock.release()
    assert holder(folder) is None
    RunLock(folder).release()


def test_who_asks_while_another_starts_is_not_in_the_way(folder: RunFolder) -> None:
    folder.lock.touch()
    begun: list[RunLock] = []
    with folder.lock.open() as asking:
        fcntl.flock(asking, fcntl.LOCK_SH)  # one that asked before the start, and is slow
        starting = threading.Thread(target=lambda: begun.append(RunLock(folder)))
        starting.start()
        until(lambda: holder(folder) is not None, "a start that is seen while it waits")
        with folder.lock.open() as other:
            fcntl.flock(other, fcntl.LOCK_SH | fcntl.LOCK_NB)  # no flock is held yet
        assert begun == []
    starting.join()
    assert len(begun) == 1
    assert holder(folder) == os.getpid()
    begun[0].release()


def test_an_autotune_that_knows_only_the_flock_is_heeded_and_heeds_us(
    folder: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("autotune.world.run_folder.ASKED_SECONDS", 0.0)
    folder.lock.write_text('{"pid": 7}')
    with folder.lock.open("r+") as older:
        fcntl.flock(older, fcntl.LOCK_EX)
        assert holder(folder) == 7
        with pytest.raises(AlreadyRunning, match="process 7"):
            RunLock(folder)
    lock = RunLock(folder)
    with folder.lock.open() as older, pytest.raises(BlockingIOError):
        fcntl.flock(older, fcntl.LOCK_SH | fcntl.LOCK_NB)
    lock.release()


def ask_on(path: Path) -> None:
    folder = RunFolder(path)
    while not (path / "enough").exists():
        holder(folder)


def test_no_number_of_readers_keeps_a_start_away(folder: RunFolder) -> None:
    folder.lock.touch()
    many = multiprocessing.get_context("fork")
    readers = [many.Process(target=ask_on, args=(folder.path,)) for _ in range(12)]
    for reader in readers:
        reader.start()
    try:
        for _ in range(5):
            RunLock(folder).release()
    finally:
        (folder.path / "enough").touch()
        for reader in readers:
            reader.join()
