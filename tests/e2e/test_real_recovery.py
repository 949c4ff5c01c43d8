"""The whole story with nothing simulated: real DeepSpeed, a kernel's refusal, recovery, proof."""

import contextlib
import json
import os
import random
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from autotune.world.checkpoints import SENTINEL, Checkpoint, inspect, newest
from tests.e2e import fast_job
from tests.e2e.fast_job import until
from tests.e2e.real_job import begin, make_data, make_job, nobody_left, peaks, story_of_steps

pytestmark = pytest.mark.train


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the quickstart's data and tokenizer."""
    return make_data(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def undisturbed(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the run folder of the same job without a limit."""
    job = make_job(tmp_path_factory.mktemp("undisturbed"), data, None, proof=False)
    assert autotune(job) == 0
    return job.parent / "runs" / "real"


@pytest.fixture(scope="module")
def recovered(data: Path, undisturbed: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the run folder of the same job under a limit that it does not fit, with its proof."""
    seed = int(os.environ.get("AUTOTUNE_TEST_SEED", random.SystemRandom().randrange(10**6)))
    # Micro-batch 8 took `top`; a third of that is the process itself before any sample.
    top = peaks(undisturbed)
    limit = int(top * random.Random(seed).uniform(0.80, 0.93))
    print(f"AUTOTUNE_TEST_SEED={seed}: limit {limit} of {top} bytes")
    job = make_job(tmp_path_factory.mktemp("recovered"), data, limit)
    assert autotune(job) == 0, (job.parent / "terminal").read_text()
    return job.parent / "runs" / "real"


# Python reads this before anything else; only the ranks are given `--local_rank`.
BALLAST = """
import sys
if any(word.startswith("--local_rank") for word in sys.orig_argv):
    held = b"x" * {size}
"""


def journal_of(run: Path) -> list[dict[str, Any]]:
    """Return the journal's records."""
    return [json.loads(line) for line in (run / "journal.jsonl").read_text().splitlines()]


def launches_of(run: Path) -> list[dict[str, Any]]:
    """Return what was launched, attempt by attempt."""
    return [e for e in journal_of(run) if e["event"] == "decided" and e["step"] == "launch"]


def ended_attempts(run: Path) -> list[dict[str, Any]]:
    """Return how each attempt ended."""
    return [event for event in journal_of(run) if event["event"] == "attempt_ended"]


def same_steps(run: Path, undisturbed: Path) -> None:
    """Hold the samples and losses of every step to those of the undisturbed run."""
    ours, theirs = story_of_steps(run), story_of_steps(undisturbed)
    assert list(ours) == list(theirs)
    for step, (loss, samples) in theirs.items():
        assert ours[step][1] == samples, step
        assert ours[step][0] == pytest.approx(loss, rel=2e-4), step


@contextlib.contextmanager
def held_still(run: Path) -> Iterator[None]:
    """Let no rank train meanwhile: a step is so short that all would be over at once."""
    ranks = ranks_of(run)
    for rank in ranks:
        rank.suspend()
    yield
    for rank in ranks:
        rank.resume()


def autotune(job: Path) -> int:
    """Run a job to its end and return the exit code."""
    return begin(job).wait()


def test_under_a_limit_it_recovers_and_trains_the_very_same_steps(
    tmp_path: Path, recovered: Path, undisturbed: Path
) -> None:
    run = recovered
    journal = [json.loads(line) for line in (run / "journal.jsonl").read_text().splitlines()]
    failures = [e["diagnosis"]["failure"] for e in journal if e["event"] == "attempt_ended"]
    assert failures[0] == "device_oom"
    assert set(failures[:-1]) == {"device_oom"}
    assert nobody_left(run)
    proof = json.loads((run / "known-good" / "proof.json").read_text())
    assert proof["proven"], proof

    ours, theirs = story_of_steps(run), story_of_steps(undisturbed)
    assert list(ours) == list(theirs) == [1, 2, 3, 4, 5]
    for step, (loss, samples) in theirs.items():
        assert ours[step][1] == samples, step
        assert ours[step][0] == pytest.approx(loss, rel=2e-4), step
    assert theirs[5][0] < theirs[1][0]

    relaunch(run / "known-good", tmp_path)


def test_begun_by_prediction_it_fits_at_once_and_trains_the_very_same_steps(
    tmp_path: Path, data: Path, undisturbed: Path
) -> None:
    limit = int(peaks(undisturbed) * 0.85)  # which its micro-batch of 8 does not fit
    job = make_job(tmp_path, data, limit, start="predicted", proof=False)
    run = job.parent / "runs" / "real"

    assert autotune(job) == 0, (tmp_path / "terminal").read_text()

    (only,) = launches_of(run)
    assert only["plan"]["micro_batch"] < 8
    assert only["foreseen"]["capacity_bytes"] == limit
    events = (run / "attempts" / "001" / "events" / "rank0.jsonl").read_text()
    assert events.index('"kind": "rehearsal"') < events.index('"kind": "step"')
    (ended,) = ended_attempts(run)
    measured = {one["moment"]: one["peak_bytes"] for one in ended["evidence"]["probes"]}
    print(only["foreseen"], measured)
    assert max(measured.values()) <= limit
    same_steps(run, undisturbed)


@pytest.mark.slow
def test_a_prediction_that_was_wrong_is_refused_in_the_rehearsal_and_corrected_in_one_leap(
    tmp_path: Path, data: Path, undisturbed: Path
) -> None:
    # Something that nobody can foresee takes three tenths of the limit in every rank.
    limit = peaks(undisturbed)
    (tmp_path / "sitecustomize.py").write_text(BALLAST.format(size=limit * 3 // 10))
    env = {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(tmp_path)}
    job = make_job(tmp_path, data, limit, start="predicted", proof=False, env=env)
    run = job.parent / "runs" / "real"

    assert autotune(job) == 0, (tmp_path / "terminal").read_text()

    first, second = launches_of(run)
    refused, ended = ended_attempts(run)
    assert refused["diagnosis"]["failure"] == "device_oom"
    assert refused["evidence"]["step"] is None
    assert [one["moment"] for one in refused["evidence"]["probes"]][:2] == ["base", "load"]
    assert second["plan"]["micro_batch"] <= first["plan"]["micro_batch"]
    assert second["foreseen"]["learned"]
    assert ended["evidence"]["finished"]
    same_steps(run, undisturbed)


def ranks_of(run: Path) -> list[psutil.Process]:
    """Return the processes of the newest attempt's ranks."""
    files = max(run.glob("attempts/*/events")).glob("rank*.jsonl")
    starts = (json.loads(file.read_text().splitlines()[0]) for file in files)
    return [psutil.Process(start["pid"]) for start in starts]


@pytest.mark.slow  # tests/e2e/test_run.py kills supervisors of the fast trainer at any moment
def test_killed_outright_and_then_stopped_it_goes_on_to_the_very_same_steps(
    tmp_path: Path, data: Path, undisturbed: Path
) -> None:
    job = make_job(tmp_path, data, None, proof=False)
    run = job.parent / "runs" / "real"

    supervisor = begin(job)
    until(lambda: trained(run) >= 1, "a first step", seconds=300)
    supervisor.kill()
    supervisor.wait()
    with held_still(run):
        supervisor = begin(job)
        until(lambda: "still runs" in (tmp_path / "terminal").read_text(), "its being found")
    until(lambda: trained(run, "002"), "a step of the second attempt", seconds=300)
    with held_still(run):
        supervisor.send_signal(signal.SIGINT)
        until(lambda: "asked to stop" in (tmp_path / "terminal").read_text(), "its being heard")
    assert supervisor.wait(timeout=300) == 4
    assert nobody_left(run)

    assert autotune(job) == 0, (tmp_path / "terminal").read_text()

    ours, theirs = story_of_steps(run), story_of_steps(undisturbed)
    assert list(ours) == list(theirs)
    for step, (loss, samples) in theirs.items():
        assert ours[step][1] == samples, step
        assert ours[step][0] == pytest.approx(loss, rel=2e-4), step


@pytest.mark.slow
@pytest.mark.parametrize("damaged", ["*/*optim_states.pt", "*/*model_states.pt"])
def test_a_damaged_checkpoint_is_set_aside_and_the_very_same_steps_follow(
    tmp_path: Path, data: Path, undisturbed: Path, damaged: str
) -> None:
    job = make_job(tmp_path, data, None, proof=False, checkpoints={"every": 1, "keep": 3})
    run = job.parent / "runs" / "real"
    supervisor = begin(job)
    until(lambda: trained(run) >= 3, "a third step", seconds=300)
    supervisor.send_signal(signal.SIGINT)
    assert supervisor.wait(timeout=300) == 4
    held = newest(run / "checkpoints")
    assert held is not None
    for shard in held.path.glob(damaged):
        with shard.open("r+b") as file:
            file.truncate(shard.stat().st_size // 2)

    assert autotune(job) == 0, (tmp_path / "terminal").read_text()

    journal = [json.loads(line) for line in (run / "journal.jsonl").read_text().splitlines()]
    ended = [e["diagnosis"] for e in journal if e["event"] == "attempt_ended"]
    print([(one["failure"], one["phase"], one["why"]) for one in ended])
    launches = [e for e in journal if e["event"] == "decided" and e["step"] == "launch"]
    assert launches[-1]["remedy"]["rung"] == "previous_checkpoint"
    assert launches[-1]["steps_again"] == 1
    aside = [path.name for path in (run / "checkpoints" / "set-aside").iterdir()]
    assert aside == [f"checkpoint-{held.step}-by-attempt-{len(launches):03d}"]
    ours, theirs = story_of_steps(run), story_of_steps(undisturbed)
    assert list(ours) == list(theirs)
    for step, (loss, samples) in theirs.items():
        assert ours[step][1] == samples, step
        assert ours[step][0] == pytest.approx(loss, rel=2e-4), step


def trained(run: Path, attempt: str = "*") -> int:
    """Return the newest step that an attempt of the run reported."""
    events = run.glob(f"attempts/{attempt}/events/rank0.jsonl")
    lines = [json.loads(line) for file in events for line in file.read_text().splitlines()]
    return max((event["step"] for event in lines if event["kind"] == "step"), default=0)


def relaunch(known_good: Path, folder: Path) -> None:
    """Train again from launch.sh where `import autotune` fails."""
    blocked = folder / "blocked"
    blocked.mkdir()
    (blocked / "autotune.py").write_text("raise ImportError('autotune is not here')\n")
    env = {**os.environ, "PYTHONPATH": str(blocked)}
    done = subprocess.run(
        ["sh", str(known_good / "launch.sh")], env=env, cwd=folder, capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    events = (known_good / "output" / "events" / "rank0.jsonl").read_text()
    assert '"kind": "finished"' in events
    assert '"micro_batch": 8' not in events


@pytest.mark.slow
@pytest.mark.parametrize("draw", [1, 2, 3])
def test_limits_drawn_at_random_all_end_well(
    tmp_path: Path, data: Path, undisturbed: Path, draw: int
) -> None:
    seed = int(os.environ.get("AUTOTUNE_TEST_SEED", random.SystemRandom().randrange(10**6)))
    limit = int(peaks(undisturbed) * random.Random(seed + draw).uniform(0.72, 1.05))
    print(f"AUTOTUNE_TEST_SEED={seed}, draw {draw}: limit {limit} bytes")
    job = make_job(tmp_path, data, limit)

    assert autotune(job) == 0, (tmp_path / "terminal").read_text()

    ours = story_of_steps(job.parent / "runs" / "real")
    theirs = story_of_steps(undisturbed)
    assert {k: v[1] for k, v in ours.items()} == {k: v[1] for k, v in theirs.items()}


def test_the_fast_trainer_of_other_tests_says_nothing_the_real_one_does_not(
    tmp_path: Path, recovered: Path, undisturbed: Path
) -> None:
    fast = fast_job.make_job(tmp_path, {"fits": {"0": 4}})
    assert fast_job.run(fast) == 0

    real_words = words(undisturbed)
    real_words["proven"] = words(recovered)["proven"]  # the undisturbed run is not proven
    for kind, fields in words(fast_job.run_folder(fast)).items():
        if kind != "exception":  # the undisturbed run has none
            assert fields <= real_words[kind], kind
    (real,) = undisturbed.glob("checkpoints/checkpoint-5")
    assert isinstance(inspect(real), Checkpoint)
    newest_fast = newest(fast_job.run_folder(fast) / "checkpoints")
    assert newest_fast is not None
    for name in ("latest", "trainer_state.json", SENTINEL):
        assert (real / name).is_file()
    ours = set(json.loads((newest_fast.path / SENTINEL).read_text()))
    assert ours <= set(json.loads((real / SENTINEL).read_text()))


def words(run: Path) -> dict[str, set[str]]:
    """Return the kinds of events of a run and the fields of each."""
    found: dict[str, set[str]] = {}
    for file in run.glob("attempts/*/events/rank*.jsonl"):
        for line in file.read_text().splitlines():
            event = json.loads(line)
            found.setdefault(event["kind"], set()).update(event)
    return found
