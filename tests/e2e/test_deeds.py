"""What a rung needs done beside the plan, with real processes and a fast trainer."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from autotune.core.failure import Failure
from autotune.core.history import Story
from autotune.world.ops_cache import cache_folder
from tests.e2e.fast_job import (
    journal_lines,
    kill_when,
    left_behind,
    make_job,
    run,
    run_folder,
    start,
    story,
    terminal,
    trained_steps,
)

pytestmark = pytest.mark.e2e

ON_FAKE_GPUS = Path(__file__).with_name("on_fake_gpus.py")
# Refused at step 7, when the checkpoints 3 and 6 are there; the second attempt cannot read its own.
DAMAGED = {"fits": {"6": 4}, "unreadable_in": [2]}


def rungs(told: Story) -> list[str | None]:
    """Return the rung of each attempt."""
    return [a.launch.remedy.rung if a.launch.remedy else None for a in told.attempts]


def set_aside(job: Path) -> list[str]:
    """Return the checkpoints that were set aside."""
    return sorted(p.name for p in (run_folder(job) / "checkpoints" / "set-aside").glob("*"))


def test_a_damaged_checkpoint_is_set_aside_and_no_step_is_lost_unsaid(tmp_path: Path) -> None:
    job = make_job(tmp_path, DAMAGED)

    assert run(job) == 0

    told = story(job)
    assert rungs(told) == [None, "smaller_micro_batch", "previous_checkpoint"]
    assert told.attempts[1].failure is Failure.CHECKPOINT_CORRUPT
    assert [a.launch.checkpoint_step for a in told.attempts] == [0, 6, 3]
    assert told.attempts[2].launch.set_aside == ("checkpoints/checkpoint-6",)
    assert set_aside(job) == ["checkpoint-6-by-attempt-003"]
    said = "resumes at step 3, with checkpoint-6 set aside: 3 steps are trained again"
    assert said in terminal(job)
    assert trained_steps(job) == list(range(1, 13))


def test_a_resume_that_comes_back_as_another_training_goes_back_one_checkpoint(
    tmp_path: Path,
) -> None:
    job = make_job(tmp_path, {"fits": {"6": 4}, "departs_in": [2]})

    assert run(job) == 0

    told = story(job)
    assert rungs(told) == [None, "smaller_micro_batch", "previous_checkpoint"]
    assert told.attempts[1].failure is Failure.CHECKPOINT_MISMATCH
    assert "does not go on as it ended" in terminal(job)
    assert trained_steps(job) == list(range(1, 13))
    proof = json.loads((run_folder(job) / "known-good" / "proof.json").read_text())
    faith = proof["faithfulness"]
    assert faith["faithful"] is True, faith
    assert [one["counts"] for one in faith["attempts"]] == [[1, 3], None, [4, 12]]
    (again,) = faith["trained_again"]
    assert (again["steps"], again["largest_departure"]) == ([4, 6], 0)


def test_the_proof_has_the_digest_of_an_undisturbed_run(tmp_path: Path) -> None:
    digests = []
    for name, given in (("calm", {}), ("rough", {"fits": {"6": 4, "10": 2}})):
        job = make_job(tmp_path / name, given)
        assert run(job) == 0
        proof = json.loads((run_folder(job) / "known-good" / "proof.json").read_text())
        digests.append(proof["faithfulness"]["samples"])
        assert proof["faithfulness"]["faithful"] is True

    assert digests[0] == digests[1] is not None


def test_a_run_that_trained_other_samples_says_that_it_is_not_faithful(tmp_path: Path) -> None:
    job = make_job(tmp_path, {"fits": {"8": 4}, "other_samples_in": [2]})

    assert run(job) == 0

    held = (run_folder(job) / "known-good" / "job.yaml").read_text()
    assert "not faithful: step 7 was trained again on other samples" in held


def test_every_attempt_has_a_port_of_its_own(tmp_path: Path) -> None:
    job = make_job(tmp_path, DAMAGED)

    assert run(job) == 0

    commands = (run_folder(job) / "attempts").glob("[0-9]*/command.json")
    ports = [json.loads(path.read_text())["port"] for path in commands]
    assert len(set(ports)) == len(ports) == 3


def test_a_supervisor_that_dies_around_the_deed_does_it_once(tmp_path: Path) -> None:
    whole = make_job(tmp_path / "whole", DAMAGED)
    assert run(whole) == 0
    lines = (run_folder(whole) / "journal.jsonl").read_text().splitlines()
    decided = next(n for n, line in enumerate(lines, 1) if '"checkpoints/checkpoint-6"]' in line)
    for place in range(decided - 1, decided + 3):
        job = make_job(tmp_path / f"killed-{place}", DAMAGED)
        kill_when(start(job), lambda: journal_lines(job) >= place, "the journal grew")  # noqa: B023

        assert run(job) == 0

        assert set_aside(job) == ["checkpoint-6-by-attempt-003"], place
        assert trained_steps(job) == list(range(1, 13)), place
        assert left_behind(job) == []


def test_the_last_checkpoint_stays_where_it_is_until_the_owner_says_so(tmp_path: Path) -> None:
    only_one = {"fits": {"3": 4}, "unreadable_in": [2, 3, 4]}
    job = make_job(tmp_path, only_one)

    assert run(job) == 1

    assert set(rungs(story(job))[2:]) == {"retry_unchanged"}
    assert set_aside(job) == []
    said = terminal(job)
    assert "not previous_checkpoint: no whole checkpoint before the one of step 3 is left" in said
    assert "it gives up every step trained so far; the job may allow it" in said
    assert "what you can do: look at the checkpoints that were set aside" in said

    changed = YAML().load(job.read_text())
    changed["allow"] = ["start_over"]
    changed["env"]["FAST_STORY"] = json.dumps({**only_one, "fits": {}})
    with job.open("w") as file:
        YAML().dump(changed, file)

    assert run(job) == 0

    assert rungs(story(job))[-1] == "start_over"
    assert story(job).attempts[-1].launch.checkpoint_step == 0
    assert len(set_aside(job)) == 1


def test_a_stale_extension_is_thrown_away_in_the_run_and_in_the_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    versions = {"torch": "2.13.0+cpu", "deepspeed": "0.19.8"}
    stale = cache_folder(versions, str(tmp_path / "job" / "python")) / "fused_adam"
    stale.mkdir(parents=True)
    (stale / "fused_adam.so").write_bytes(b"of another compiler")
    job = make_job(tmp_path / "job", {"stale": True})

    assert run(job) == 0

    told = story(job)
    assert [a.failure for a in told.attempts] == [Failure.OP_BUILD, Failure.NONE]
    assert told.attempts[1].launch.rebuild_ops
    assert not stale.exists()


def run_on_gpus(job: Path, present: str, **machine: str) -> int:
    """Run the job where NVML shows these GPUs; `machine` says more of them."""
    given = {"FAKE_GPUS": present, "FAST_TORCH": "2.13.0", "PYTHONPATH": os.pathsep.join(sys.path)}
    given |= machine
    env = {
        k: v for k, v in os.environ.items() if k not in ("DS_ACCELERATOR", "CUDA_VISIBLE_DEVICES")
    }
    with (job.parent / "terminal").open("a") as said:
        command = [sys.executable, str(ON_FAKE_GPUS), "run", str(job)]
        done = subprocess.run(
            command, env={**env, **given}, stdout=said, stderr=said, timeout=120, check=False
        )
    return done.returncode


def included(job: Path, attempt: int) -> str:
    """Return the GPUs that the launcher of an attempt was given."""
    held = json.loads((run_folder(job) / f"attempts/{attempt:03d}/command.json").read_text())
    argv: list[str] = held["argv"]
    return argv[argv.index("--include") + 1]


def test_a_driver_that_hangs_at_the_start_is_met_by_another_start(tmp_path: Path) -> None:
    job, machine = make_job(tmp_path / "job", proof=False), tmp_path / "machine"
    machine.mkdir()
    (machine / "hang").touch()
    place = {"FAKE_PLACE": str(machine), "FAKE_PATIENCE": "0.2"}
    assert run_on_gpus(job, "0,1", **place) == 3
    assert "does not answer (NVML: " in terminal(job)
    assert not run_folder(job).exists()

    (machine / "hang").unlink()
    assert run_on_gpus(job, "0,1", **place) == 0, terminal(job)


def test_a_broken_gpu_is_left_out_and_the_run_goes_on_without_it(tmp_path: Path) -> None:
    broken = {"fail_at": {"1:8": "CUDA error: uncorrectable ECC error encountered"}}
    devices: dict[str, Any] = {"use": "auto"}
    job = make_job(tmp_path, broken, devices=devices)

    assert run_on_gpus(job, "0,1") == 0, terminal(job)

    told = story(job)
    assert [a.failure for a in told.attempts] == [Failure.GPU_HARDWARE, Failure.NONE]
    assert rungs(told) == [None, "exclude_device"]
    assert (included(job, 1), included(job, 2)) == ("localhost:0,1", "localhost:1")
    after = told.attempts[1].plan
    assert (after.world_size, after.excluded, after.global_batch) == (1, (0,), 16)
    assert told.attempts[1].launch.checkpoint_step == 6
    assert trained_steps(job) == list(range(1, 13))
    good = YAML().load((run_folder(job) / "known-good" / "job.yaml").read_text())
    assert good["devices"]["use"] == [1]
    # Once the card is taken out of the machine, the same command still goes on.
    assert run_on_gpus(job, "1") == 0, terminal(job)


def test_an_illegal_access_is_run_again_with_launches_that_block(tmp_path: Path) -> None:
    broken = {"fail_at": {"1:8": "CUDA error: device-side assert triggered"}}
    job = make_job(tmp_path / "a", broken, devices={"use": [1]}, batch={"global": 8, "micro": 8})

    assert run_on_gpus(job, "0,1") == 0, terminal(job)

    assert rungs(story(job)) == [None, "blocking_launches"]
    folder = run_folder(job)
    held = json.loads((folder / "attempts/002/command.json").read_text())
    assert held["env"]["CUDA_LAUNCH_BLOCKING"] == "1"
    assert included(job, 2) == "localhost:1"
    good = YAML().load((folder / "known-good" / "job.yaml").read_text())
    assert good["env"]["CUDA_LAUNCH_BLOCKING"] == "1"
    assert "CUDA_LAUNCH_BLOCKING=1" in (folder / "known-good" / "launch.sh").read_text()


def test_an_illegal_access_that_comes_again_stops_the_run_with_what_to_look_at(
    tmp_path: Path,
) -> None:
    words = "CUDA error: device-side assert triggered"
    broken = {"fail_at": {"1:8": words, "2:8": words}}
    job = make_job(tmp_path / "a", broken, devices={"use": 1}, batch={"global": 8, "micro": 8})

    assert run_on_gpus(job, "0,1") == 1

    said = terminal(job)
    assert "not blocking_launches: launches are waited for already" in said
    assert "what you can do: look at the operation the last traceback names" in said
