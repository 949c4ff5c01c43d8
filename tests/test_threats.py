"""Each line of the threat model is attacked here, or in tests/e2e/test_malicious.py."""

import ctypes
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from autotune.cli import wiring
from autotune.cli.speech import say_lines
from autotune.core.fault import CannotRecord, InputError
from autotune.core.job import Job
from autotune.core.known_good import launch_script
from autotune.core.secret import HIDDEN, hide, secret_values
from autotune.world import checkpoints
from autotune.world.disk_bound import DiskBound
from autotune.world.environment import training_python, versions
from autotune.world.event_file import EventFolder
from autotune.world.files import make_folder, open_plain, read_json, remove_tree, write_text
from autotune.world.journal import FileJournal, read_journal
from autotune.world.model_folder import read_model
from autotune.world.ops_cache import clear_locks, keep
from autotune.world.output import OutputTail
from autotune.world.process import keep_memory_private
from autotune.world.rescued import RescueFolder
from autotune.world.run_folder import RunFolder, RunLock, holder
from autotune.world.shared_memory import prefix_of
from autotune.world.stacks import StackTaker
from autotune.world.throwaway import in_time
from autotune.world.trust import open_to_all
from autotune.world.yaml_files import read_document
from tests.rescue_part import part

ROOT = Path(__file__).parents[1]
ESCAPES = "\x1b]0;pwned\x07\x1b[2J\x9b31m\u202e\r"
SECRET = "hf_QxW8uYt5RkPz3NvBc7LmDs2Jf9Gh4A1e"


@pytest.fixture(autouse=True)
def _never_for_ever() -> Iterator[None]:
    """What hangs on a pipe fails instead."""
    signal.alarm(60)
    yield
    signal.alarm(0)


@pytest.fixture
def precious(tmp_path: Path) -> Path:
    """A folder of the owner's, outside of any run."""
    folder = tmp_path / "precious"
    folder.mkdir()
    (folder / "file").write_text("precious")
    return folder


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    folder = RunFolder(tmp_path / "run")
    folder.create()
    return folder


def odd(path: Path, kind: str) -> Path:
    """Put what is no ordinary file at `path`."""
    path.unlink(missing_ok=True)
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    else:
        path.symlink_to({"link": "/etc/passwd", "device": "/dev/zero"}[kind])
    return path


ODD = ("pipe", "link", "device", "folder")


@pytest.mark.parametrize("kind", ODD)
def test_what_is_no_ordinary_file_is_neither_waited_for_nor_followed(
    kind: str, run: RunFolder
) -> None:
    path = odd(run.path / "odd", kind)
    with pytest.raises(OSError):  # noqa: PT011 - which one depends on what lies there
        open_plain(path)
    assert read_json(path) is None
    assert holder(RunFolder(run.path)) is None
    for name in ("journal", "lock", "control"):
        odd(getattr(run, name), kind)
    assert holder(run) is None
    assert run.stop_asked_by() is None
    with pytest.raises(CannotRecord):
        read_journal(run.journal)
    with pytest.raises(CannotRecord):
        FileJournal(run.journal, lambda: 0.0)
    with pytest.raises(CannotRecord):
        RunLock(run)


def test_what_an_owner_names_may_be_a_link_as_in_a_hubs_cache(tmp_path: Path) -> None:
    (tmp_path / "blob").write_text('{"model_type": "llama"}')
    model = tmp_path / "snapshot"
    model.mkdir()
    (model / "config.json").symlink_to("../blob")
    assert read_model(model)[0] == {"model_type": "llama"}
    odd(model / "config.json", "pipe")
    assert read_model(model)[0] is None


@pytest.mark.parametrize("kind", ODD)
def test_an_output_or_event_file_of_another_kind_is_a_gap(kind: str, tmp_path: Path) -> None:
    seen: list[bytes] = []
    tail = OutputTail(odd(tmp_path / "output.log", kind), seen.append, 2**20)
    tail.drain()
    tail.compact()
    assert tail.gaps()
    assert seen == []
    odd(tmp_path / "rank0.jsonl", kind)
    assert EventFolder(tmp_path).poll() == []


def test_a_log_that_became_a_link_is_not_cut(precious: Path, tmp_path: Path) -> None:
    big = precious / "big"
    big.write_bytes(b"x" * 2**22)
    log = tmp_path / "output.log"
    log.symlink_to(big)
    bound = DiskBound(log, 2**16)
    bound.enforce(2**22)
    bound.compact()
    assert big.read_bytes() == b"x" * 2**22
    log.unlink()
    log.write_bytes(b"y" * 2**18)
    (tmp_path / "output.log.compact").symlink_to(precious / "file")
    DiskBound(log, 2**16).compact()
    assert (precious / "file").read_text() == "precious"
    assert log.stat().st_size < 2**17


def test_a_file_that_is_written_replaces_what_was_planted_there(
    precious: Path, tmp_path: Path
) -> None:
    (tmp_path / "a.json").symlink_to(precious / "file")
    for plant in (lambda path: path.symlink_to(precious / "file"), os.mkfifo,
                  lambda path: path.hardlink_to(precious / "file")):  # fmt: skip
        plant(tmp_path / ".a.json.partial")
        write_text(tmp_path / "a.json", "ours")
    assert (tmp_path / "a.json").read_text() == "ours"
    assert not (tmp_path / "a.json").is_symlink()
    assert (precious / "file").read_text() == "precious"


@pytest.mark.parametrize("name", ["attempts", "checkpoints", "staged", "known-good", "ops"])
def test_a_link_in_the_place_of_a_folder_of_the_run_is_refused(
    name: str, run: RunFolder, precious: Path
) -> None:
    place = run.path / name
    if place.exists():
        place.rmdir()
    place.symlink_to(precious)
    with pytest.raises(CannotRecord, match="cannot be made"):
        run.create()
    with pytest.raises(OSError, match="a link or a file"):
        run.refuse_links()
    with pytest.raises(OSError, match="a link or a file"):
        make_folder(place)
    with pytest.raises(OSError, match="a link"):
        write_text(place / "file", "ours")
    assert (precious / "file").read_text() == "precious"


def test_checkpoints_behind_a_link_are_neither_taken_nor_removed(
    precious: Path, tmp_path: Path
) -> None:
    half = precious / "checkpoint-9"
    half.mkdir()
    (half / checkpoints.BEGUN).touch()
    linked = tmp_path / "checkpoints"
    linked.symlink_to(precious)
    assert checkpoints.remove_broken(linked, 0) == []
    assert list(checkpoints.whole(linked)) == []
    assert half.exists()


@pytest.mark.parametrize("kind", ODD)
@pytest.mark.parametrize("name", ["autotune-complete.json", "trainer_state.json", "latest"])
def test_a_checkpoint_of_odd_files_is_not_whole(kind: str, name: str, tmp_path: Path) -> None:
    folder = tmp_path / "checkpoint-3"
    (folder / "global_step3").mkdir(parents=True)
    (folder / "global_step3" / "a_optim_states.pt").write_bytes(b"x")
    (folder / "latest").write_text("global_step3")
    (folder / "trainer_state.json").write_text('{"global_step": 3}')
    (folder / "autotune-complete.json").write_text('{"step": 3, "world_size": 1}')
    assert isinstance(checkpoints.inspect(folder), checkpoints.Checkpoint)
    odd(folder / name, kind)
    assert isinstance(checkpoints.inspect(folder), str)


def maze(place: Path) -> None:
    """Nest folders deeper than Python recurses; `mkdir -p` cannot name so deep a path."""
    where = os.open(place, os.O_RDONLY)
    for _ in range(3000):
        os.mkdir("a", dir_fd=where)
        below = os.open("a", os.O_RDONLY, dir_fd=where)
        os.close(where)
        where = below
    os.close(where)


def look(folder: RescueFolder) -> str:
    for _ in range(100):
        seen = folder.look(7)
        if seen.whole or seen.why:
            return seen.why
    return "nothing"


@pytest.mark.parametrize("kind", [*ODD, "maze"])
def test_what_ranks_rescue_is_verified_by_size_and_sum_and_holds_no_odd_file(
    kind: str, tmp_path: Path
) -> None:
    part(tmp_path, 0, 1, 7)
    saved = tmp_path / "checkpoint-7"
    if kind == "maze":
        maze(saved)
    else:
        odd(saved / "global_step7" / "mp_rank_00_model_states.pt", kind)
    folder = RescueFolder(tmp_path, 1)
    assert look(folder)
    assert folder.whole is None
    remove_tree(saved)
    assert not saved.exists()


def test_no_file_outside_of_the_checkpoint_is_vouched_for(tmp_path: Path) -> None:
    part(tmp_path, 0, 1, 7, files=[{"name": "../rank0.json", "bytes": 1, "sha256": ""}])
    assert "no file of its own" in look(RescueFolder(tmp_path, 1))


def test_the_supervisor_unpickles_nothing() -> None:
    house = (ROOT / "tests" / "test_house.py").read_text(encoding="utf-8")
    assert "RUNS_WHAT_IT_READS" in house  # held there for every file outside of `child`
    assert '"pickle"' in house


def test_a_lock_behind_a_link_is_not_removed_and_no_endless_file_is_copied(
    precious: Path, tmp_path: Path
) -> None:
    (precious / "lock").touch()
    ops = tmp_path / "ops"
    (ops / "op").mkdir(parents=True)
    (ops / "op" / "op.so").write_bytes(b"elf")
    (ops / "op" / "zero").symlink_to("/dev/zero")
    os.mkfifo(ops / "op" / "pipe")
    (ops / "evil").symlink_to(precious)
    assert clear_locks(ops) == []
    assert (precious / "lock").exists()
    keep(ops, tmp_path / "cache")
    assert [one.name for one in (tmp_path / "cache" / "op").iterdir()] == ["op.so"]


@pytest.mark.parametrize(
    "told", ["", "d", "deepspeed_allreduce_buffer_", "deepspeed_allreduce_buffer_0_127.0.0.1_1", 7]
)
def test_only_the_attempts_own_shared_memory_is_ever_named(told: object, tmp_path: Path) -> None:
    (tmp_path / "command.json").write_text(json.dumps({"shared_memory": told}))
    assert prefix_of(tmp_path) == ""
    ours = f"deepspeed_allreduce_buffer_{os.getuid()}_127.0.0.1_40000_"
    (tmp_path / "command.json").write_text(json.dumps({"shared_memory": ours}))
    assert prefix_of(tmp_path) == ours


def test_a_process_that_a_rank_only_names_is_never_signalled(tmp_path: Path) -> None:
    # It would end at any real-time signal, for which it has no handler.
    stranger = subprocess.Popen(["sleep", "60"])
    try:
        (tmp_path / "rank0.txt").write_text("Thread 0x1 (most recent call first):\n")
        StackTaker(tmp_path, tmp_path, sys.executable).take({0: stranger.pid}, members=())
        assert stranger.poll() is None
    finally:
        stranger.kill()
        stranger.wait()


def test_a_hole_of_terabytes_in_the_place_of_events_is_left_out(tmp_path: Path) -> None:
    path = tmp_path / "rank0.jsonl"
    path.write_bytes(b'{"kind": "start", "pid": 9}\n')
    with path.open("r+b") as file:
        file.truncate(2**42)
    folder, found = EventFolder(tmp_path), []
    for _ in range(50):
        found += folder.poll()
    assert [event.kind for event in found] == ["start"]
    assert folder.gaps()


@pytest.mark.long
def test_a_journal_of_deep_or_endless_lines_is_refused_in_words(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    path.write_text("[" * 100_000 + "\n")
    with pytest.raises(CannotRecord, match="cannot be read"):
        read_journal(path)
    with path.open("wb") as file:
        file.truncate(2**40)
    with pytest.raises(CannotRecord, match="far too large"):
        read_journal(path)


def test_no_text_gives_orders_to_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    say_lines([f"{ESCAPES} said\nso"])
    shown = capsys.readouterr().out
    assert "said\n    so" in shown
    assert [char for char in shown if not (char.isprintable() or char == "\n")] == []


def test_a_fault_in_a_file_gives_no_orders_either(tmp_path: Path) -> None:
    job = tmp_path / "job.yaml"
    job.write_text('"a\\e]0;pwned\\a": 1\n')
    done = subprocess.run(
        [sys.executable, "-m", "autotune.cli.app", "check", str(job)],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert "pwned" in done.stderr
    assert "\x1b" not in done.stderr


@pytest.mark.long
@pytest.mark.parametrize(
    "text",
    [
        'name: !!python/object/apply:os.system ["touch pwned"]\n',
        "a: &a [*a, *a]\n",
        "&a {b: *a, c: *a}\n",
        "a: &a [x, x, x, x, x, x, x, x, x, x]\n"
        + "".join(
            f"{new}: &{new} [{', '.join([f'*{old}'] * 10)}]\n"
            for old, new in zip("abcdefgh", "bcdefghi", strict=True)
        ),
        "[" * 100_000,
        "{a: " * 20_000,
    ],
    ids=["code", "loop", "loop of keys", "laughs", "deep", "deep keys"],
)
def test_a_job_or_policy_file_runs_nothing_and_stays_small(text: str, tmp_path: Path) -> None:
    path = tmp_path / "job.yaml"
    path.write_text(text)
    try:
        value = read_document(path).value
    except InputError:
        return
    assert not Path("pwned").exists()
    # The tag is passed over and its words are words; what holds itself holds nothing.
    assert value in ({"name": ["touch pwned"]}, {"a": [None, None]})


NAMES = ("../up", "-x", "--run-dir", "a b", "a;b", "a\nb", "$(a)", "", ".", "a/b", "\x1b[2J")


@pytest.mark.parametrize("name", NAMES)
def test_a_name_is_never_a_path_an_option_or_a_command(name: str) -> None:
    job: dict[str, Any] = {"framework": "finetune", "settings": {},
                           "batch": {"global": 1, "micro": 1}}  # fmt: skip
    assert Job.model_validate({**job, "name": "plain"})
    with pytest.raises(ValueError, match="a name is 1 to 100 letters"):
        Job.model_validate({**job, "name": name})
    with pytest.raises(ValueError, match="environment"):
        Job.model_validate({**job, "name": "plain", "env": {f"A={name}": "x"}})
    with pytest.raises(ValueError, match="environment"):
        Job.model_validate({**job, "name": "plain", "env_from": [f"A={name}"]})
    assert training_python(name or "x", Path("/jobs")).startswith("/")


@pytest.mark.parametrize(
    "hostile", ["a'b", 'a"b', "$(touch pwned)", "`touch pwned`", "a}b", "a\nb"]
)
def test_the_relaunch_script_runs_what_it_names_and_nothing_else(
    hostile: str, tmp_path: Path
) -> None:
    python = tmp_path / hostile
    python.write_text('#!/bin/sh\nprintf "%s" "$1|$GIVEN" > "$2"\n')
    python.chmod(0o700)
    told = tmp_path / "told"
    argv = (str(python), hostile, str(told))
    script = launch_script("name", argv, {"GIVEN": hostile}, [], f"# {hostile!r}\n")
    (tmp_path / "launch.sh").write_text(script)
    subprocess.run(["sh", "launch.sh"], cwd=tmp_path, check=True, timeout=60)
    assert told.read_text() == f"{hostile}|{hostile}"
    assert not (tmp_path / "pwned").exists()


def test_a_secret_is_hidden_by_its_name_or_form_and_innocent_values_stay() -> None:
    env = {"HF_TOKEN": SECRET, "ODD": SECRET + "2", "CUDA_HOME": "/usr/local/cuda", "A_KEY": "x",
           "MY_TOKEN": "short"}  # fmt: skip
    secrets = secret_values(env, [*env, "UNSET_TOKEN"])
    assert set(secrets) == {SECRET.encode(), (SECRET + "2").encode()}
    said = f"401 for {SECRET}, {SECRET}2 below /usr/local/cuda".encode()
    assert hide(said, secrets) == b"401 for %s, %s below /usr/local/cuda" % (HIDDEN, HIDDEN)


def test_a_python_that_is_only_asked_its_versions_is_given_no_secret(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", SECRET)
    python = tmp_path / "python"
    python.write_text(f'#!/bin/sh\nenv > "{tmp_path}/loot"\nexit 1\n')
    python.chmod(0o700)
    with pytest.raises(InputError):
        versions(str(python), ())
    assert SECRET not in (tmp_path / "loot").read_text()


@pytest.mark.skipif(os.getuid() != 0, reason="only root can become a lesser user to try it")
def test_a_training_cannot_read_the_secrets_of_its_supervisor_from_proc() -> None:
    def steal(pid: int) -> bool:
        try:
            return bool(Path(f"/proc/{pid}/environ").read_bytes())
        except OSError:
            return False

    def stolen_by_a_child(private: bool) -> bool:
        os.setgroups([])
        os.setgid(65534)
        os.setuid(65534)
        # The change of user has hidden us already; a program that was just started is open.
        ctypes.CDLL(None).prctl(4, 1, 0, 0, 0)
        assert keep_memory_private() if private else True
        supervisor = os.getpid()
        return bool(in_time(lambda: steal(supervisor), 30))

    assert in_time(lambda: stolen_by_a_child(private=False), 60) is True
    assert in_time(lambda: stolen_by_a_child(private=True), 60) is False


def test_what_everybody_may_write_to_is_not_trusted(tmp_path: Path) -> None:
    inside = tmp_path / "all" / "mine" / "deep" / "job.yaml"
    inside.parent.mkdir(parents=True)
    inside.write_text("")
    assert open_to_all([inside]) == ([], [])
    inside.chmod(0o666)
    refused, _ = open_to_all([inside])
    assert [fault.where for fault in refused] == [str(inside)]
    inside.chmod(0o600)
    inside.parent.chmod(0o777)
    assert open_to_all([inside])[0]
    inside.parent.chmod(0o1777)  # as /tmp: nobody can take away what is ours
    assert open_to_all([inside]) == ([], [])
    (tmp_path / "all").chmod(0o777)
    refused, noted = open_to_all([inside])
    assert refused == []
    assert [fault.where for fault in noted] == [str(tmp_path / "all")]
    link = tmp_path / "job.yaml"
    link.symlink_to(inside)
    inside.chmod(0o666)
    assert open_to_all([link])[0]


def test_a_job_that_everybody_may_change_is_refused(tmp_path: Path) -> None:
    job = tmp_path / "job.yaml"
    job.write_text("name: a\n")
    job.chmod(0o666)
    assert "open_to_all" in Path(wiring.__file__).read_text()
    assert "chmod o-w" in open_to_all([job])[0][0].hint


def test_every_line_of_the_threat_model_names_a_test_that_exists() -> None:
    page = (ROOT / "autotune" / "ARCHITECTURE.md").read_text(encoding="utf-8")
    model = page.partition("# The threat model\n")[2].partition("\n# ")[0]
    named = re.findall(r"`(test_\w+)`", model)
    assert len(named) >= 20
    held = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "tests").rglob("test_*.py"))
    assert [name for name in named if f"def {name}(" not in held] == []
    lines = [line for line in model.splitlines() if line.startswith("| ") and "---" not in line]
    assert [line for line in lines[1:] if "`test_" not in line] == []
