"""Memory cgroups of both versions; version 2 on a recorded tree, since none is delegated here."""

import os
from pathlib import Path

import pytest

from autotune.core.evidence import Gap
from autotune.world import cgroup
from autotune.world.cgroup import (
    LEAF,
    Cgroup,
    left_cgroup,
    make_cgroup,
    make_v1,
    make_v2,
    own_cgroup,
)

UNIT = "system.slice/autotune@x.service"


def recorded(folder: Path, controllers: str) -> Path:
    """Make a folder as the kernel shows a version 2 group that hands on `controllers`."""
    folder.mkdir(parents=True)
    (folder / "cgroup.subtree_control").write_text(controllers)
    return folder


def test_a_delegated_version_2_group_gets_a_limited_child(tmp_path: Path) -> None:
    made = make_v2(recorded(tmp_path / "own", "cpu memory pids"), "autotune-x", 1000)

    assert isinstance(made, Cgroup)
    assert (made.path / "memory.max").read_text() == "1000"


def test_kills_are_counted_in_version_2s_events(tmp_path: Path) -> None:
    (tmp_path / "memory.events").write_text("low 0\nhigh 0\nmax 7\noom 2\noom_kill 1\n")

    assert Cgroup(tmp_path, 1000, 2).oom_kills() == 1


def test_kills_are_counted_in_version_1s_control_file(tmp_path: Path) -> None:
    text = "oom_kill_disable 0\nunder_oom 0\noom_kill 3\n"
    (tmp_path / "memory.oom_control").write_text(text)

    assert Cgroup(tmp_path, 1000, 1).oom_kills() == 3


def test_a_counter_that_cannot_be_read_is_unknown_not_zero(tmp_path: Path) -> None:
    assert Cgroup(tmp_path, 1000, 2).oom_kills() is None


def test_version_2_without_delegation_is_a_gap_with_its_reason(tmp_path: Path) -> None:
    made = make_v2(recorded(tmp_path / "own", "cpu pids"), "autotune-x", 1000)

    assert isinstance(made, Gap)
    assert "does not delegate" in made.why


def test_a_group_without_a_limit_counts_and_limits_nothing(tmp_path: Path) -> None:
    made = make_v2(recorded(tmp_path / "own", "memory"), "autotune-x", None)
    assert isinstance(made, Cgroup)
    assert (made.path / "memory.max").read_text() == "max"

    made = make_v1(tmp_path / "version 1", None)
    assert isinstance(made, Cgroup)
    assert list(made.path.iterdir()) == []


def delegated(
    root: Path,
    patch: pytest.MonkeyPatch,
    mark: str = "user.delegate",
    procs: str = f"{os.getpid()}\n",
    controllers: str = "cpu memory pids\n",
) -> Path:
    """Record the group of a unit under version 2 in which we live, as systemd 252 leaves it."""
    unit = recorded(root / UNIT, "")
    (unit / "cgroup.procs").write_text(procs)
    (unit / "cgroup.controllers").write_text(controllers)
    patch.setattr(cgroup, "_where_we_live", lambda process="self": (2, UNIT))

    def read_mark(path: Path, name: str) -> bytes:
        if path != unit or name != mark:
            raise OSError(61, "No data available")
        return b"1"

    patch.setattr(os, "getxattr", read_mark)
    return unit


@pytest.mark.parametrize("mark", ["user.delegate", "trusted.delegate"])
def test_in_a_delegated_version_2_group_we_move_into_a_leaf_and_have_memory_handed_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mark: str
) -> None:
    unit = delegated(tmp_path, monkeypatch, mark)

    make_cgroup("autotune-x", 1000, root=tmp_path)

    assert (unit / LEAF / "cgroup.procs").read_text() == str(os.getpid())
    assert (unit / "cgroup.subtree_control").read_text() == "+memory"


def test_from_the_leaf_attempts_are_made_beside_it_and_the_units_group_is_ours(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    unit = recorded(tmp_path / UNIT, "memory pids")
    (unit / LEAF).mkdir()
    (unit / "memory.max").write_text("5000\n")
    monkeypatch.setattr(cgroup, "_where_we_live", lambda process="self": (2, f"{UNIT}/{LEAF}"))

    made = make_cgroup("autotune-x", 1000, root=tmp_path)

    assert isinstance(made, Cgroup)
    assert made.path == unit / "autotune-x"
    own = own_cgroup(root=tmp_path)
    assert own is not None
    assert (own.path, own.name, own.limit_bytes()) == (unit, f"/{UNIT}", 5000)
    left = left_cgroup("autotune-x", root=tmp_path)
    assert left is not None
    assert left.path == made.path
    assert left_cgroup("autotune-y", root=tmp_path) is None


def test_before_systemd_251_a_units_first_process_knows_its_own_group(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    unit = delegated(tmp_path, monkeypatch, mark="none")
    monkeypatch.setattr(os, "getuid", lambda: unit.stat().st_uid + 1)
    monkeypatch.setenv("SYSTEMD_EXEC_PID", str(os.getpid()))
    assert isinstance(make_cgroup("autotune-x", 1000, root=tmp_path), Gap)  # another's group

    monkeypatch.setattr(os, "getuid", lambda: unit.stat().st_uid or 4711)
    if unit.stat().st_uid == 0:
        os.chown(unit, 4711, -1)
    make_cgroup("autotune-x", 1000, root=tmp_path)
    assert (unit / LEAF / "cgroup.procs").exists()


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"mark": "none"}, "is not delegated to us"),
        ({"procs": f"1\n{os.getpid()}\n"}, "other processes live in"),
        ({"controllers": "cpu pids\n"}, "does not delegate the memory controller"),
    ],
)
def test_a_group_that_is_not_ours_alone_is_left_as_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changes: dict[str, str], why: str
) -> None:
    unit = delegated(tmp_path, monkeypatch, **changes)

    made = make_cgroup("autotune-x", 1000, root=tmp_path)

    assert isinstance(made, Gap)
    assert why in made.why
    assert not (unit / LEAF).exists()
    assert (unit / "cgroup.subtree_control").read_text() == ""


def test_where_nothing_can_be_made_it_says_why(tmp_path: Path) -> None:
    made = make_cgroup("autotune-x", 1000, root=tmp_path / "nowhere")

    assert isinstance(made, Gap)
    assert made.why
