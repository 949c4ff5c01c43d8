"""What runs leave on a machine is cleaned up, and what is not ours stays."""

import os
from pathlib import Path

from autotune.world.environment import free_port
from autotune.world.ops_cache import cache_folder, clear_locks, forget, keep, warm
from autotune.world.shared_memory import sweep


def build(folder: Path, op: str, lock: bool = False) -> None:
    """Make a folder as torch leaves it after building an extension."""
    (folder / op).mkdir(parents=True)
    (folder / op / f"{op}.so").write_bytes(b"elf")
    if lock:
        (folder / op / "lock").touch()


def test_a_finished_build_reaches_the_next_run_through_the_cache(tmp_path: Path) -> None:
    build(tmp_path / "first", "cpu_adam")

    keep(tmp_path / "first", tmp_path / "cache")
    warm(tmp_path / "second", tmp_path / "cache")

    assert (tmp_path / "second" / "cpu_adam" / "cpu_adam.so").read_bytes() == b"elf"


def test_a_build_made_anew_takes_the_place_of_the_one_in_the_cache(tmp_path: Path) -> None:
    build(tmp_path / "first", "cpu_adam")
    keep(tmp_path / "first", tmp_path / "cache")
    kept = tmp_path / "cache" / "cpu_adam" / "cpu_adam.so"
    for name, age in (("older", -60), ("newer", 60)):
        build(tmp_path / name, "cpu_adam")
        made = tmp_path / name / "cpu_adam" / "cpu_adam.so"
        made.write_text(name)
        os.utime(made, (kept.stat().st_mtime + age,) * 2)
        keep(tmp_path / name, tmp_path / "cache")

    assert kept.read_text() == "newer"
    assert [one.name for one in (tmp_path / "cache").iterdir()] == ["cpu_adam"]


def test_a_build_whose_lock_is_held_is_not_kept(tmp_path: Path) -> None:
    build(tmp_path / "first", "cpu_adam", lock=True)

    keep(tmp_path / "first", tmp_path / "cache")

    assert not (tmp_path / "cache" / "cpu_adam").exists()


def test_stale_locks_are_removed_from_a_runs_own_folder(tmp_path: Path) -> None:
    build(tmp_path / "ops", "cpu_adam", lock=True)

    assert clear_locks(tmp_path / "ops") == ["cpu_adam"]

    assert not (tmp_path / "ops" / "cpu_adam" / "lock").exists()


def test_what_is_forgotten_is_gone_from_the_run_and_the_cache_also_the_second_time(
    tmp_path: Path,
) -> None:
    build(tmp_path / "first", "cpu_adam")
    keep(tmp_path / "first", tmp_path / "cache")

    for _ in range(2):
        forget(tmp_path / "first", tmp_path / "cache")

        warm(tmp_path / "second", tmp_path / "cache")
        assert not (tmp_path / "first").exists()
        assert not (tmp_path / "second").exists()


def test_a_build_that_vanishes_while_it_is_copied_leaves_no_half_of_it(tmp_path: Path) -> None:
    build(tmp_path / "cache", "cpu_adam")
    (tmp_path / "cache" / "cpu_adam" / "build.ninja").symlink_to(tmp_path / "gone")

    warm(tmp_path / "ops", tmp_path / "cache")

    assert not (tmp_path / "ops" / "cpu_adam").exists()


def test_a_port_that_was_drawn_before_is_not_drawn_again() -> None:
    every_other = set(range(0, 65536, 2))
    assert all(free_port(every_other) % 2 == 1 for _ in range(20))


def test_a_run_that_cannot_reach_the_cache_goes_on(tmp_path: Path) -> None:
    build(tmp_path / "ops", "cpu_adam")
    (tmp_path / "cache").write_text("a file where the cache should be")

    keep(tmp_path / "ops", tmp_path / "cache")
    warm(tmp_path / "ops", tmp_path / "cache")


def test_only_segments_of_this_attempt_are_swept(tmp_path: Path) -> None:
    for name in ("buffer_0_1_33_0", "buffer_0_1_33_1", "buffer_0_1_334_0", "other"):
        (tmp_path / name).touch()
    (tmp_path / "buffer_0_1_33_2").mkdir()

    assert sorted(sweep("buffer_0_1_33_", tmp_path)) == ["buffer_0_1_33_0", "buffer_0_1_33_1"]

    assert sweep("", tmp_path) == []
    assert {f.name for f in tmp_path.iterdir()} == {"buffer_0_1_334_0", "other", "buffer_0_1_33_2"}


def test_each_python_keeps_builds_of_its_own() -> None:
    versions = {"torch": "2.13.0", "deepspeed": "0.19.8"}
    one, other = (cache_folder(versions, python) for python in ("/one/bin/python", "/two/python"))
    assert one != other
    assert one == cache_folder(dict(versions), "/one/bin/python")
    assert cache_folder({**versions, "torch": "2.14.0"}, "/one/bin/python") != one
