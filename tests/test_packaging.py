"""A wheel built from the tree works where no checkout and no training stack are near."""

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

pytestmark = pytest.mark.long

ROOT = Path(__file__).parents[1]
PARTS = ("pyproject.toml", "README.md", "LICENSE", "autotune", "policies", "systemd")


def run(*arguments: str | Path, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run a program away from the checkout, with nothing of ours on its path."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    return subprocess.run(
        [str(argument) for argument in arguments],
        cwd=folder, env=kept, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build from a copy, so that the checkout is not littered and old litter is not packed."""
    folder = tmp_path_factory.mktemp("wheel")
    tree = folder / "tree"
    tree.mkdir()
    for part in PARTS:
        if (ROOT / part).is_dir():
            ignored = shutil.ignore_patterns("__pycache__")
            shutil.copytree(ROOT / part, tree / part, ignore=ignored)
        else:
            shutil.copy(ROOT / part, tree / part)
    done = run(
        sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "--no-index",
        "-w", folder, tree, folder=folder,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return next(folder.glob("autotune_supervisor-*.whl"))


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of programs of a new environment that holds the wheel."""
    folder = tmp_path_factory.mktemp("elsewhere") / "venv"
    venv.create(folder, with_pip=True, symlinks=True)
    python = folder / "bin" / "python"
    done = run(
        python, "-m", "pip", "install", "--no-deps", "--no-index", wheel, folder=folder.parent
    )
    assert done.returncode == 0, done.stderr
    # The dependencies are those of the environment that runs the tests: a path in a .pth file
    # lends its packages, and none of its own .pth files, so an editable install stays behind.
    site = next(folder.glob("lib/python*/site-packages"))
    (site / "lent.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return python.parent


def test_the_wheel_carries_policies_types_and_the_map(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    for name in (
        "policies/default.yaml", "policies/same_result.yaml", "policies/signatures.yaml",
        "policies/README.md", "py.typed", "ARCHITECTURE.md", "child/finetune.py",
        "child/convert.py", "systemd/autotune@.service", "systemd/user/autotune@.service",
        "systemd/autotune.slice",
    ):  # fmt: skip
        assert f"autotune/{name}" in names
    modules = {path.relative_to(ROOT).as_posix() for path in (ROOT / "autotune").rglob("*.py")}
    assert modules <= names
    assert [name for name in names if name.startswith("tests/")] == []


def test_help_works_from_the_wheel(installed: Path, tmp_path: Path) -> None:
    done = run(installed / "autotune", "--help", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "explain" in done.stdout


def test_policies_are_found_inside_the_package(installed: Path, tmp_path: Path) -> None:
    ask = "from autotune.world.policy_folder import policy_folder as f; print(f())"
    done = run(installed / "python", "-c", ask, folder=tmp_path)
    found = Path(done.stdout.strip())
    assert found.parts[-2:] == ("autotune", "policies"), done.stderr
    assert found.is_relative_to(installed.parent.resolve())


def test_units_are_found_inside_the_package(installed: Path, tmp_path: Path) -> None:
    ask = "from autotune.world.systemd_units import units_folder as f; print(f())"
    done = run(installed / "python", "-c", ask, folder=tmp_path)
    found = Path(done.stdout.strip())
    assert found.parts[-2:] == ("autotune", "systemd"), done.stderr
    assert (found / "user" / "autotune@.service").is_file()


def test_check_of_a_bad_job_names_its_faults_from_the_wheel(
    installed: Path, tmp_path: Path
) -> None:
    (tmp_path / "job.yaml").write_text("name: x\nframework: finetune\nbach: {global: 4}\n")
    done = run(installed / "autotune", "check", "job.yaml", folder=tmp_path)
    assert done.returncode == 2
    assert "did you mean `batch`?" in done.stderr
    assert "job.yaml:3" in done.stderr
    assert "`settings` is missing" in done.stderr


def test_explain_names_the_failure_and_a_rung_from_the_wheel(
    installed: Path, tmp_path: Path
) -> None:
    (tmp_path / "a.log").write_text(
        "RuntimeError: DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes\n"
    )
    done = run(
        installed / "autotune", "explain", "a.log", "--device", "cpu", "--json", folder=tmp_path
    )
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["failure"] == "device_oom"
    assert told["remedy"][0]["rung"] == "shrink_buckets"
