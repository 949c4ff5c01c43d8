"""The probe arms in ranks and nowhere else, and changes nothing of the Python it is in."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from autotune.child.probe.arming import serves
from autotune.core.signature import Signatures
from autotune.world.channel import NOT_INSIDE, AttemptChannel
from tests.child.probed import FAKE_STACK, Probed

FAILS = "raise ValueError('as it comes')\n"
MODULES = "import json, sys; print(json.dumps(sorted(sys.modules)))"
TORCH = "import torch\n"


@pytest.fixture
def probed(tmp_path: Path) -> Probed:
    return Probed(tmp_path)


def test_an_exception_that_ends_a_rank_is_reported_and_shown_as_ever(probed: Probed) -> None:
    code, _, err = probed.program(FAILS)
    (event,) = probed.events(kinds=["exception"])
    assert (code, event["type"], event["message"]) == (1, "ValueError", "as it comes")
    assert "as it comes" in event["traceback"]
    assert err == probed.program(FAILS, env=dict(os.environ))[2]


def test_a_rank_says_that_it_is_there_and_how_it_left(probed: Probed) -> None:
    code, out, _ = probed.program(TORCH + "import os; print(os.getpid())")
    armed, left = probed.events()
    assert (armed["kind"], armed["pid"], left["kind"], code) == ("armed", int(out), "left", 0)


def test_a_process_without_a_rank_only_lurks(probed: Probed) -> None:
    code, _, err = probed.program(TORCH + FAILS, env=probed.environment(rank=None))
    assert code == 1
    assert "as it comes" in err
    assert probed.written() == []


def test_a_process_without_a_rank_is_rank_0_once_it_trains(probed: Probed) -> None:
    trains = "from transformers.trainer import Trainer\nTrainer('out', 2).train()\n"
    code, _, err = probed.program(TORCH + trains, env=probed.environment(rank=None))
    assert (code, err) == (0, "")
    assert [event["step"] for event in probed.events(kinds=["step"])] == [1, 2]
    assert probed.events()[0]["kind"] == "armed"


@pytest.mark.parametrize(
    ("more", "limited"),
    [({}, False), ({"AUTOTUNE_ALONE": "1"}, True), ({"RANK": "0"}, True)],
)
def test_the_only_rank_is_limited_before_it_makes_a_model(
    tmp_path: Path, more: dict[str, str], limited: bool
) -> None:
    probed = Probed(tmp_path, {"limit": {"device": "cpu", "bytes": 3 * 2**30}})
    asks = "import resource\nprint(resource.getrlimit(resource.RLIMIT_DATA)[0])\n"
    env = probed.environment(rank=None, **more)
    code, before_torch, _ = probed.program(asks, env=env)
    code, after_torch, _ = probed.program(TORCH + asks, env=env)
    assert code == 0
    assert int(before_torch) != 3 * 2**30
    assert (int(after_torch) == 3 * 2**30) is limited


def test_nothing_is_imported_that_the_program_does_not_import_itself(probed: Probed) -> None:
    _, out, _ = probed.run("-c", MODULES)
    with_probe = set(json.loads(out))
    _, out, _ = probed.run("-c", MODULES, env=probed.environment(PYTHONPATH=""))
    # Without the probe there may be no sitecustomize at all.
    more = with_probe - set(json.loads(out)) - {"sitecustomize"} - set(sys.builtin_module_names)
    assert any(name.startswith("autotune_probe") for name in more)
    assert {name for name in more if not name.startswith("autotune_probe")} == set()


@pytest.mark.train
def test_torch_is_given_no_module_that_it_does_not_import_itself(probed: Probed) -> None:
    program = "import torch\n" + MODULES
    path = probed.environment()["PYTHONPATH"].split(os.pathsep)[0]
    _, out, _ = probed.run("-c", program, env=probed.environment(PYTHONPATH=path))
    with_probe = set(json.loads(out))
    _, out, _ = probed.run("-c", program, env=probed.environment(PYTHONPATH=""))
    more = with_probe - set(json.loads(out)) - {"sitecustomize"} - set(sys.builtin_module_names)
    assert {name for name in more if not name.startswith("autotune_probe")} == set()


@pytest.mark.parametrize("option", ["-S", "-E", "-I"])
def test_a_python_that_reads_no_path_runs_as_ever_and_is_a_gap(probed: Probed, option: str) -> None:
    code, out, err = probed.run(option, "-c", "print(1)")
    assert (code, out, err, probed.written()) == (0, "1\n", "", [])
    channel = AttemptChannel(probed.folder, Signatures(()), 2**20)
    assert channel.gaps() == ()
    channel.close()
    assert NOT_INSIDE in channel.gaps()


def test_a_rank_that_spoke_from_inside_is_no_gap(probed: Probed) -> None:
    probed.program(TORCH)
    channel = AttemptChannel(probed.folder, Signatures(()), 2**20)
    channel.close()
    assert NOT_INSIDE not in channel.gaps()
    assert channel.view.ended == {0}


# ------------------------------------------------------------------- other tools of this kind


def sitecustomize(folder: Path, text: str) -> str:
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(text)
    return str(folder)


def test_the_next_sitecustomize_runs_once_and_has_the_name(probed: Probed, tmp_path: Path) -> None:
    path = sitecustomize(tmp_path / "theirs", "print('theirs')\nWHOSE = 'theirs'\n")
    env = probed.environment(more_path=path)
    ask = "import sitecustomize, sys; print(sitecustomize.WHOSE, sitecustomize.__file__)"
    code, out, err = probed.run("-c", ask, env=env)
    assert (code, err) == (0, "")
    assert out == f"theirs\ntheirs {path}/sitecustomize.py\n"


def test_the_error_of_the_next_sitecustomize_is_shown_as_python_shows_it(
    probed: Probed, tmp_path: Path
) -> None:
    path = sitecustomize(tmp_path / "theirs", "raise KeyError('theirs')\n")
    with_probe = probed.run("-c", "print(1)", env=probed.environment(more_path=path))
    alone = probed.run("-c", "print(1)", env=probed.environment(PYTHONPATH=path))
    assert with_probe == alone
    assert "KeyError: 'theirs'" in alone[2]


def test_a_tool_that_looks_for_the_next_one_itself_finds_it_and_not_us_again(
    probed: Probed, tmp_path: Path
) -> None:
    chains = (
        "import os, sys\nprint('tracer')\n"
        "sys.path.remove(os.path.dirname(__file__))\n"
        "del sys.modules['sitecustomize']\nimport sitecustomize\n"
    )
    first = sitecustomize(tmp_path / "tracer", chains)
    second = sitecustomize(tmp_path / "distribution", "print('distribution')\n")
    env = probed.environment(more_path=os.pathsep.join([first, second]))
    code, out, err = probed.run("-c", "print('program')", env=env)
    assert (code, out, err) == (0, "tracer\ndistribution\nprogram\n", "")


def python_of(minor: int) -> str | None:
    """A Python of this version: on the path, or among those that pyenv keeps."""
    home = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv")
    kept = sorted(home.glob(f"versions/3.{minor}.*/bin/python"))
    for found in (shutil.which(f"python3.{minor}"), *map(str, kept)):
        if found and subprocess.run([found, "-V"], capture_output=True).returncode == 0:
            return found
    return None


@pytest.mark.parametrize("minor", [10, 11, 12, 13])
def test_every_python_that_is_supported_carries_the_probe(probed: Probed, minor: int) -> None:
    python = python_of(minor)
    if python is None:
        pytest.skip(f"no Python 3.{minor} here")
    command = [python, "-c", TORCH + FAILS]
    done = subprocess.run(command, env=probed.environment(), capture_output=True, text=True)
    assert done.stderr.splitlines()[-1] == "ValueError: as it comes"
    armed, failed = probed.events()
    assert (armed["python"].split(".")[1], failed["type"]) == (str(minor), "ValueError")


# ------------------------------------------------------------------------ which process it is


@pytest.mark.parametrize(
    "line",
    [
        "python -m deepspeed.launcher.runner --num_gpus 2 train.py",
        "python -u -m deepspeed.launcher.launch train.py",
        "python /venv/bin/torchrun --standalone train.py",
        "python -m torch.distributed.run train.py",
        "python /venv/bin/accelerate launch train.py",
        "python -m accelerate.commands.launch train.py",
        "python -X dev -m torch._inductor.compile_worker",
        "python -c from_multiprocessing multiprocessing.resource_tracker",
    ],
)
def test_what_starts_or_serves_ranks_is_none(line: str) -> None:
    assert serves(line.split())


@pytest.mark.parametrize(
    "line",
    [
        "python train.py", "python -u -W ignore train.py --deepspeed ds.json", "python -m trl.sft",
        "python -m llamafactory.cli train", "python -c print(1)", "python", "python -",
    ],
)  # fmt: skip
def test_what_trains_is_a_rank(line: str) -> None:
    assert not serves(line.split())


def test_helpers_of_multiprocessing_are_known_by_their_command_lines(probed: Probed) -> None:
    # What Python itself starts them with, so that a new version's other words are noticed.
    from multiprocessing import resource_tracker, spawn

    assert serves([sys.executable, *spawn.get_command_line(pipe_handle=3)[1:]])
    assert "from multiprocessing.resource_tracker" in Path(resource_tracker.__file__).read_text()
    assert serves([sys.executable, "-c", "from multiprocessing.resource_tracker import main"])


SPAWNS = """
import multiprocessing
def work():
    import torch
    raise ValueError('in a worker')
if __name__ == '__main__':
    import torch
    worker = multiprocessing.get_context('METHOD').Process(target=work)
    worker.start(); worker.join()
    print(worker.exitcode)
"""


@pytest.mark.parametrize("method", ["spawn", "fork", "forkserver"])
def test_workers_of_a_rank_report_nothing(probed: Probed, method: str) -> None:
    code, out, err = probed.program(SPAWNS.replace("METHOD", method))
    assert (code, out) == (0, "1\n")
    assert "in a worker" in err
    assert [event["kind"] for event in probed.events()] == ["armed", "left"]
    assert probed.written() == ["rank0.jsonl"]


def test_a_program_that_a_rank_starts_is_not_the_rank(probed: Probed) -> None:
    starts = "import subprocess, sys, torch\nsubprocess.run([sys.executable, '-c', sys.argv[1]])\n"
    probed.program(starts, TORCH + FAILS)
    assert [event["kind"] for event in probed.events()] == ["armed", "left"]


def test_a_rank_that_becomes_another_program_stays_the_rank(probed: Probed) -> None:
    becomes = "import os, sys\nos.execv(sys.executable, [sys.executable, '-c', sys.argv[1]])\n"
    probed.program(becomes, TORCH + FAILS)
    assert [event["kind"] for event in probed.events()] == ["armed", "exception"]


# ------------------------------------------------------------- programs with ways of their own


def test_a_program_with_an_exception_hook_of_its_own_is_still_reported(probed: Probed) -> None:
    own = "import sys\nsys.excepthook = lambda *_: print('own hook')\n"
    code, out, _ = probed.program(own + FAILS)
    assert (code, out) == (1, "own hook\n")
    assert [event["type"] for event in probed.events(kinds=["exception"])] == ["ValueError"]


def test_a_program_that_closed_stderr_is_still_reported(probed: Probed) -> None:
    code, _, err = probed.program("import os, sys\nos.close(2)\nsys.stderr = None\n" + FAILS)
    assert (code, err) == (1, "")
    assert [event["type"] for event in probed.events(kinds=["exception"])] == ["ValueError"]


def test_a_program_that_leaves_without_a_word_is_a_rank_that_fell_silent(probed: Probed) -> None:
    code, _, _ = probed.program(TORCH + "import os\nos._exit(3)\n")
    assert code == 3
    channel = AttemptChannel(probed.folder, Signatures(()), 2**20)
    channel.close()
    assert channel.view.silent_ranks() == (0,)


@pytest.mark.parametrize("broken", ["probe.json", "events", "autotune_probe"])
def test_a_broken_probe_costs_evidence_and_nothing_else(probed: Probed, broken: str) -> None:
    plain = probed.program(TORCH + FAILS, env=probed.environment(PYTHONPATH=FAKE_STACK))
    if broken == "probe.json":
        (probed.place / broken).write_text("{")
    elif broken == "events":
        (probed.folder / broken).rmdir()
    else:
        shutil.rmtree(probed.place / broken)
    assert probed.program(TORCH + FAILS) == plain
