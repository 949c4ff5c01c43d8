"""Journals that earlier versions wrote still load, whole and cut at any line.

Each file of tests/journals is the journal of one run under one version, as it was written but
for the name of the boot; a version that changes what a journal holds adds its own.
"""

from pathlib import Path

import pytest

from autotune.core.failure import Failure
from autotune.core.history import fold
from autotune.world.journal import read_journal

JOURNALS = sorted((Path(__file__).parents[1] / "journals").glob("*.jsonl"))


@pytest.mark.parametrize("journal", JOURNALS, ids=lambda path: path.stem)
def test_a_journal_of_an_earlier_version_tells_the_same_story(journal: Path) -> None:
    story = fold(read_journal(journal))
    told = [(one.failure, one.plan.micro_batch) for one in story.attempts]
    assert told == [
        (Failure.DEVICE_OOM, 8),
        (Failure.DEVICE_OOM, 4),
        (Failure.NONE, 2),
    ]
    assert story.attempts[-1].launch.checkpoint_step == 6
    assert story.proof is not None
    assert story.proof.ok
    assert story.ended is not None


@pytest.mark.parametrize("journal", JOURNALS, ids=lambda path: path.stem)
def test_it_loads_wherever_its_writer_died(journal: Path, tmp_path: Path) -> None:
    lines = journal.read_bytes().splitlines(keepends=True)
    for count in range(len(lines)):
        cut = tmp_path / "journal.jsonl"
        cut.write_bytes(b"".join(lines[:count]) + lines[count][:-9])
        assert len(read_journal(cut)) == count
        assert len(fold(read_journal(cut)).attempts) <= 3
