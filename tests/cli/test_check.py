"""`autotune check`: every kind of bad input is a sentence with a place, all at once."""

import contextlib
import io
import json
from pathlib import Path
from typing import Any

import pytest

from autotune.cli.check import check as verb
from autotune.cli.speech import speak
from autotune.core.fault import AutotuneError
from tests.e2e.fast_job import MODEL, make_job


def check(job: Path) -> tuple[int, str]:
    """Return the exit code of the verb and what it said."""
    said = io.StringIO()
    with contextlib.redirect_stderr(said), contextlib.redirect_stdout(io.StringIO()):
        try:
            code = verb(job)
        except AutotuneError as error:
            speak(error)
            code = error.exit_code
    return code, said.getvalue()


@pytest.fixture(autouse=True)
def on_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Judge every job as a machine without GPUs would."""
    monkeypatch.setenv("DS_ACCELERATOR", "cpu")


def settings(**changes: Any) -> dict[str, Any]:
    """Return the settings of a good job with `changes`."""
    return {
        "model": dict(MODEL), "tokenizer": "tokenizer", "method": "full", "max_steps": 12,
        "data": {"train": "train.jsonl", "sequence": 16}, "learning_rate": 1e-3, **changes,
    }  # fmt: skip


def test_a_good_job_is_fit_to_run(tmp_path: Path) -> None:
    assert check(make_job(tmp_path)) == (0, "")


@pytest.mark.parametrize("share", ["5%", "50 %", 0, 0.03])
def test_a_share_is_written_in_percent_or_as_a_fraction(tmp_path: Path, share: object) -> None:
    assert check(make_job(tmp_path, climb_back=share)) == (0, "")


def test_all_faults_are_reported_at_once_each_with_its_line(tmp_path: Path) -> None:
    job = make_job(
        tmp_path,
        policy="defualt",
        settings=settings(learning_rat=1, data={"train": "nowhere.jsonl", "sequence": 16}),
        limits={"attempt": 3},
    )

    code, said = check(job)

    assert code == 2
    assert "did you mean `attempts`" in said
    assert "did you mean `default`" in said
    assert "did you mean `learning_rate`" in said
    assert said.count("error: ") >= 3
    assert f"{job}:" in said


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"naem": "x"}, "did you mean `name`"),
        ({"name": "../x"}, "a name is 1 to 100 letters"),
        ({"batch": {"global": "many", "micro": 8}}, "batch.global"),
        ({"batch": {"global": 16, "micro": 0}}, "batch.micro"),
        ({"batch": {"global": 15, "micro": 5}}, "cannot be shared equally by 2 ranks"),
        ({"batch": {"global": 16, "micro": 3}}, "micro-batches that can: 1, 2, 4, 8"),
        ({"devices": {"memory_limit": "24 gigs"}}, "is not a size such as 24GiB"),
        ({"devices": {"use": [0, 1]}}, "names GPUs"),
        ({"climb_back": "90%"}, "`climb_back`: 90% is no share from 0% to 50% of the run's time"),
        ({"climb_back": "lots"}, "is not a share such as 5% or 0.05"),
        ({"limits": {"wall": "soon"}}, "is not a duration such as 48h"),
        ({"env": {"HF_TOKEN": "hf_abcdefghijklmnop"}}, "looks like a secret"),
        ({"env_from": ["NO_SUCH_NAME_HERE"]}, "export NO_SUCH_NAME_HERE first"),
        ({"forbid": ["four_bits"]}, "did you mean `four_bit`"),
        ({"allow": ["shorten_sequense"]}, "`shorten_sequense`"),
        ({"devices": {"use": -1}}, "greater than or equal to 1"),
        ({"framework": "finetunes"}, "framework"),
        ({"start": "guessed"}, "as_given"),
        ({"python": "no/such/python"}, "the training's Python does not start"),
        ({"settings": settings(method="qlora", zero_stage=0)}, "zero_stage"),
        ({"settings": settings(epochs=1.0)}, "keep one of the two"),
        ({"settings": settings(model="no-such-folder")}, "the model folder does not exist"),
        ({"settings": settings(model={"hidden_size": 8})}, "names no `model_type`"),
        ({"settings": settings(tokenizer="no-such")}, "the tokenizer folder does not exist"),
        ({"settings": settings(eval_every=5)}, "nothing to evaluate on"),
        ({"settings": settings(dtype="fp16")}, "not in fp16"),
        (
            {"settings": settings(deepspeed={"train_batch_size": 64})},
            "`train_batch_size` is 64 in the DeepSpeed configuration",
        ),
        (
            {"settings": settings(deepspeed={"optimizer": {"type": "Adam"}})},
            "brings its own optimizer",
        ),
        (
            {"settings": settings(offload_param=True)},
            "works at ZeRO stage 3 only",
        ),
        ({"settings": settings(deepspeed="no-such.json")}, "no-such.json"),
    ],
    ids=lambda value: str(value)[:40] if isinstance(value, str) else "",
)
def test_bad_input_is_a_sentence_and_starts_nothing(
    tmp_path: Path, changes: dict[str, Any], expected: str
) -> None:
    code, said = check(make_job(tmp_path, **changes))

    assert (code, expected in said) == (2, True), said
    assert "Traceback" not in said
    assert not (tmp_path / "runs").exists()


def test_bad_data_lines_are_named_by_their_numbers(tmp_path: Path) -> None:
    job = make_job(tmp_path)
    good = json.dumps({"text": "good"})
    lines = [good, "{not json", good, '{"prompt": "p"}', "[]", '{"messages": []}']
    (tmp_path / "train.jsonl").write_text("\n".join(lines))

    code, said = check(job)

    assert code == 2
    for number in (2, 4, 5, 6):
        assert f"train.jsonl:{number}" in said
    for number in (1, 3):
        assert f"train.jsonl:{number}\n" not in said


def test_empty_data_is_refused(tmp_path: Path) -> None:
    job = make_job(tmp_path)
    (tmp_path / "train.jsonl").write_text("\n\n")

    code, said = check(job)

    assert (code, "holds no samples" in said) == (2, True)


def test_a_model_folder_without_weights_or_config_is_refused(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    job = make_job(tmp_path, settings=settings(model="model"))
    assert "config.json is missing" in check(job)[1]

    (tmp_path / "model" / "config.json").write_text('{"model_type": "llama"}')
    assert "holds no weights" in check(job)[1]


def test_4_bit_under_full_fine_tuning_cannot_be_said(tmp_path: Path) -> None:
    code, said = check(make_job(tmp_path, settings=settings(method="full", quantization="nf4")))

    assert (code, "`settings.quantization` is not a key" in said) == (2, True)


def test_a_disk_too_small_for_a_checkpoint_is_refused(tmp_path: Path) -> None:
    huge = {**MODEL, "hidden_size": 16384, "intermediate_size": 65536, "num_hidden_layers": 400}
    code, said = check(make_job(tmp_path, settings=settings(model=huge)))

    assert (code, "checkpoints and one in the making need about" in said) == (2, True)


@pytest.mark.parametrize(
    "text",
    ["", "just words", "a: [1, 2", "- a\n- list", "a: &x [*x]", "\x00\x01", "? {", "!!python/x y"],
)
def test_a_file_that_is_no_job_is_refused(tmp_path: Path, text: str) -> None:
    job = tmp_path / "job.yaml"
    job.write_text(text)

    code, said = check(job)

    assert (code, said.startswith("error: ")) == (2, True), said
    assert "Traceback" not in said


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    code, said = check(tmp_path / "none.yaml")

    assert (code, "cannot be read" in said) == (2, True)


def test_an_unknown_key_of_a_policy_is_refused_with_its_line(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("name: mine\nsummary: x\nlimit: {}\nrules: []\n")
    job = make_job(tmp_path, policy="./mine.yaml")

    code, said = check(job)

    assert code == 2
    assert "mine.yaml:3" in said
    assert "did you mean `limits`" in said


TUTORIAL = """{
  // copied
  "train_micro_batch_size_per_gpu": "auto",
  "stage": 3,
  "zero_optimization": {
    "stage": 2,
    "reduce_bucket_size": "5e8",
    "stage3_max_live_parameters": 1e9
  }
}
"""


def test_a_deepspeed_file_is_examined_with_the_line_of_each_fault(tmp_path: Path) -> None:
    (tmp_path / "ds.json").write_text(TUTORIAL, encoding="utf-8")

    code, said = check(make_job(tmp_path, settings=settings(deepspeed="ds.json")))

    assert code == 2
    assert said.count("error: ") == 2, said
    assert "`stage` stands in the wrong place" in said
    assert "hint: move it to `zero_optimization.stage`" in said
    assert f"where: {tmp_path / 'ds.json'}:4\n" in said
    assert "write 500000000 without quotes" in said
    assert f"where: {tmp_path / 'ds.json'}:7\n" in said


def test_what_deepspeed_ignores_is_a_note_and_the_job_is_fit_to_run(tmp_path: Path) -> None:
    mended = TUTORIAL.replace('"5e8"', "5e8").replace('"stage": 3,', "")
    (tmp_path / "ds.json").write_text(mended, encoding="utf-8")

    code, said = check(make_job(tmp_path, settings=settings(deepspeed="ds.json")))

    assert (code, "error" in said) == (0, False), said
    assert said.startswith("note: `stage3_max_live_parameters`: read at ZeRO stage 3 only")
    assert f"where: {tmp_path / 'ds.json'}:8\n" in said


def test_a_configuration_inside_the_job_is_examined_with_the_jobs_lines(tmp_path: Path) -> None:
    job = make_job(tmp_path, settings=settings(deepspeed={"zero_optimization": {"bucket": 5}}))

    code, said = check(job)

    assert (code, "`zero_optimization.bucket` is no key of DeepSpeed" in said) == (2, True), said
    assert f"where: {job}:" in said


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (" " * 2**19, "far too large"),
        ("[" * 100_000, "more than 60 deep"),
        ("{1", "a colon is missing"),
        ("[]", "is a mapping of keys"),
        ("", "the file is empty"),
        ("\xff", "is a mapping of keys"),
    ],
    ids=["large", "deep", "broken", "list", "empty", "odd"],
)
def test_a_deepspeed_file_that_cannot_be_read_is_a_sentence(
    tmp_path: Path, text: str, words: str
) -> None:
    (tmp_path / "ds.json").write_text(text, encoding="utf-8")

    code, said = check(make_job(tmp_path, settings=settings(deepspeed="ds.json")))

    assert (code, words in said) == (2, True), said[:500]
