"""A lease is held by one, dies with its holder, and is not led astray by what lies in its way."""

import fcntl
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from autotune.world import leases
from autotune.world.leases import Leases, Unleasable, find_place

ROOT = Path(__file__).parents[2]
KEY = "GPU-0f3a"
HOLDS = """
import os, sys, pathlib, subprocess
from autotune.world.leases import Leases
held = Leases("their-job", pathlib.Path(sys.argv[1]))
assert held.take(sys.argv[2:]) is None
child = subprocess.Popen(["sleep", "100"])
print(child.pid, flush=True)
sys.stdin.read()
"""


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """Return a folder that is open to all and sticky."""
    folder = tmp_path / "place"
    folder.mkdir()
    folder.chmod(0o1777)
    return folder


@pytest.fixture
def neighbour(place: Path) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """Return a process that holds the lease, and its child that has outlived many."""
    theirs = subprocess.Popen(
        [sys.executable, "-c", HOLDS, str(place), KEY],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT,
    )  # fmt: skip
    assert theirs.stdout is not None
    child = int(theirs.stdout.readline())
    yield theirs, child
    os.kill(child, signal.SIGKILL)
    theirs.kill()
    theirs.communicate()


Neighbour = tuple[subprocess.Popen[str], int]


def test_a_lease_that_another_holds_is_refused_and_named(place: Path, neighbour: Neighbour) -> None:
    ours = Leases("our-job", place)
    pid = neighbour[0].pid
    for who in (ours.holder(KEY), ours.take([KEY])):
        assert who is not None
        assert (who.pid, who.job) == (pid, "their-job")
        assert f"their-job (process {pid})" in str(who)


def test_a_lease_dies_with_its_holder_though_a_child_lives_on(
    place: Path, neighbour: Neighbour
) -> None:
    theirs, child = neighbour
    theirs.kill()
    theirs.wait()

    ours = Leases("our-job", place)

    assert ours.holder(KEY) is None
    assert ours.take([KEY]) is None
    os.kill(child, 0)  # and lives on


def test_somebody_who_only_shares_the_lock_holds_it_as_well(place: Path) -> None:
    """Else a lease would look free for ever and be refused as often."""
    first = Leases("first", place)
    assert first.take([KEY]) is None
    first.release()
    with (place / f"autotune-{KEY}.lease").open() as file:
        fcntl.flock(file, fcntl.LOCK_SH)
        ours = Leases("our-job", place)
        assert ours.holder(KEY) is not None
        assert ours.take([KEY]) is not None


def test_all_or_none_of_several_are_taken(place: Path, neighbour: Neighbour) -> None:
    ours, third = Leases("our-job", place), Leases("third", place)
    assert ours.take(["GPU-1"]) is None
    assert ours.take(["GPU-2", KEY]) is not None
    # What was held is held still, and the one that could be had was given back.
    assert third.holder("GPU-1") is not None
    assert third.take(["GPU-2"]) is None


def test_what_is_wanted_no_longer_is_given_back(place: Path) -> None:
    ours, third = Leases("our-job", place), Leases("third", place)
    assert ours.take(["GPU-1", "GPU-2"]) is None
    assert ours.take(["GPU-2"]) is None
    assert third.take(["GPU-1"]) is None
    assert third.take(["GPU-1", "GPU-2"]) is not None
    ours.release()
    assert third.take(["GPU-1", "GPU-2"]) is None


def test_looking_makes_no_file_and_keeps_no_lock(place: Path) -> None:
    assert Leases("our-job", place).holder(KEY) is None
    assert list(place.iterdir()) == []


@pytest.mark.parametrize("what", ["link", "dangling", "folder", "fifo", "hard link"])
def test_what_is_no_plain_file_is_not_touched(what: str, place: Path) -> None:
    path, victim = place / f"autotune-{KEY}.lease", place / "victim"
    victim.write_text("theirs")
    if what == "link":
        path.symlink_to(victim)
    elif what == "dangling":
        path.symlink_to(place / "made-by-us")
    elif what == "folder":
        path.mkdir()
    elif what == "fifo":
        os.mkfifo(path)
    else:
        path.hardlink_to(victim)
    ours = Leases("our-job", place)
    with pytest.raises(Unleasable):
        ours.holder(KEY)
    # The other GPU is leased all the same.
    assert ours.take([KEY, "GPU-1"]) is None
    assert list(ours.faults) == [KEY]
    assert Leases("third", place).holder("GPU-1") is not None
    assert victim.read_text() == "theirs"
    assert not (place / "made-by-us").exists()


def test_a_note_is_not_written_through_a_link(place: Path) -> None:
    victim = place / "victim"
    victim.write_text("theirs")
    (place / f"autotune-{KEY}.{os.geteuid()}").symlink_to(victim)
    assert Leases("our-job", place).take([KEY]) is None
    assert victim.read_text() == "theirs"


def test_a_note_holds_no_more_than_the_job_and_the_process(place: Path) -> None:
    assert Leases("our-job", place).take([KEY]) is None
    (note,) = place.glob(f"*.{os.geteuid()}")
    assert json.loads(note.read_text()) == {"job": "our-job", "pid": os.getpid()}
    (lease,) = place.glob("*.lease")
    assert lease.read_bytes() == b""
    assert lease.stat().st_mode & 0o777 == note.stat().st_mode & 0o777 == 0o644


@pytest.mark.parametrize(
    "note", ["", "[]", "{", '{"pid": 1}', '{"job": "x\\u001b[2J", "pid": %d}', "9" * 9999]
)
def test_a_forged_note_costs_the_name_only(note: str, place: Path, neighbour: Neighbour) -> None:
    pid = neighbour[0].pid
    written = place / f"autotune-{KEY}.{os.geteuid()}"
    written.write_text(note % pid if "%d" in note else note)
    who = Leases("our-job", place).holder(KEY)
    assert who is not None
    assert (who.pid, who.job) == (pid, "")


def test_a_lease_whose_file_was_removed_is_taken_on_the_new_file(place: Path) -> None:
    first, second = Leases("first", place), Leases("second", place)
    assert first.take([KEY]) is None
    (place / f"autotune-{KEY}.lease").unlink()  # by its owner, which no lock prevents
    assert second.take([KEY]) is None
    assert Leases("third", place).holder(KEY) is not None


@pytest.mark.parametrize("key", ["", "../GPU-1", "GPU/1", "G" * 81])
def test_a_name_that_leads_elsewhere_is_refused(key: str, place: Path) -> None:
    ours = Leases("our-job", place)
    assert ours.take([key]) is None
    assert "no UUID" in ours.faults[key]


def test_a_place_is_common_and_sticky_or_it_is_none(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    link = place.parent / "link"
    link.symlink_to(place)
    private, loose = place.parent / "private", place.parent / "loose"
    private.mkdir(mode=0o700)
    loose.mkdir()
    loose.chmod(0o777)
    monkeypatch.setattr(leases, "PLACES", (place.parent / "none", link, private, loose))
    assert find_place() is None
    ours = Leases("our-job")
    assert ours.take([KEY]) is None
    assert "common folder" in ours.faults[KEY]
    monkeypatch.setattr(leases, "PLACES", (private, place))
    assert find_place() == place


@pytest.mark.skipif(os.geteuid() != 0, reason="needs two users")
def test_two_users_meet_at_one_lock(tmp_path: Path) -> None:
    # Below /tmp all the way, as another user must reach it.
    place = Path(f"/dev/shm/autotune-test-{os.getpid()}")
    place.mkdir()
    place.chmod(0o1777)
    lesser = "os.setgroups([]); os.setgid(65534); os.setuid(65534)\nheld ="
    code = HOLDS.replace("held =", lesser).replace('"sleep", "100"', '"/bin/true"')
    theirs = subprocess.Popen(
        [sys.executable, "-c", code, str(place), KEY],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT,
    )  # fmt: skip
    try:
        assert theirs.stdout is not None
        theirs.stdout.readline()
        ours = Leases("our-job", place)
        who = ours.take([KEY])
        assert who is not None
        assert (who.user, who.job) == ("nobody", "their-job")
        theirs.communicate("")
        # The file stays nobody's, and is locked by reading alone.
        assert ours.take([KEY]) is None
        assert (place / f"autotune-{KEY}.lease").stat().st_uid == 65534
    finally:
        theirs.kill()
        theirs.wait()
        for file in place.iterdir():
            file.unlink()
        place.rmdir()
