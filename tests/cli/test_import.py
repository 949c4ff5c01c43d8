"""`autotune import` and `autotune run -- COMMAND`: a job file from what people start now."""

import contextlib
import io
import json
import shlex
from pathlib import Path

import pytest

from autotune.cli.check import check
from autotune.cli.drafted import Draft, draft, written
from autotune.cli.import_job import import_job, job_of
from autotune.core.fault import InputError
from autotune.core.job import Job
from autotune.frameworks.placeholders import filled
from autotune.world.yaml_files import read_document, validate

TORCHRUN = "torchrun --nproc_per_node 2 train.py --bs {micro_batch=4} --gas {accumulation=2}"
DS = {
    "train_micro_batch_size_per_gpu": 4,
    "gradient_accumulation_steps": 2,
    "gradient_clipping": 1.0,
    "zero_optimization": {"stage": 2},
}


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DS_ACCELERATOR", "cpu")
    return tmp_path


def made(line: str, here: Path) -> Draft:
    return draft(shlex.split(line), here)


def job_in(path: Path) -> Job:
    return validate(Job, read_document(path))


def said(*words: str, output: Path | None = None) -> str:
    """Return what is refused, as one text."""
    with pytest.raises(InputError) as caught:
        import_job(words, output)
    return "; ".join(f"{fault.what} {fault.hint}" for fault in caught.value.faults)


def test_a_command_line_becomes_a_job_that_starts_it(here: Path) -> None:
    assert import_job(shlex.split(TORCHRUN), None) == 0
    text = (here / "train.job.yaml").read_text()
    job = job_in(here / "train.job.yaml")
    assert (job.name, job.framework) == ("train", "command")
    assert job.settings == {"command": shlex.split(TORCHRUN), "folder": "."}
    assert "# batch: {global: 16, micro: 4}" in text


def test_a_command_in_one_word_is_read_as_a_shell_would_without_running_it(here: Path) -> None:
    one = draft(["OMP_NUM_THREADS=2 python 'my train.py' --json '{\"a\": 1}' > log"], here)
    assert one.command == ("python", "my train.py", "--json", '{{"a": 1}}')
    assert one.env == {"OMP_NUM_THREADS": "2"}
    assert filled(one.command, {})[3] == '{"a": 1}'


def test_a_shell_script_gives_its_command_folder_and_variables(here: Path) -> None:
    (here / "sub").mkdir()
    (here / "run.sh").write_text(
        "export CUDA_VISIBLE_DEVICES=1,3 WANDB_API_KEY=abcdef\ncd sub\npython train.py\n"
    )
    one = made("run.sh", here)
    assert (one.name, one.folder, one.devices) == ("run", here / "sub", (1, 3))
    assert (one.env, one.env_from) == ({}, ("WANDB_API_KEY",))
    text = written(one, here)
    assert "abcdef" not in text
    assert "devices: {use: [1, 3]}" in text


def test_the_batch_is_read_from_the_tools_own_configuration(here: Path) -> None:
    (here / "ds.json").write_text(json.dumps(DS))
    line = "deepspeed --num_gpus 2 train.py --deepspeed_config ds.json"
    one = made(line, here)
    assert one.framework == "deepspeed"
    assert "# batch: {global: 16, micro: 4}" in written(one, here)


def test_nothing_is_ever_overwritten(here: Path) -> None:
    target = here / "job.yaml"
    target.write_text("mine")
    assert "left as it is" in said("python", "t.py", output=target)
    assert target.read_text() == "mine"


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (["nowhere.yaml"], "cannot be read"),
        (["python a.py | python b.py"], "a pipe"),
        (["torchrun"], "no program"),
        ([], "nothing to import"),
    ],
)
def test_what_is_not_understood_is_said(words: list[str], why: str) -> None:
    assert why in said(*words)


def test_configs_that_start_nothing_by_themselves_are_told_apart(here: Path) -> None:
    (here / "ds.json").write_text(json.dumps(DS))
    (here / "job.yaml").write_text("name: x\nframework: command\nsettings: {command: [a]}\n")
    (here / "other.yaml").write_text("a: 1\n")
    assert "autotune check ds.json" in said("ds.json")
    assert "a job file already" in said("job.yaml")
    assert "no tool is known" in said("other.yaml")


def test_a_command_line_is_run_from_its_run_folder_and_found_there_again(here: Path) -> None:
    words = ["python", "train.py", "--lr", "1"]
    job, folder = job_of(words, None)
    assert job == here / "runs" / "train" / "job.yaml"
    assert folder == job.parent
    assert job_in(job).settings["folder"] == str(here)
    job.write_text(job.read_text() + "checkpoints: {keep: 5}\n")  # by its owner
    (job.parent / "journal.jsonl").write_text("")
    assert job_of(words, None) == (job, folder)
    assert job_in(job).checkpoints.keep == 5


def test_a_run_of_another_command_line_is_left_alone(here: Path) -> None:
    job, _ = job_of(["python", "train.py", "--lr", "1"], None)
    job_of(["python", "train.py", "--lr", "2"], None)  # nothing was started yet
    (job.parent / "journal.jsonl").write_text("")
    with pytest.raises(InputError, match="another command line"):
        job_of(["python", "train.py", "--lr", "3"], None)
    assert job_in(job).settings["command"][-1] == "2"


def test_a_strangers_folder_gets_no_job_file(here: Path) -> None:
    (here / "mine").mkdir()
    (here / "mine" / "notes.txt").write_text("x")
    with pytest.raises(InputError, match="not a run folder"):
        job_of(["python", "train.py"], here / "mine")
    assert [path.name for path in (here / "mine").iterdir()] == ["notes.txt"]


def test_a_job_file_is_itself(here: Path) -> None:
    assert job_of(["job.yaml"], None) == (Path("job.yaml"), None)
    with pytest.raises(InputError, match="one job is run at a time"):
        job_of(["a.yaml", "b.yaml"], None)


def test_an_imported_job_passes_its_own_check(here: Path) -> None:
    (here / "ds.json").write_text(json.dumps(DS))
    import_job(shlex.split("deepspeed --num_gpus 2 train.py --deepspeed_config ds.json"), None)
    with contextlib.redirect_stdout(io.StringIO()) as out:
        assert check(here / "train.job.yaml") == 0
    assert "micro-batch 4 × accumulation 2 × 2 ranks, ZeRO 2" in out.getvalue()


def test_a_deepspeed_configuration_is_looked_at_by_itself(here: Path) -> None:
    place = here / "ds.json"
    place.write_text(json.dumps(DS))
    with contextlib.redirect_stdout(io.StringIO()) as out:
        assert check(place) == 0
    assert "as by a plain DeepSpeed program" in out.getvalue()
    place.write_text(json.dumps({**DS, "train_batch_size": "auto", "reduce_bucket_size": 5}))
    with pytest.raises(InputError, match="wrong place"):
        check(place)
