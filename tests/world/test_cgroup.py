"""Memory cgroups of both versions; version 2 on a recorded tree, since none is delegated here."""

from pathlib import Path

from autotune.core.evidence import Gap
from autotune.world.cgroup import Cgroup, make_cgroup, make_v2


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


def test_where_nothing_can_be_made_it_says_why(tmp_path: Path) -> None:
    made = make_cgroup("autotune-x", 1000, root=tmp_path / "nowhere")

    assert isinstance(made, Gap)
    assert made.why
