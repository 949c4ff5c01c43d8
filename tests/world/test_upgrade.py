"""An autotune that is replaced on disk is noticed, and taken over only when it can be started."""

import sys
import time
from pathlib import Path

import pytest

from autotune.world.upgrade import Upgrade


def package(folder: Path, text: str = "__version__ = '1'\n") -> Path:
    """Lay a package that stands in for ours where Python finds it first."""
    for name in ("", "cli"):
        (folder / "autotune" / name).mkdir(parents=True, exist_ok=True)
        (folder / "autotune" / name / "__init__.py").write_text(text if not name else "")
    (folder / "autotune" / "cli" / "app.py").touch()
    (folder / "autotune" / "cli" / "run.py").touch()
    return folder / "autotune" / "__init__.py"


def test_what_stays_as_it_is_is_no_upgrade(tmp_path: Path) -> None:
    upgrade = Upgrade(package(tmp_path))
    assert not upgrade.is_begun()


def test_a_new_version_is_noticed_and_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = package(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    upgrade = Upgrade(first)
    first.write_text("__version__ = '2'\n")
    assert upgrade.is_begun()
    assert upgrade.is_whole(time.sleep)


def test_half_an_installation_is_noticed_and_not_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = package(tmp_path)
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    upgrade = Upgrade(first)
    (first.parent / "cli" / "run.py").unlink()
    first.unlink()
    assert upgrade.is_begun()
    assert not upgrade.is_whole(time.sleep)


def test_the_folder_one_stands_in_is_not_what_is_tried(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package(tmp_path / "here")
    package(tmp_path / "elsewhere", "raise ImportError\n")
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setattr(sys, "path", [str(tmp_path / "elsewhere")])
    assert not Upgrade(tmp_path / "x").is_whole(time.sleep)
