"""A model of the hub is found where huggingface_hub keeps it, and nowhere else."""

from pathlib import Path

import pytest

from autotune.world.hub_cache import (
    cached_at_modelscope,
    cached_model,
    hub_folder,
    modelscope_folder,
)

COMMIT = "0123456789abcdef0123456789abcdef01234567"


def kept(hub: Path, name: str = "models--an-owner--A-Model.7b", commit: str = COMMIT) -> Path:
    snapshot = hub / name / "snapshots" / commit
    snapshot.mkdir(parents=True)
    (hub / name / "refs").mkdir()
    (hub / name / "refs" / "main").write_text(commit)
    return snapshot


def test_the_snapshot_that_main_points_to_is_the_model(tmp_path: Path) -> None:
    snapshot = kept(tmp_path / "hub")
    (snapshot.parent / ("f" * 40)).mkdir()
    assert cached_model("an-owner/A-Model.7b", {"HF_HOME": str(tmp_path)}) == snapshot


@pytest.mark.parametrize("name", ["an-owner/Other", "../A-Model.7b", "/an-owner/A-Model.7b", ""])
def test_another_name_or_a_path_is_no_model_of_the_cache(name: str, tmp_path: Path) -> None:
    kept(tmp_path)
    assert cached_model(name, {"HF_HUB_CACHE": str(tmp_path)}) is None


@pytest.mark.parametrize("commit", ["../../elsewhere", "", "x" * 40])
def test_a_reference_that_is_no_commit_leads_nowhere(commit: str, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    kept(tmp_path, commit=COMMIT)
    (tmp_path / "models--an-owner--A-Model.7b" / "refs" / "main").write_text(commit)
    assert cached_model("an-owner/A-Model.7b", {"HF_HUB_CACHE": str(tmp_path)}) is None


def test_the_variables_are_asked_in_the_order_of_the_library(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    constants = pytest.importorskip("huggingface_hub.constants")
    import importlib

    names = ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "HF_HOME", "XDG_CACHE_HOME")
    given: dict[str, str] = {}
    for name in names:
        monkeypatch.delenv(name, raising=False)
    try:
        for name in reversed(names):
            assert str(hub_folder(given)) == importlib.reload(constants).HF_HUB_CACHE
            given[name] = str(tmp_path / name)
            monkeypatch.setenv(name, given[name])
        assert str(hub_folder(given)) == importlib.reload(constants).HF_HUB_CACHE
    finally:
        monkeypatch.undo()
        importlib.reload(constants)


LAYOUTS = (
    "models/Qwen/Qwen3___5-8B",
    "hub/models/Qwen/Qwen3___5-8B",
    "models/Qwen--Qwen3.5-8B/snapshots/master",
    "models/Qwen--Qwen3.5-8B/snapshots/main",
    "models/Qwen--Qwen3.5-8B/snapshots/v1.0",
    "Qwen/Qwen3.5-8B",
    "Qwen/Qwen3___5-8B",
    "hub/Qwen/Qwen3.5-8B",
    "hub/Qwen/Qwen3___5-8B",
    "models/Qwen/Qwen3.5-8B",
)


def downloaded(place: Path) -> Path:
    place.mkdir(parents=True)
    (place / "config.json").write_text("{}")
    return place


@pytest.mark.parametrize("layout", LAYOUTS)
def test_what_any_modelscope_has_left_is_found(tmp_path: Path, layout: str) -> None:
    place = downloaded(tmp_path / layout)
    env = {"MODELSCOPE_CACHE": str(tmp_path)}
    assert cached_at_modelscope("Qwen/Qwen3.5-8B", env) == place
    assert cached_at_modelscope("Qwen/Qwen3-5-8B", env) is None
    assert cached_at_modelscope("Qwen/../Qwen3.5-8B", env) is None
    assert cached_at_modelscope("Qwen3.5-8B", env) is None


def test_an_empty_folder_is_passed_over_and_of_several_revisions_none_is_guessed(
    tmp_path: Path,
) -> None:
    env = {"MS_CACHE_HOME": str(tmp_path)}
    (tmp_path / LAYOUTS[0]).mkdir(parents=True)
    snapshots = tmp_path / "models/Qwen--Qwen3.5-8B/snapshots"
    downloaded(snapshots / "v1")
    downloaded(snapshots / "v2")
    assert cached_at_modelscope("Qwen/Qwen3.5-8B", env) is None
    place = downloaded(snapshots / "master")
    assert cached_at_modelscope("Qwen/Qwen3.5-8B", env) == place


def test_modelscopes_cache_is_where_its_variables_say() -> None:
    home = Path("~/.cache/modelscope").expanduser()
    assert modelscope_folder({}) == home
    assert modelscope_folder({"MS_CACHE_HOME": "/a"}) == Path("/a")
    assert modelscope_folder({"MS_CACHE_HOME": "/a", "MODELSCOPE_CACHE": "/b"}) == Path("/b")
