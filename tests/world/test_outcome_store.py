"""The store of outcomes helps and never harms: whatever lies there, reading it raises nothing."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from autotune.core.codec import to_plain
from autotune.core.outcome import Outcome
from autotune.core.prior import MOST_OF_A_KIND
from autotune.world.outcome_store import MOST_BYTES, Held, OutcomeStore, default_folder
from tests.builders import plan
from tests.outcomes import outcome

ROOT = Path(__file__).parents[2]


def of_plan(number: int) -> Outcome:
    return outcome(of=plan(accumulation=number + 1))


@pytest.fixture
def store(tmp_path: Path) -> OutcomeStore:
    return OutcomeStore(tmp_path / "state" / "autotune")


@pytest.fixture
def file(store: OutcomeStore) -> Path:
    """The file of a store that holds one outcome."""
    assert store.add(of_plan(0)) == ""
    assert store.path is not None
    return store.path


def test_what_was_added_is_read_in_its_order(store: OutcomeStore) -> None:
    assert store.read() == Held()
    assert [store.add(of_plan(number)) for number in range(3)] == ["", "", ""]
    assert store.read() == Held(tuple(of_plan(number) for number in range(3)))


def test_only_its_owner_can_read_it(file: Path) -> None:
    assert file.stat().st_mode & 0o777 == 0o600
    assert file.parent.stat().st_mode & 0o777 == 0o700


def test_it_holds_the_newest_of_a_kind_and_no_more(store: OutcomeStore) -> None:
    for number in range(MOST_OF_A_KIND + 3):
        assert store.add(of_plan(number)) == ""
    assert store.read().outcomes == tuple(of_plan(n) for n in range(3, MOST_OF_A_KIND + 3))


def test_a_senseless_outcome_is_not_written(store: OutcomeStore) -> None:
    bad = of_plan(0)
    object.__setattr__(bad, "spread", float("nan"))
    assert "was not kept" in store.add(bad)
    assert store.read() == Held()


def test_a_file_cut_at_any_byte_is_read_and_mended(file: Path, store: OutcomeStore) -> None:
    whole = file.read_bytes()
    for at in range(0, len(whole), 7):
        file.write_bytes(whole[:at])
        assert store.read().outcomes in ((), (of_plan(0),))
        assert store.add(of_plan(1)) == ""
        after = store.read()
        assert (after.outcomes[-1], after.skipped) == (of_plan(1), 0)


HOSTILE = [
    b"[" * 8000,
    b'{"schema": 1' + b"0" * 5000 + b"}",
    b"\xff\xfe\x00",
    b"null",
    b"1e999",
    b'{"day": NaN}',
    b"x" * 100_000,
    json.dumps(to_plain(of_plan(0)) | {"schema": 2}).encode(),
    json.dumps(to_plain(of_plan(0)) | {"plan": {"world_size": 1}}).encode(),
    json.dumps(to_plain(of_plan(0)) | {"measured_bytes": 10**400}).encode(),
    json.dumps(to_plain(of_plan(0)) | {"step_seconds": "1"}).encode(),
]


@pytest.mark.parametrize("line", HOSTILE, ids=range(len(HOSTILE)))
def test_a_hostile_line_is_passed_over_and_counted(
    line: bytes, file: Path, store: OutcomeStore
) -> None:
    file.write_bytes(line + b"\n" + file.read_bytes())
    assert store.read() == Held((of_plan(0),), 1)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=300))
def test_any_bytes_can_lie_there(file: Path, store: OutcomeStore, junk: bytes) -> None:
    file.write_bytes(junk)
    assert store.read().note == ""
    assert store.add(of_plan(5)) == ""
    assert store.read().outcomes == (of_plan(5),)


def test_a_file_far_too_long_is_read_from_its_end_and_cut(file: Path, store: OutcomeStore) -> None:
    file.write_bytes((b"junk" * 25 + b"\n") * 20_000 + file.read_bytes())
    held = store.read()
    assert held.outcomes == (of_plan(0),)
    assert held.skipped
    assert store.add(of_plan(1)) == ""
    assert file.stat().st_size < MOST_BYTES
    assert store.read() == Held((of_plan(0), of_plan(1)))


def link(file: Path, elsewhere: Path) -> None:
    elsewhere.write_bytes(file.read_bytes())
    file.unlink()
    file.symlink_to(elsewhere)


def pipe(file: Path, elsewhere: Path) -> None:
    file.unlink()
    os.mkfifo(file)


def folder(file: Path, elsewhere: Path) -> None:
    file.unlink()
    file.mkdir()


def linked_folder(file: Path, elsewhere: Path) -> None:
    file.parent.rename(elsewhere)
    file.parent.symlink_to(elsewhere)


def writable_by_all(file: Path, elsewhere: Path) -> None:
    file.chmod(0o666)


def folder_writable_by_all(file: Path, elsewhere: Path) -> None:
    file.parent.chmod(0o777)


def a_file_for_a_folder(file: Path, elsewhere: Path) -> None:
    file.parent.rename(elsewhere)
    file.parent.write_text("")


def anothers(file: Path, elsewhere: Path) -> None:
    os.chown(file, 12345, 12345)


def anothers_folder(file: Path, elsewhere: Path) -> None:
    os.chown(file.parent, 12345, 12345)


def a_linked_lock(file: Path, elsewhere: Path) -> None:
    elsewhere.write_text("precious")
    (file.parent / "outcomes.lock").unlink()
    (file.parent / "outcomes.lock").symlink_to(elsewhere)
    file.write_bytes(b"")


UNTRUSTED = [
    link, pipe, folder, linked_folder, writable_by_all, folder_writable_by_all,
    a_file_for_a_folder, anothers, anothers_folder,
]  # fmt: skip


@pytest.mark.parametrize("trap", [*UNTRUSTED, a_linked_lock], ids=lambda trap: trap.__name__)
def test_what_cannot_be_trusted_is_a_note_and_an_empty_store(
    trap: Callable[[Path, Path], None], file: Path, store: OutcomeStore, tmp_path: Path
) -> None:
    if trap in (anothers, anothers_folder) and os.geteuid():
        pytest.skip("only root can give a file away")
    elsewhere = tmp_path / "elsewhere"
    trap(file, elsewhere)
    before = elsewhere.read_bytes() if elsewhere.is_file() else b""

    held = store.read()
    assert held.outcomes == ()
    assert held.note.startswith("the outcomes of earlier runs cannot be read") or trap not in (
        UNTRUSTED
    )
    assert "cannot be written" in store.add(of_plan(1))
    assert (elsewhere.read_bytes() if elsewhere.is_file() else b"") == before


def test_a_user_without_a_home_has_no_store(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("XDG_STATE_HOME", raising=False)
    monkeypatch.setenv("HOME", "nowhere")
    store = OutcomeStore()
    assert store.path is None
    assert "no home folder" in store.read().note
    assert "no home folder" in store.add(of_plan(0))


def test_the_state_folder_of_the_user_is_used(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_STATE_HOME", "relative, so ignored")
    assert default_folder() == tmp_path / ".local" / "state" / "autotune"
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    assert default_folder() == tmp_path / "state" / "autotune"


AS_A_LESSER_USER = """
import os, sys
from pathlib import Path
from autotune.world.outcome_store import OutcomeStore
from tests.outcomes import outcome
if not os.getuid():
    os.setgid(65534), os.setuid(65534)
store = OutcomeStore(Path(sys.argv[1]))
print(repr(store.add(outcome())), repr(store.read().note), repr(store.forget()))
"""


def as_a_lesser_user(folder: Path) -> str:
    done = subprocess.run(
        [sys.executable, "-c", AS_A_LESSER_USER, str(folder)],
        capture_output=True, text=True, timeout=120, cwd=ROOT, check=True,
    )  # fmt: skip
    return done.stdout


def test_a_folder_that_may_not_be_written_is_a_note(tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir(mode=0o555)
    assert "cannot be written" in as_a_lesser_user(home / "autotune")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become a lesser user")
def test_nothing_is_made_in_the_home_of_another_user(tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    os.chown(home, 12345, 12345)
    store = OutcomeStore(home / ".local" / "state" / "autotune")
    assert "belongs to another user" in store.add(of_plan(0))
    assert list(home.iterdir()) == []


def test_a_full_disk_is_a_note_and_leaves_what_was_there(file: Path) -> None:
    # A limit on the size of files refuses the write for real, as a full disk does.
    code = (
        "import resource, signal, sys\nfrom pathlib import Path\n"
        "from autotune.world.outcome_store import OutcomeStore\n"
        "from tests.outcomes import outcome\n"
        "store = OutcomeStore(Path(sys.argv[1]))\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "size = store.path.stat().st_size + 40\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))\n"
        "print(store.add(outcome()))\n"
    )
    before = file.read_bytes()
    done = subprocess.run(
        [sys.executable, "-c", code, str(file.parent)],
        capture_output=True, text=True, timeout=120, cwd=ROOT, check=True,
    )  # fmt: skip
    assert "cannot be written" in done.stdout
    assert file.read_bytes() == before


def test_two_that_write_at_once_lose_nothing(store: OutcomeStore) -> None:
    code = (
        "import sys\nfrom pathlib import Path\n"
        "from autotune.world.outcome_store import OutcomeStore\n"
        "from tests.builders import plan\nfrom tests.outcomes import outcome\n"
        "store = OutcomeStore(Path(sys.argv[1]))\n"
        "for n in range(5):\n"
        "    assert store.add(outcome(of=plan(accumulation=int(sys.argv[2]) + n))) == ''\n"
    )
    assert store.path is not None
    where = str(store.path.parent)
    writers = [
        subprocess.Popen([sys.executable, "-c", code, where, first], cwd=ROOT)
        for first in ("1", "11")
    ]
    assert [writer.wait(timeout=120) for writer in writers] == [0, 0]
    held = store.read()
    assert (len(held.outcomes), held.skipped) == (10, 0)
    assert {one.plan.accumulation for one in held.outcomes} == {*range(1, 6), *range(11, 16)}


def test_to_forget_deletes_everything(file: Path, store: OutcomeStore) -> None:
    assert store.forget() == ""
    assert not file.exists()
    assert store.read() == Held()
    assert store.forget() == ""
