"""`autotune run` with real processes and a fast trainer: the ladder, stopping, dying, going on."""

import json
import os
import random
import signal
import stat
from pathlib import Path

import psutil
import pytest

from autotune.cli.explain import explain
from autotune.core.evidence import Gap
from autotune.core.failure import Failure
from autotune.world.cgroup import make_cgroup
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
    until,
)

pytestmark = pytest.mark.e2e

# Refused at micro-batch 8 at once, and at 4 from step 7 on, when checkpoints exist.
TWO_REFUSALS = {"fits": {"0": 4, "6": 2}}


def test_a_job_that_does_not_fit_ends_with_a_proven_known_good(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    job = make_job(tmp_path, TWO_REFUSALS)

    assert run(job) == 0

    told = story(job)
    assert [a.failure for a in told.attempts] == [
        Failure.DEVICE_OOM, Failure.DEVICE_OOM, Failure.NONE,
    ]  # fmt: skip
    assert [a.plan.micro_batch for a in told.attempts] == [8, 4, 2]
    assert {a.plan.global_batch for a in told.attempts} == {16}
    assert told.attempts[2].launch.checkpoint_step == 6
    assert trained_steps(job) == list(range(1, 13))
    proof = json.loads((run_folder(job) / "known-good" / "proof.json").read_text())
    assert proof["proven"] is True
    assert left_behind(job) == []
    # Each attempt is explained as it was diagnosed, by its folder or its log.
    attempts = run_folder(job) / "attempts"
    assert explain([str(attempts / "002"), str(attempts / "003" / "output.log")], as_json=True) == 0
    explained = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [one["failure"] for one in explained] == ["device_oom", "none"]
    assert "files it left show" in explained[1]["why"]


def test_the_known_good_is_a_job_that_check_accepts_and_starts_where_the_run_ended(
    tmp_path: Path,
) -> None:
    job = make_job(tmp_path / "a", TWO_REFUSALS)
    assert run(job) == 0
    good = run_folder(job) / "known-good" / "job.yaml"

    assert run(good, "--run-dir", str(tmp_path / "again")) == 0

    again = (tmp_path / "again" / "journal.jsonl").read_text()
    assert '"failure":"device_oom"' not in again
    assert "smaller_micro_batch" in good.read_text()


def test_a_finished_run_started_again_stays_finished(tmp_path: Path) -> None:
    job = make_job(tmp_path)
    assert run(job) == 0
    attempts = len(story(job).attempts)

    assert run(job) == 0

    assert len(story(job).attempts) == attempts


def test_when_no_rung_is_left_it_gives_up_and_says_what_was_tried(tmp_path: Path) -> None:
    job = make_job(tmp_path, {"fits": {"0": 0}})

    assert run(job) == 1

    said = terminal(job)
    assert "giving up" in said
    assert "not offload_optimizer" in said
    assert left_behind(job) == []
    assert run(job) == 1  # and the same again: the decision is not restarted


def test_the_limit_of_attempts_is_kept(tmp_path: Path) -> None:
    job = make_job(tmp_path, {"fits": {"0": 0}}, limits={"attempts": 2})

    assert run(job) == 1

    assert len(story(job).attempts) == 2
    assert "the job allows 2" in terminal(job)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGUSR1])
def test_a_signal_saves_at_the_next_step_and_the_same_command_goes_on(
    tmp_path: Path, number: signal.Signals
) -> None:
    job = make_job(tmp_path, {"total": 40, "seconds": 0.15})
    supervisor = start(job)
    until(lambda: _steps(job) >= 2, "two steps")

    supervisor.send_signal(number)

    assert supervisor.wait(timeout=60) == 4
    assert left_behind(job) == []
    assert run(job) == 0
    assert trained_steps(job) == list(range(1, 41))
    assert story(job).attempts[1].launch.remedy is None


def test_a_launcher_that_is_told_to_end_is_a_notice_and_no_step_is_lost(tmp_path: Path) -> None:
    job = make_job(tmp_path, {"total": 40, "seconds": 0.15}, checkpoints={"every": 100, "keep": 2})
    supervisor = start(job)
    until(lambda: _steps(job) >= 2, "two steps")
    (launcher,) = psutil.Process(supervisor.pid).children()

    launcher.send_signal(signal.SIGUSR2)

    assert supervisor.wait(timeout=60) == 0
    first, second = story(job).attempts
    assert first.failure is Failure.PREEMPTED
    assert first.evidence is not None
    assert first.evidence.step == first.evidence.checkpoint_step == second.launch.checkpoint_step
    assert trained_steps(job) == list(range(1, 41))
    assert "asked to stop by a signal from outside to the launcher" in terminal(job)
    assert left_behind(job) == []


def test_autotune_stop_does_the_same_without_a_signal(tmp_path: Path) -> None:
    from autotune.cli.stop import stop

    job = make_job(tmp_path, {"total": 200, "seconds": 0.05})
    supervisor = start(job)
    until(lambda: _steps(job) >= 1, "a step")

    assert stop(run_folder(job)) == 0

    assert supervisor.wait(timeout=60) == 4
    assert "autotune stop" in terminal(job)
    (only,) = story(job).attempts
    assert only.failure is Failure.NONE


def test_a_second_signal_hurries(tmp_path: Path) -> None:
    # A step of a minute: waiting for its boundary would take as long.
    job = make_job(tmp_path, {"seconds": 60.0, "hang_on_term": True})
    supervisor = start(job)
    until(lambda: "settings" in _events(job), "training to begin")

    supervisor.send_signal(signal.SIGTERM)
    until(lambda: '"stop"' in (run_folder(job) / "control.json").read_text(), "the ranks be told")
    supervisor.send_signal(signal.SIGTERM)

    assert supervisor.wait(timeout=30) == 4
    assert left_behind(job) == []


def test_a_second_supervisor_is_refused_and_the_first_goes_on(tmp_path: Path) -> None:
    job = make_job(tmp_path, {"total": 60, "seconds": 0.2})
    first = start(job)
    until(lambda: _steps(job) >= 1, "a step")

    assert run(job) == 3

    assert "another autotune" in terminal(job)
    assert first.wait(timeout=60) == 0


def test_a_supervisor_killed_after_any_line_of_its_journal_goes_on_to_the_same_end(
    tmp_path: Path,
) -> None:
    undisturbed = make_job(tmp_path / "undisturbed", TWO_REFUSALS)
    assert run(undisturbed) == 0
    for lines in range(1, journal_lines(undisturbed)):
        job = make_job(tmp_path / f"killed-after-{lines}", TWO_REFUSALS)
        kill_when(start(job), lambda: journal_lines(job) >= lines, f"line {lines}")  # noqa: B023

        assert run(job) == 0, terminal(job)

        assert trained_steps(job) == list(range(1, 13)), f"killed after line {lines}"
        assert story(job).attempts[-1].plan.micro_batch == 2
        assert left_behind(job) == []


def test_supervisors_killed_at_random_moments_lose_no_step_and_leave_nobody(
    tmp_path: Path,
) -> None:
    seed = int(os.environ.get("AUTOTUNE_TEST_SEED", random.SystemRandom().randrange(10**6)))
    print(f"seed {seed}: AUTOTUNE_TEST_SEED={seed} repeats this")
    chance = random.Random(seed)
    job = make_job(tmp_path, {"total": 60, "seconds": 0.03, "fits": {"0": 4, "20": 2}})
    for _ in range(6):
        goal = _size(job) + chance.randrange(200, 6000)
        kill_when(start(job), lambda: _size(job) > goal, "some progress")  # noqa: B023

    assert run(job) == 0, terminal(job)

    assert trained_steps(job) == list(range(1, 61))
    assert left_behind(job) == []


def test_a_child_that_the_dead_supervisor_left_is_told_to_save_and_ended(tmp_path: Path) -> None:
    job = make_job(tmp_path, {"total": 100, "seconds": 0.1})
    kill_when(start(job), lambda: _steps(job) >= 2, "two steps")
    assert left_behind(job) != []  # our death does not reach the training

    assert run(job) == 0

    first = story(job).attempts[0]
    assert first.evidence is not None
    assert first.evidence.ended_by_us == "supervisor_lost"
    assert first.evidence.checkpoint_step not in (0, None)
    assert trained_steps(job) == list(range(1, 101))


def test_a_run_folder_of_another_job_is_refused(tmp_path: Path) -> None:
    job = make_job(tmp_path / "a")
    assert run(job) == 0
    other = make_job(tmp_path / "b", batch={"global": 32, "micro": 8})

    assert run(other, "--run-dir", str(run_folder(job))) == 2

    assert "belongs to another job" in terminal(other)


def test_a_folder_full_of_somebody_elses_things_is_refused_and_untouched(tmp_path: Path) -> None:
    job = make_job(tmp_path)
    (tmp_path / "theirs" / "checkpoint-5").mkdir(parents=True)

    assert run(job, "--run-dir", str(tmp_path / "theirs")) == 2

    assert [f.name for f in (tmp_path / "theirs").iterdir()] == ["checkpoint-5"]


def test_data_that_changed_between_starts_is_refused(tmp_path: Path) -> None:
    job = make_job(tmp_path, {"fits": {"0": 0}}, limits={"attempts": 1})
    assert run(job) == 1
    (tmp_path / "train.jsonl").write_text('{"text": "another sample"}\n')

    assert run(job) == 2

    assert "what `data.train` names has changed" in terminal(job)


def test_a_cause_that_only_a_person_can_mend_is_tried_again_when_they_start_it_again(
    tmp_path: Path,
) -> None:
    job = make_job(tmp_path, {"fail_at": {"1:5": "boom"}})
    assert run(job) == 1
    assert story(job).attempts[0].failure is Failure.USER_CODE_ERROR

    assert run(job) == 0

    assert story(job).attempts[1].launch.checkpoint_step == 3
    assert trained_steps(job) == list(range(1, 13))


def test_limits_may_be_edited_between_starts(tmp_path: Path) -> None:
    job = make_job(tmp_path, {"fits": {"0": 2}}, limits={"attempts": 1})
    assert run(job) == 1

    make_job(tmp_path, {"fits": {"0": 2}}, limits={"attempts": 9})

    assert run(job) == 0


def test_a_cgroup_kill_is_a_host_oom_with_the_kernels_count_and_is_survived(
    tmp_path: Path,
) -> None:
    made = make_cgroup("autotune-test-probe", 64 * 2**20)
    if isinstance(made, Gap):
        pytest.skip(f"no memory cgroup can be made here: {made.why}")
    made.remove()
    job = make_job(
        tmp_path,
        {"eat": 900, "eat_above": 4},
        devices={"use": 2, "memory_limit": "2GiB", "host_memory_limit": "400MiB"},
    )

    assert run(job) == 0

    first, second = story(job).attempts
    assert first.evidence is not None
    assert (first.failure, second.failure) == (Failure.HOST_OOM, Failure.NONE)
    assert first.evidence.memory.cgroup_oom_kills == 1
    if first.evidence.machine.kernel_read:
        assert [event.rank for event in first.evidence.machine.kernel if event.ours] == [0]
        assert first.diagnosis is not None
        assert "the kernel killed rank 0" in first.diagnosis.why
    assert second.plan.micro_batch == 4


def test_what_a_training_leaves_in_shared_memory_is_removed(tmp_path: Path) -> None:
    job = make_job(tmp_path, {"share": True, "fits": {"0": 4}})

    assert run(job) == 0

    commands = (run_folder(job) / "attempts").glob("*/command.json")
    prefixes = [json.loads(path.read_text())["shared_memory"] for path in commands]
    assert len(prefixes) == 3
    left = [f.name for f in Path("/dev/shm").iterdir() if f.name.startswith(tuple(prefixes))]
    assert left == []


def test_everything_in_the_run_folder_is_for_its_owner_alone(tmp_path: Path) -> None:
    job = make_job(tmp_path, TWO_REFUSALS)
    assert run(job) == 0

    ours = [run_folder(job), *run_folder(job).glob("*"), *run_folder(job).glob("known-good/*")]
    for path in ours:
        if path.name != "finetune.py":
            assert stat.S_IMODE(path.stat().st_mode) & 0o077 == 0, path


def test_secrets_pass_by_name_and_stand_in_no_file(tmp_path: Path) -> None:
    os.environ["HF_TOKEN"] = "a-secret-value-of-this-test"
    try:
        job = make_job(tmp_path, env_from=["HF_TOKEN"])
        assert run(job) == 0
    finally:
        del os.environ["HF_TOKEN"]

    for path in run_folder(job).rglob("*"):
        if path.is_file():
            assert b"a-secret-value-of-this-test" not in path.read_bytes(), path
    assert "HF_TOKEN" in (run_folder(job) / "known-good" / "launch.sh").read_text()


def _steps(job: Path) -> int:
    return _events(job).count('"kind": "step"')


def _events(job: Path) -> str:
    files = sorted((run_folder(job) / "attempts").glob("*/events/rank0.jsonl"))
    return "".join(file.read_text() for file in files)


def _size(job: Path) -> int:
    try:
        return len(_events(job)) + (run_folder(job) / "journal.jsonl").stat().st_size
    except OSError:
        return 0
