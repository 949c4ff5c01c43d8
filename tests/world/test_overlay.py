"""Other package versions beside a Python's own: real wheels, a real environment, no network."""

import dataclasses
import os
import shutil
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from autotune.world.overlay import Overlay, Source, held, lay

pytestmark = pytest.mark.e2e

WHEELS = (
    ("transformers", "5.1", ()),
    ("transformers", "4.57", ()),
    ("transformers", "4.58", ("no_such_module",)),  # its import fails
    ("peft", "0.21", ("transformers>=5",)),
    ("peft", "0.17", ("transformers<5",)),
)


def wheel(folder: Path, name: str, version: str, needs: tuple[str, ...]) -> None:
    """Write a wheel by hand: a package that knows its version."""
    broken = [one for one in needs if one == "no_such_module"]
    text = f"__version__ = {version!r}\n" + "".join(f"import {one}\n" for one in broken)
    info = f"{name}-{version}.dist-info"
    requires = "".join(f"Requires-Dist: {one}\n" for one in needs if one not in broken)
    with zipfile.ZipFile(folder / f"{name}-{version}-py3-none-any.whl", "w") as file:
        file.writestr(f"{name}/__init__.py", text)
        head = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
        file.writestr(f"{info}/METADATA", head + requires)
        file.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nGenerator: x\nTag: py3-none-any\n")
        file.writestr(f"{info}/top_level.txt", f"{name}\n")
        file.writestr(f"{info}/RECORD", "")


def bare_environment(folder: Path) -> str:
    """Make a virtual environment without pip and return its Python."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
    return str(folder / "bin" / "python")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with wheels, and an environment that has the newest of them."""
    folder = tmp_path_factory.mktemp("site")
    (folder / "wheels").mkdir()
    for name, version, needs in WHEELS:
        wheel(folder / "wheels", name, version, needs)
    bare_environment(folder / "venv")
    # Lent instead of installed, which takes half a minute on a busy machine.
    lent = Path(pytest.importorskip("pip").__file__).parent
    (place,) = (folder / "venv" / "lib").glob("python*/site-packages")
    (place / "pip").symlink_to(lent)
    install = ["-m", "pip", "install", "-q", "--no-index", "--find-links", str(folder / "wheels")]
    python = str(folder / "venv" / "bin" / "python")
    subprocess.run([python, *install, "peft==0.21", "transformers==5.1"], check=True)
    return folder


def source(site: Path, *, wheels: bool = True, stop: Callable[[], bool] = lambda: False) -> Source:
    env = {**os.environ, "PIP_INDEX_URL": "http://127.0.0.1:9/simple", "PIP_EXTRA_INDEX_URL": ""}
    env.pop("PYTHONPATH", None)
    env["PIP_CONFIG_FILE"] = os.devnull
    mark = f"test-overlay/{os.getpid()}-{time.monotonic_ns()}"
    python = str(site / "venv" / "bin" / "python")
    return Source(python, env, site / "wheels" if wheels else None, mark, stop)


def said(site: Path, path: Path | None) -> str:
    """Return what versions a program of the environment imports."""
    env = {**os.environ, "PYTHONPATH": str(path) if path else ""}
    code = "import transformers as t, peft as p; print(t.__version__, p.__version__)"
    python = str(site / "venv" / "bin" / "python")
    done = subprocess.run([python, "-c", code], env=env, capture_output=True, text=True, check=True)
    return done.stdout.strip()


def test_a_resolved_set_is_laid_over_an_environment_that_stays_as_it_is(
    site: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "overlay" / "one"
    made = lay(folder, ["transformers>=4.57,<4.58"], source(site))
    assert isinstance(made, Overlay), made
    assert made.names() == ("peft==0.17", "transformers==4.57")
    assert all("--hash=sha256:" in line for line in made.requirements)
    assert made.versions == {"transformers": "4.57", "peft": "0.17"}
    assert said(site, made.path) == "4.57 0.17"
    assert said(site, None) == "5.1 0.21"
    assert held(folder) == made
    assert lay(folder, ["transformers>=4.57,<4.58"], source(site, wheels=False)) == made
    shutil.rmtree(folder)  # and it is gone
    assert held(folder) is None


@pytest.mark.parametrize(
    ("pins", "wheels", "words"),
    [
        (["transformers<3"], True, "Could not find a version"),
        (["transformers==4.58", "peft==0.17"], True, "do not work together"),
        (["transformers==5.1"], True, "installed already"),
        (["no-such-package"], True, "Could not find a version"),
        (["no-such-package<4"], False, "index cannot be reached"),
    ],
)
def test_what_cannot_be_laid_says_why_and_leaves_nothing(
    site: Path, tmp_path: Path, pins: list[str], wheels: bool, words: str
) -> None:
    why = lay(tmp_path / "overlay", pins, source(site, wheels=wheels))
    assert isinstance(why, str)
    assert words in why
    assert not (tmp_path / "overlay").exists()


def test_a_stop_ends_it_and_leaves_nothing(site: Path, tmp_path: Path) -> None:
    why = lay(tmp_path / "overlay", ["transformers<5"], source(site, stop=lambda: True))
    assert isinstance(why, str)
    assert "a stop was asked for" in why
    assert not (tmp_path / "overlay").exists()


def test_a_python_without_pip_says_so(site: Path, tmp_path: Path) -> None:
    bare = dataclasses.replace(source(site), python=bare_environment(tmp_path / "venv"))
    why = lay(tmp_path / "overlay", ["transformers<5"], bare)
    assert isinstance(why, str)
    assert "no pip" in why


PROGRAM = """
import transformers, peft
if transformers.__version__ > "5":
    raise RuntimeError('"addmm_impl_cpu_" not implemented for \\'BFloat16\\'')
print("trained with", transformers.__version__, peft.__version__)
"""


def test_a_run_that_needs_older_packages_gets_them_and_its_known_good_names_them(
    site: Path, tmp_path: Path
) -> None:
    (tmp_path / "train.py").write_text(PROGRAM)
    python = site / "venv" / "bin" / "python"
    (tmp_path / "job.yaml").write_text(
        "name: old\nframework: command\nsettings: {command: [python, train.py]}\n"
        f"python: {python}\nallow: [pin_packages]\n"
        f"pins: {{packages: ['transformers>=4.57,<4.58'], wheels: {site / 'wheels'}}}\n"
    )
    env = {**os.environ, "DS_ACCELERATOR": "cpu", "XDG_STATE_HOME": str(tmp_path / "state")}
    env["PYTHONPATH"] = str(Path(__file__).parents[2])
    done = subprocess.run(
        [sys.executable, "-m", "autotune.cli.app", "run", "job.yaml"],
        cwd=tmp_path, env=env, capture_output=True, text=True, timeout=180, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    run = tmp_path / "runs" / "old"
    assert "trained with 4.57 0.17" in (run / "attempts" / "002" / "output.log").read_text()
    assert "peft==0.17" in (run / "known-good" / "pins.txt").read_text()
    good = (run / "known-good" / "job.yaml").read_text()
    assert "use: always" in good
    relaunched = subprocess.run(
        [str(run / "known-good" / "launch.sh")], capture_output=True, text=True, check=True
    )
    assert relaunched.stdout.strip() == "trained with 4.57 0.17"
    assert said(site, None) == "5.1 0.21"
