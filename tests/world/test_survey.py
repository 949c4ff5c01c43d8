"""The survey of the rows is run elsewhere, and whatever happens to it is told in a sentence."""

import json
import os
import sys
from pathlib import Path

import pytest

from autotune.core.memory.survey import Surveyed
from autotune.world.process import Survivors, process_alive
from autotune.world.survey import survey

FOUND = {
    "rows": 9, "steps": 3, "longest": [64, 16], "tokens_mean": 20.5,
    "eval_rows": 1, "eval_longest": [8],
}  # fmt: skip


def run(
    tmp_path: Path, script: str, longest_seconds: float = 60.0, stop: bool = False
) -> Surveyed | str:
    """Survey with a trainer that is this script."""
    trainer = tmp_path / "trainer.py"
    trainer.write_text(f"import json, os, subprocess, sys, time\n{script}\n")
    mark = f"{tmp_path.name}/survey"
    env = dict(os.environ)
    answer = survey(
        sys.executable, trainer, tmp_path / "t.json", env, mark, lambda: stop, longest_seconds
    )
    assert Survivors(mark).alive() == ()
    return answer


def test_what_was_found_is_returned(tmp_path: Path) -> None:
    script = f"assert sys.argv[1] == '--survey'\nprint('chatter')\nprint({json.dumps(FOUND)!r})"
    assert run(tmp_path, script) == Surveyed(9, 3, (64, 16), 20.5, 1, (8,))


def test_a_failed_survey_says_its_last_words(tmp_path: Path) -> None:
    answer = run(tmp_path, "raise ValueError('rows.jsonl:3: not JSON')")
    assert answer == "the survey of the rows failed: ValueError: rows.jsonl:3: not JSON"


@pytest.mark.parametrize(
    "said",
    [
        "", "{", "[]", "{}", "9", "[" * 9999,
        json.dumps({**FOUND, "rows": "many"}),
        json.dumps({**FOUND, "longest": []}),
        json.dumps({**FOUND, "longest": [8] * 65}),
        json.dumps({**FOUND, "eval_longest": [-1]}),
        json.dumps({**FOUND, "tokens_mean": float("nan")}),
    ],
    ids=lambda said: said[:40],
)  # fmt: skip
def test_an_answer_that_makes_no_sense_is_none(tmp_path: Path, said: str) -> None:
    answer = run(tmp_path, f"print({said!r})")
    assert isinstance(answer, str)
    assert "no answer that can be read" in answer


def test_a_survey_that_takes_too_long_is_ended_with_all_it_started(tmp_path: Path) -> None:
    told = tmp_path / "pid"
    script = (
        "child = subprocess.Popen(['sleep', '600'], start_new_session=True)\n"
        f"open({str(told)!r}, 'w').write(str(child.pid))\ntime.sleep(600)"
    )
    answer = run(tmp_path, script, longest_seconds=1.0)
    assert answer == "the survey of the rows was ended: it took more than 1 seconds"
    assert not told.exists() or not process_alive(int(told.read_text()))


def test_a_stop_ends_the_survey(tmp_path: Path) -> None:
    answer = run(tmp_path, "time.sleep(600)", stop=True)
    assert answer == "the survey of the rows was ended: a stop was asked for"


def test_a_flood_of_words_is_not_kept(tmp_path: Path) -> None:
    script = f"print('x' * 50_000_000)\nprint({json.dumps(FOUND)!r})"
    assert isinstance(run(tmp_path, script), Surveyed)


def test_a_process_that_holds_the_pipe_does_not_hold_us(tmp_path: Path) -> None:
    script = f"subprocess.Popen(['sleep', '600'])\nprint({json.dumps(FOUND)!r})"
    assert isinstance(run(tmp_path, script), Surveyed)


def test_a_python_that_is_not_there_is_told(tmp_path: Path) -> None:
    answer = survey("/no/python", tmp_path, tmp_path, {}, "mark", lambda: False)
    assert isinstance(answer, str)
    assert "could not be started" in answer
