"""The settings of a tool that the user has already: a command, and no secrets in it."""

import pytest
from pydantic import ValidationError

from autotune.core.job import Job
from autotune.frameworks.foreign import Foreign, command_of, foreign_of, settings_with
from tests import builders

WORDS = ["python", "train.py", "--lr", "1e-4"]


@pytest.mark.parametrize(
    "word",
    [
        "HF_TOKEN=anything",
        "WANDB_API_KEY=anything",
        "hf_abcdefghijklmnopqrst",
        "--hub_token=hf_abcdefghijklmnopqrst",
    ],
)
def test_a_secret_in_the_command_is_refused_without_saying_it_again(word: str) -> None:
    with pytest.raises(ValidationError) as raised:
        Foreign(command=[word, *WORDS])
    message = str(raised.value.errors()[0]["msg"])
    assert "looks like a secret" in message
    assert word.rpartition("=")[2] not in message


@pytest.mark.parametrize("word", ["--pad_token=<pad>", "OMP_NUM_THREADS=1", "HF_TOKEN=", "a=b"])
def test_what_only_looks_alike_is_taken(word: str) -> None:
    assert Foreign(command=[word, *WORDS])


@pytest.mark.parametrize("given", [{}, {"command": WORDS, "config": "a.yaml"}, {"command": []}])
def test_there_is_one_command(given: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        Foreign.model_validate(given)


def job(settings: object) -> Job:
    return builders.job(framework="hf", settings=settings, batch=None)


def test_a_path_alone_stands_for_the_tools_own_config() -> None:
    assert foreign_of(job("train.yaml")) == Foreign(config="train.yaml")


def test_settings_are_said_again_with_changes_and_without_what_repeats_a_default() -> None:
    given = job({"command": WORDS, "folder": ".", "sequence": 512})
    assert command_of(given) == WORDS
    again = settings_with(given, command=["python", "b.py"], model=None)
    assert again == {"command": ["python", "b.py"], "sequence": 512}
