"""A trace that hangs, floods, aborts or talks nonsense is a sentence, and leaves nothing behind."""

import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from autotune.core.memory.activations import Activations, Point
from autotune.core.memory.traced import Traced, Untraced
from autotune.world.process import marked
from autotune.world.tracing import Tracer, trace

GOOD = {
    "case": 0, "ok": True, "forward": 10, "backward": [[12, 0], [3, 7]], "evaluation": 5,
    "loss": 4, "overhead": 2, "overhead_expandable": 1, "seconds": 0.5,
}  # fmt: skip
MARK = "trace-of-a-test"


def never() -> bool:
    return False


def ask(
    folder: Path,
    program: str,
    seconds: float = 20,
    cases: int = 1,
    stop: Callable[[], bool] = never,
    python: str = sys.executable,
) -> list[Traced | Untraced]:
    """Run a stand-in for the tracer."""
    path = folder / "stand_in.py"
    path.write_text("import json, os, signal, sys, time, subprocess\n" + program)
    tracer = Tracer(python, path, folder / "trace", {"PATH": "/usr/bin:/bin"}, MARK, seconds)
    answers = trace(tracer, {"cases": [{}] * cases}, stop)
    assert marked(MARK) == []
    assert not tracer.folder.is_dir()
    return answers


def sentence(answers: list[Traced | Untraced]) -> str:
    (answer,) = answers
    assert isinstance(answer, Untraced)
    return answer.why


def saying(**changes: object) -> str:
    return f"print({json.dumps({**GOOD, **changes})!r})"


def test_an_answer_becomes_activations(tmp_path: Path) -> None:
    points = (Point(12, 0), Point(3, 7))
    wanted = Traced(Activations(10, points, 5, 4), 2, 1, 0.5)
    assert ask(tmp_path, saying()) == [wanted]


def test_a_case_that_failed_says_why_and_the_others_stand(tmp_path: Path) -> None:
    failed = json.dumps({"case": 0, "ok": False, "error": "no such class"})
    first, second = ask(tmp_path, f"print({failed!r})\n{saying(case=1)}", cases=2)
    assert first == Untraced("no such class")
    assert isinstance(second, Traced)


@pytest.mark.long
def test_a_trace_that_hangs_is_ended_and_keeps_what_it_said(tmp_path: Path) -> None:
    program = f"{saying()}\nsys.stdout.flush()\nsignal.signal(15, signal.SIG_IGN)\ntime.sleep(999)"
    first, second = ask(tmp_path, program, seconds=2, cases=2)
    assert isinstance(first, Traced)
    assert second == Untraced("the tracer was ended: it took more than 2 s")


@pytest.mark.long
def test_children_of_a_trace_are_ended_with_it(tmp_path: Path) -> None:
    program = "subprocess.Popen(['sleep', '999'], start_new_session=True)\n" + saying()
    assert isinstance(ask(tmp_path, program, seconds=3)[0], Traced)


def test_a_stop_ends_the_trace(tmp_path: Path) -> None:
    assert "a stop was asked for" in sentence(ask(tmp_path, "time.sleep(999)", stop=lambda: True))


def test_a_flood_of_answers_is_cut_off(tmp_path: Path) -> None:
    program = "while True: sys.stdout.write('x' * 65536)"
    assert "said too much" in sentence(ask(tmp_path, program))


def test_a_flood_of_errors_does_not_matter(tmp_path: Path) -> None:
    program = f"for _ in range(100): sys.stderr.write('x' * 2**20)\n{saying()}"
    assert isinstance(ask(tmp_path, program)[0], Traced)


def test_an_abort_names_its_signal(tmp_path: Path) -> None:
    assert sentence(ask(tmp_path, "os.abort()")) == "the tracer was ended by signal 6"


def test_an_error_before_any_case_is_the_reason_for_all(tmp_path: Path) -> None:
    words = json.dumps({"ok": False, "error": "there is no torch"})
    answers = ask(tmp_path, f"print({words!r})\nsys.exit(1)", cases=2)
    assert answers == [Untraced("there is no torch")] * 2


@pytest.mark.parametrize(
    "changes",
    [
        {"forward": -1}, {"forward": 1.5}, {"forward": True}, {"forward": 10**30},
        {"backward": None}, {"backward": [[1]]}, {"backward": [1]}, {"loss": "much"},
        {"seconds": "long"},
    ],
)  # fmt: skip
def test_numbers_that_cannot_be_are_refused(tmp_path: Path, changes: dict[str, object]) -> None:
    assert sentence(ask(tmp_path, saying(**changes))) == "the tracer's answer could not be read"


@pytest.mark.parametrize("words", ["", "[]", "nonsense", "\\x00\\xff", "[" * 5000])
def test_nonsense_is_a_sentence(tmp_path: Path, words: str) -> None:
    assert sentence(ask(tmp_path, f"print({words!r})")).startswith("the tracer")


def test_a_python_that_is_not_there_is_a_sentence(tmp_path: Path) -> None:
    assert sentence(ask(tmp_path, "", python="/no/such/python")).startswith(
        "the tracer could not be started"
    )


def test_no_room_for_a_file_of_the_tracer_is_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "trace").write_text("in the way")
    assert sentence(ask(tmp_path, saying())).startswith("the tracer could not be started")
