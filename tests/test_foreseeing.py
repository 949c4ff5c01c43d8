"""What predictions rest on is found out once, and what cannot be found out is said."""

import json
from pathlib import Path
from typing import Any

import pytest

from autotune.cli.wiring import lay_ground
from autotune.core.memory.survey import Surveyed
from autotune.core.memory.traced import Traced
from autotune.foreseeing import Foreseer
from autotune.world import host
from autotune.world.overlay import Overlay
from autotune.world.tracing import Tracer
from tests.e2e.fast_job import MODEL, make_job

FOUND = Surveyed(rows=4, steps=12, longest=(16, 8), tokens_mean=3.0)


class Teller:
    """Keeps what is told."""

    def __init__(self) -> None:
        self.notes: list[str] = []

    def event(self, event: object) -> None:
        """Nothing happens here."""

    def progress(self, attempt: int, view: object, bytes_now: int | None) -> None:
        """Nothing runs here."""

    def note(self, text: str) -> None:
        """Keep a sentence."""
        self.notes.append(text)


class Surveys:
    """Stands in for the training's Python, and counts how often it is asked."""

    def __init__(self, answer: Surveyed | str = FOUND) -> None:
        self.answer = answer
        self.asked = 0

    def __call__(self, *_: Any) -> Surveyed | str:
        """Return the answer."""
        self.asked += 1
        return self.answer


@pytest.fixture(autouse=True)
def _on_the_cpu(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("DS_ACCELERATOR", "cpu")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    # Asking an interpreter for its packages and reading signatures take seconds, and none of these
    # tests turns on them.
    found = {"torch": "2.13.0+cpu", "deepspeed": "0.19.8"}
    monkeypatch.setattr("autotune.cli.wiring.versions", lambda *_: found)
    monkeypatch.setattr("autotune.cli.wiring.load_signatures", lambda **_: None)


def foreseer(folder: Path, **job: Any) -> Foreseer:
    path = make_job(folder, **{"policy": "default", **job})
    return Foreseer(lay_ground(path, None, "run"), folder / "survey", Teller(), lambda: False)


def settings(folder: Path, **changes: Any) -> dict[str, Any]:
    from ruamel.yaml import YAML

    job = YAML(typ="safe").load(make_job(folder).read_text())
    return {**job["settings"], **changes}


def test_the_rows_are_surveyed_once_for_a_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    surveys = Surveys()
    monkeypatch.setattr("autotune.foreseeing.survey", surveys)
    for _ in range(2):  # a run that is started again
        found = foreseer(tmp_path).foresight()
        assert found is not None
        assert found.subject.sequence == 16
    assert surveys.asked == 1


@pytest.mark.parametrize("spoilt", ["", "[]", '{"asked": {}, "found": {}}', "\x00"])
def test_a_spoilt_answer_is_asked_for_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, spoilt: str
) -> None:
    surveys = Surveys()
    monkeypatch.setattr("autotune.foreseeing.survey", surveys)
    foreseer(tmp_path).foresight()
    (tmp_path / "survey" / "answer.json").write_text(spoilt)
    assert foreseer(tmp_path).foresight() is not None
    assert surveys.asked == 2


def test_other_rows_are_surveyed_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    surveys = Surveys()
    monkeypatch.setattr("autotune.foreseeing.survey", surveys)
    first = foreseer(tmp_path)
    first.foresight()
    answer = json.loads((tmp_path / "survey" / "answer.json").read_text())
    answer["asked"]["inputs"]["data.train"] = "another digest"
    (tmp_path / "survey" / "answer.json").write_text(json.dumps(answer))
    foreseer(tmp_path).foresight()
    assert surveys.asked == 2


def test_without_a_survey_every_row_is_taken_to_be_as_long_as_it_may_be(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("autotune.foreseeing.survey", Surveys("it took too long"))
    seer = foreseer(tmp_path)
    found = seer.foresight()
    assert found is not None
    assert found.subject.sequence == 16
    assert any("it took too long" in doubt for doubt in seer.doubts)


def test_a_policy_that_climbs_in_order_asks_for_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    surveys = Surveys()
    monkeypatch.setattr("autotune.foreseeing.survey", surveys)
    seer = foreseer(tmp_path, policy="in_order")
    assert seer.foresight() is None
    assert "in_order" in seer.why_not
    assert surveys.asked == 0


def test_a_config_without_sizes_is_not_guessed_at(tmp_path: Path) -> None:
    model = {key: value for key, value in MODEL.items() if key != "hidden_size"}
    seer = foreseer(tmp_path, settings=settings(tmp_path, model=model))
    assert seer.foresight() is None
    assert "hidden size" in seer.why_not


def test_a_config_that_contradicts_its_weights_is_not_believed(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(MODEL))
    (folder / "model.safetensors").write_bytes(b"\0" * 900_000)
    (folder / "tokenizer.json").write_text("{}")
    seer = foreseer(tmp_path, settings=settings(tmp_path, model=str(folder), tokenizer=None))
    assert seer.foresight() is None
    assert "one of the two is not this model's" in seer.why_not


def test_a_neighbours_memory_is_no_part_of_the_room(monkeypatch: pytest.MonkeyPatch) -> None:
    class Machine:
        total, available = 64 * 2**30, 2**30

    monkeypatch.setattr("psutil.virtual_memory", Machine)
    assert host.room_of_a_rank(None, 2) == 32 * 2**30
    assert host.room_of_a_rank(8 * 2**30, 2) == 4 * 2**30


def test_a_pinned_plan_is_traced_with_the_packages_it_pins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seer = foreseer(tmp_path)
    ground = seer._ground
    given: list[str] = []
    pinned = ground.start.but(pins=("transformers<5",))
    place = ground.folder.overlay(pinned.pins)
    laid = Overlay(place, ("transformers==4.57.6 --hash=x",), {"transformers": "4.57.6"})
    monkeypatch.setattr("autotune.ground.held", lambda folder: laid if folder == place else None)

    def trace(tracer: Tracer, *_: object) -> list[Traced]:
        given.append(tracer.env.get("PYTHONPATH", ""))
        return []

    monkeypatch.setattr("autotune.foreseeing.trace", trace)
    monkeypatch.setattr("autotune.foreseeing.survey", Surveys())
    foresight = seer.foresight()
    assert foresight is not None
    seer._trace(foresight, [ground.start])
    seer._trace(foresight, [pinned])
    assert [path.startswith(str(laid.path)) for path in given] == [False, True]
    assert ground.versions_of(pinned)["transformers"] == "4.57.6"
    assert ground.around_now([pinned]).versions_for(pinned)["transformers"] == "4.57.6"
    assert "transformers" not in ground.around_now([pinned]).versions_for(ground.start)
