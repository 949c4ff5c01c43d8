"""What the owner wants outlives whatever else the ranks are told."""

import json
from pathlib import Path
from typing import Any

import pytest

from autotune.world.run_folder import RunFolder


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
