"""`autotune outcomes` lists what earlier runs taught, and forgets it when asked."""

import json
from pathlib import Path

import pytest

from autotune.cli.outcomes import in_words, outcomes, short_plan
from autotune.core.fault import CannotRecord
from autotune.world.outcome_store import OutcomeStore
from tests.builders import plan
from tests.outcomes import outcome


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> OutcomeStore:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    store = OutcomeStore()
    store.add(outcome(1100))
    store.add(outcome(1540, died=True, of=plan(micro_batch=16), step_seconds=None))
    return store


def test_the_list_says_what_was_predicted_and_what_was_needed(
    store: OutcomeStore, capsys: pytest.CaptureFixture[str]
) -> None:
    assert outcomes(as_json=False, forget=False) == 0
    said = capsys.readouterr()
    head, stable, died = said.out.splitlines()
    assert head.split() == ["day", "model", "on", "plan", "predicted", "needed", "s/step"]
    assert "2026-11-21  llama 2.36M  cpu 4 GiB" in stable
    assert "full bf16, 8×1×2, ZeRO 2, 64 tokens" in stable
    assert stable.split()[-5:] == ["1000.00", "MiB", "1.07", "GiB", "2"]
    assert died.endswith("> 1.50 GiB, died")
    assert max(len(line) for line in (head, stable, died)) <= 120
    assert f"2 outcomes in {store.path}" in said.err


def test_the_list_as_json_is_all_that_is_held(
    store: OutcomeStore, capsys: pytest.CaptureFixture[str]
) -> None:
    assert outcomes(as_json=True, forget=False) == 0
    told = json.loads(capsys.readouterr().out)
    assert [one["ended"] for one in told] == ["stable", "device_oom"]
    assert told[0]["plan"]["micro_batch"] == 8


def test_forgetting_says_what_is_gone(
    store: OutcomeStore, capsys: pytest.CaptureFixture[str]
) -> None:
    assert outcomes(as_json=False, forget=True) == 0
    assert capsys.readouterr().err == f"forgot 2 of {store.path}\n"
    assert outcomes(as_json=False, forget=False) == 0
    said = capsys.readouterr()
    assert (said.out, said.err) == ("", f"no outcomes in {store.path}\n")


def test_a_store_that_cannot_be_deleted_is_an_error(store: OutcomeStore) -> None:
    assert store.path is not None
    store.path.unlink()
    store.path.mkdir()
    with pytest.raises(CannotRecord, match="cannot be deleted"):
        outcomes(as_json=False, forget=True)


def test_a_store_that_cannot_be_trusted_is_a_note(
    store: OutcomeStore, capsys: pytest.CaptureFixture[str]
) -> None:
    assert store.path is not None
    store.path.chmod(0o666)
    assert outcomes(as_json=False, forget=False) == 0
    said = capsys.readouterr()
    assert said.out == ""
    assert "note: the outcomes of earlier runs cannot be read" in said.err


def test_a_model_and_a_plan_are_said_in_few_words() -> None:
    assert in_words(outcome().sizes) == "llama 2.36M"
    given = plan(method="lora", quantization="nf4", activation_checkpointing=True, loss="chunked")
    assert short_plan(given) == "qlora bf16, 8×1×2, ZeRO 2, ckpt, chunked loss"
