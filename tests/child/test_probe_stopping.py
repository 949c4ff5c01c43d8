"""A stop is heard at one step boundary on every rank, through control.json or by SIGTERM."""

from __future__ import annotations

import json
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from autotune.core.stack import frames_of_faulthandler
from autotune.world.stacks import STACK_SIGNAL
from tests.child.probed import Probed

# Each step is complete once the other rank has come to it, as with a gradient that is reduced.
TRAINS = """
import os, sys, time
import torch
from transformers.trainer import Trainer

rank, ranks = int(os.environ['RANK']), int(os.environ['WORLD_SIZE'])

def meet(step):
    open(f'at-{rank}-{step}', 'w').close()
    while not all(os.path.exists(f'at-{other}-{step}') for other in range(ranks)):
        time.sleep(0.001)
    time.sleep(0.002)

Trainer('out', 100_000, meet).train()
print('the rest of the script')
"""
# As above, but the rank waits where no handler of Python's runs, as in a collective.
BLOCKED = """
import ctypes, torch
mutex = ctypes.create_string_buffer(64)
from transformers.trainer import Trainer

def meet(step):
    if step == 3:
        print('blocked', flush=True)
        for _ in range(2):
            ctypes.CDLL(None).pthread_mutex_lock(mutex)  # the second time for ever

Trainer('out', 100_000, meet).train()
"""


@pytest.fixture
def probed(tmp_path: Path) -> Probed:
    return Probed(tmp_path)


def start(probed: Probed, ranks: int, program: str = TRAINS) -> list[subprocess.Popen[str]]:
    (probed.folder / "train.py").write_text(program)
    return [
        probed.start("train.py", env=probed.environment(rank, WORLD_SIZE=str(ranks)))
        for rank in range(ranks)
    ]


def until(condition: Callable[[], object], what: str, seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"never happened: {what}"
        time.sleep(0.01)


def steps(probed: Probed, rank: int) -> list[int]:
    return [event["step"] for event in probed.events(rank, ["step"])]


def ask(probed: Probed, command: str, **more: object) -> None:
    draft = probed.folder / "draft"
    draft.write_text(json.dumps({"seq": 1, "command": command, "by": "a test", **more}))
    draft.replace(probed.control)


def ends(processes: list[subprocess.Popen[str]]) -> list[tuple[int, str]]:
    said = [process.communicate(timeout=60) for process in processes]
    assert [err for _, err in said] == [""] * len(said)
    return [(process.returncode, out) for process, (out, _) in zip(processes, said, strict=True)]


@pytest.mark.parametrize("ranks", [1, 2, 3])
def test_all_ranks_save_and_end_at_the_same_step(probed: Probed, ranks: int) -> None:
    processes = start(probed, ranks)
    until(lambda: all(len(steps(probed, rank)) > 3 for rank in range(ranks)), "steps")
    ask(probed, "stop")
    assert ends(processes) == [(0, "")] * ranks  # without the rest of the script
    stopped = [probed.events(rank, ["stopped"])[0]["step"] for rank in range(ranks)]
    assert len(set(stopped)) == 1
    for rank in range(ranks):
        assert steps(probed, rank)[-1] == stopped[0]
        assert [event["step"] for event in probed.events(rank, ["checkpoint"])] == stopped[:1]


def test_a_training_that_wants_no_checkpoint_is_ended_without_and_says_so(probed: Probed) -> None:
    wants_none = TRAINS.replace(
        "Trainer('out', 100_000, meet).train()",
        "trainer = Trainer('out', 100_000, meet)\n"
        "trainer.args.save_strategy = 'no'\ntrainer.train()",
    )
    (process,) = start(probed, 1, wants_none)
    until(lambda: len(steps(probed, 0)) > 3, "steps")
    ask(probed, "stop")
    assert ends([process]) == [(0, "")]
    assert probed.events(kinds=["checkpoint"]) == []
    (gap,) = probed.events(kinds=["probe_gap"])
    assert "without a checkpoint" in gap["error"]


def test_a_rank_that_waits_for_ever_writes_where_it_stands(probed: Probed) -> None:
    (process,) = start(probed, 1, BLOCKED)
    assert process.stdout is not None
    assert process.stdout.readline() == "blocked\n"
    process.send_signal(STACK_SIGNAL)
    path = probed.folder / "stacks" / "rank0.txt"
    until(lambda: "train.py" in path.read_text(), "stacks")
    frames = frames_of_faulthandler(path.read_text())
    assert "meet" in [frame.function for frame in frames]
    process.kill()
    process.communicate()


def test_a_stop_for_another_attempt_is_not_heard(probed: Probed) -> None:
    ask(probed, "stop", attempt=7)
    (process,) = start(probed, 1)
    until(lambda: len(steps(probed, 0)) > 3, "steps")
    ask(probed, "stop", attempt=1)
    assert ends([process]) == [(0, "")]


def test_a_broken_control_file_is_no_word(probed: Probed) -> None:
    probed.control.write_text('{"command": "st')
    (process,) = start(probed, 1)
    until(lambda: len(steps(probed, 0)) > 3, "steps")
    ask(probed, "stop")
    assert ends([process]) == [(0, "")]


@pytest.mark.parametrize(
    ("told", "number"),
    [(0, signal.SIGTERM), (1, signal.SIGTERM), (0, signal.SIGUSR1), (1, signal.SIGUSR2)],
)
def test_a_signal_to_any_rank_saves_on_all_of_them(
    probed: Probed, told: int, number: signal.Signals
) -> None:
    processes = start(probed, 2)
    until(lambda: all(len(steps(probed, rank)) > 3 for rank in range(2)), "steps")
    processes[told].send_signal(number)
    assert ends(processes) == [(0, "")] * 2
    assert [steps(probed, rank)[-1] for rank in range(2)] == [
        probed.events(rank, ["stopped"])[0]["step"] for rank in range(2)
    ]
    word = json.loads(probed.control.read_text())
    assert (word["command"], word["by"]) == (
        "stop",
        f"supervisor: rank {told} was told to end by {number.name}",
    )
    (notice,) = probed.events(told, ["told_to_end"])
    assert notice["signal"] == number.name


def test_a_scheduler_that_signals_every_rank_again_and_again_still_gets_its_save(
    probed: Probed,
) -> None:
    slow = TRAINS.replace("time.sleep(0.002)", "time.sleep(0.3)")
    processes = start(probed, 2, slow)
    until(lambda: all(len(steps(probed, rank)) > 1 for rank in range(2)), "steps")
    for number in (signal.SIGUSR1, signal.SIGTERM, signal.SIGTERM):
        for process in processes:
            process.send_signal(number)
    assert ends(processes) == [(0, "")] * 2
    stopped = {probed.events(rank, ["stopped"])[0]["step"] for rank in range(2)}
    assert len(stopped) == 1


def test_a_notice_that_native_code_listens_to_is_left_alone(probed: Probed) -> None:
    own = "import faulthandler, signal\nfaulthandler.register(signal.SIGUSR1, open('own', 'w'))\n"
    (process,) = start(probed, 1, own + TRAINS)
    until(lambda: len(steps(probed, 0)) > 3, "steps")
    process.send_signal(signal.SIGUSR1)
    until(lambda: (probed.folder / "own").read_text(), "its own answer")
    assert not probed.control.exists()
    ask(probed, "stop")
    assert ends([process]) == [(0, "")]


def test_a_handler_of_the_programs_own_is_left_alone(probed: Probed) -> None:
    own = "import signal, sys\nsignal.signal(signal.SIGTERM, lambda *_: sys.exit(9))\n"
    (process,) = start(probed, 1, own + TRAINS)
    until(lambda: len(steps(probed, 0)) > 3, "steps")
    process.send_signal(signal.SIGTERM)
    assert ends([process]) == [(9, "")]
    assert not probed.control.exists()


def test_a_rank_that_waits_for_ever_dies_of_the_supervisors_sigterm(probed: Probed) -> None:
    (process,) = start(probed, 1, BLOCKED)
    until(lambda: len(steps(probed, 0)) == 2, "two steps")
    ask(probed, "stop")
    ask(probed, "end", stop_by="somebody")
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=60)
    assert process.returncode == -signal.SIGTERM


def test_a_rank_whose_peer_is_gone_dies_of_sigterm_at_once(probed: Probed) -> None:
    processes = start(probed, 2)
    until(lambda: all(len(steps(probed, rank)) > 3 for rank in range(2)), "steps")
    processes[0].kill()
    processes[0].wait()
    processes[1].send_signal(signal.SIGTERM)
    processes[1].communicate(timeout=60)
    assert processes[1].returncode == -signal.SIGTERM
    assert not probed.control.exists()


def test_before_the_first_step_sigterm_ends_a_rank_as_ever(probed: Probed) -> None:
    loads = "import torch, time\nprint('up', flush=True)\ntime.sleep(60)\n"
    (process,) = start(probed, 1, loads)
    assert process.stdout is not None
    assert process.stdout.readline() == "up\n"
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=60)
    assert process.returncode == -signal.SIGTERM


FORKS = """
import os, signal, torch
from transformers.trainer import Trainer

def meet(step):
    if step == 3:
        pid = os.fork()
        if pid == 0:
            signal.pause()
        os.kill(pid, signal.SIGTERM)
        print(os.WTERMSIG(os.waitpid(pid, 0)[1]))

Trainer('out', 5, meet).train()
"""


def test_a_worker_that_a_rank_has_forked_dies_of_sigterm_as_ever(probed: Probed) -> None:
    (process,) = start(probed, 1, FORKS)
    assert ends([process]) == [(0, f"{int(signal.SIGTERM)}\n")]
    assert steps(probed, 0) == [1, 2, 3, 4, 5]
    assert not probed.control.exists()
    assert probed.written() == ["rank0.jsonl"]
