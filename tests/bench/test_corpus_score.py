"""The diagnosis of a corpus of real logs does not get worse."""

from typing import Any

import pytest

from autotune.world.signature_file import load_signatures
from tests.bench.score_corpus import CORPUS, Score, read, report, score

FIRST: list[dict[str, Any]] = [
    {"id": "a", "label": "disk_full", "text": "OSError: [Errno 28] No space left on device"},
    {"id": "b", "label": "none", "text": "RuntimeError: CUDA error: out of memory", "rank": 3},
    {"id": "c", "label": "none", "text": "{'loss': 2.1}", "why": "[contested] who knows"},
]


def test_a_score_counts_contested_logs_apart_and_names_every_false_alarm() -> None:
    result = score(FIRST, load_signatures())
    assert (len(result.counted), result.accuracy()) == (2, 0.5)
    assert result.f1() == {"disk_full": 1.0, "none": 0.0}
    assert [v.id for v in result.false_alarms()] == ["b"]
    assert result.ranks() == (1, 0)
    assert any(line.startswith("  b: none, found device_oom") for line in report(result))


@pytest.fixture(scope="module")
def scored() -> Score:
    if not CORPUS.is_file():
        pytest.skip(f"there is no corpus at {CORPUS.name}")
    return score(read([CORPUS]), load_signatures())


def test_the_corpus_is_named_as_its_readers_named_it(scored: Score) -> None:
    assert scored.macro_f1() >= 0.97, "\n".join(report(scored))


def test_no_healthy_log_of_the_corpus_is_called_a_failure(scored: Score) -> None:
    assert not scored.false_alarms(), "\n".join(report(scored))


def test_ranks_and_figures_of_the_corpus_are_read_right(scored: Score) -> None:
    named, same = scored.ranks()
    assert same == named
    stated = sum(v.figures[0] for v in scored.counted)
    assert sum(v.figures[1] for v in scored.counted) == stated
