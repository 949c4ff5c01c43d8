"""Lays other package versions beside a Python's own: resolved by pip, imported once, removable.

Nothing is installed into that Python. pip is asked what a wanted version needs beside what is
there (`--dry-run --report`), exactly that goes into a folder of the run, and PYTHONPATH leads to
the folder first. Wheels alone are taken, so that no package runs code of its own meanwhile.
"""

import json
import re
import shutil
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from autotune.world.conversion import listen
from autotune.world.files import make_folder, read_json, write_json, write_text
from autotune.world.process import MARK

LONGEST_SECONDS = 900  # for each of the three steps: wheels of some hundred MB over a slow line
MARKER, REQUIREMENTS, PACKAGES = "overlay.json", "requirements.txt", "packages"
# Which of the training's packages depend on a wanted one, asked of their own metadata.
_KIN = """
import importlib.metadata as m, json, re, sys
plain = lambda name: re.sub(r'[-_.]+', '-', name).lower()
wanted, kin = {plain(name) for name in sys.argv[2:]}, sys.argv[1].split(',')
found = []
for name in kin:
    try: needs = m.requires(name) or []
    except m.PackageNotFoundError: continue
    needs = [one for one in needs if 'extra ==' not in one]
    heads = {plain(re.match(r'[A-Za-z0-9._-]+', one).group()) for one in needs}
    if heads & wanted and plain(name) not in wanted: found.append(name)
print(json.dumps(found))
"""
# Imports what was pinned and what depends on it, and says which versions then answer.
_TRY = """
import importlib, importlib.metadata as m, json, re, sys
plain = lambda name: re.sub(r'[-_.]+', '-', name).lower()
tops = {}
for top, names in m.packages_distributions().items():
    for name in names: tops.setdefault(plain(name), []).append(top)
versions = {}
for name in sys.argv[1:]:
    for top in tops.get(plain(name), []):
        if not top.startswith('_'): importlib.import_module(top)
    versions[name] = m.version(name)
print('\\n' + json.dumps(versions))
"""
# The packages of a training that are told of each other's versions.
KIN = (
    "transformers", "peft", "accelerate", "trl", "datasets", "bitsandbytes", "deepspeed",
    "llamafactory", "axolotl", "ms-swift", "tokenizers", "safetensors", "huggingface-hub",
)  # fmt: skip
_NO_INDEX = re.compile(
    "Failed to establish a new connection|Name or service not known|name resolution|timed out"
    "|ConnectTimeout|ProxyError|Max retries exceeded|Network is unreachable",
    re.I,
)


@dataclass(frozen=True)
class Overlay:
    """A finished overlay."""

    folder: Path
    requirements: tuple[str, ...]  # `name==version --hash=…`, one for each package in it
    versions: Mapping[str, str]  # of what was pinned and what depends on it, as imported

    @property
    def path(self) -> Path:
        """Where PYTHONPATH leads."""
        return self.folder / PACKAGES

    def names(self) -> tuple[str, ...]:
        """Return `name==version` of every package in it."""
        return tuple(line.split(" ", 1)[0] for line in self.requirements)


@dataclass(frozen=True)
class Source:
    """Whose Python, under which environment, and where packages come from."""

    python: str
    env: Mapping[str, str]
    wheels: Path | None  # None: the package index that pip is set up for
    mark: str  # names our helpers among processes
    stop_asked: Callable[[], bool]


def held(folder: Path) -> Overlay | None:
    """Return the overlay in `folder` where it was finished."""
    told = read_json(folder / MARKER)
    if not isinstance(told, dict) or not (folder / PACKAGES).is_dir():
        return None
    return Overlay(folder, tuple(told["requirements"]), dict(told["versions"]))


def lay(folder: Path, pins: Sequence[str], source: Source) -> Overlay | str:
    """Make the overlay in `folder`, or return the sentence why there is none; nothing is left then.

    The sentence tells of a package index that was not reached, versions that do not exist or fit
    nothing installed, and packages that do not import.
    """
    finished = held(folder)
    if finished is not None:
        return finished
    shutil.rmtree(folder, ignore_errors=True)  # of one that a dead supervisor began
    make_folder(folder)
    try:
        made = _lay(folder, pins, source)
    except OSError as error:
        made = f"the folder of the packages could not be written ({error.strerror})"
    if isinstance(made, str):
        shutil.rmtree(folder, ignore_errors=True)
    return made


def _lay(folder: Path, pins: Sequence[str], source: Source) -> Overlay | str:
    names = [re.split(r"[\[<>=!~ ]", one, maxsplit=1)[0] for one in pins]
    kin = _asked(source, ["-c", _KIN, ",".join(KIN), *names])
    if isinstance(kin, str):
        return kin
    report = _asked(source, _pip(source, "--dry-run", "--report", "-", *pins, *kin))
    if isinstance(report, str):
        return report
    wanted = _requirements(report)
    if not wanted:
        return "the wanted versions are installed already"
    text = "\n".join(wanted) + "\n"
    write_text(folder / REQUIREMENTS, text)
    put = ("--no-deps", "--target", str(folder / PACKAGES), "-r", str(folder / REQUIREMENTS))
    said = _started(source, _pip(source, *put))
    if said[1]:
        return said[1]
    tried = _asked(source, ["-c", _TRY, *names, *kin], folder / PACKAGES)
    if isinstance(tried, str):
        return f"the pinned packages do not work together: {tried}"
    write_json(folder / MARKER, {"pins": list(pins), "requirements": wanted, "versions": tried})
    return Overlay(folder, tuple(wanted), tried)


def _pip(source: Source, *options: str) -> list[str]:
    where = ["--no-index", "--find-links", str(source.wheels)] if source.wheels else []
    return [
        "-m", "pip", "install", "--quiet", "--no-input", "--disable-pip-version-check",
        "--only-binary", ":all:", "--retries", "1", "--timeout", "20", *where, *options,
    ]  # fmt: skip


def _requirements(report: object) -> list[str]:
    """Return what pip would install, to the version and, where it knows it, to the byte."""
    rows = report.get("install", []) if isinstance(report, dict) else []
    wanted = []
    for row in rows:
        line = f"{row['metadata']['name']}=={row['metadata']['version']}"
        hashes = row.get("download_info", {}).get("archive_info", {}).get("hashes", {})
        if "sha256" in hashes:
            line += f" --hash=sha256:{hashes['sha256']}"
        wanted.append(line)
    # pip checks either every hash or none.
    if not all("--hash" in line for line in wanted):
        wanted = [line.split(" ", 1)[0] for line in wanted]
    return sorted(wanted)


def _asked(source: Source, words: list[str], path: Path | None = None) -> Any:
    said, why = _started(source, words, path)
    if why:
        return why
    try:
        begin = said.rfind("\n", 0, len(said.rstrip())) + 1
        return json.loads(said if said.lstrip().startswith("{") else said[begin:])
    except ValueError:
        return "it gave no answer that can be read"


def _started(source: Source, words: list[str], path: Path | None = None) -> tuple[str, str]:
    """Return what the job's Python printed, and the sentence why that is not to be used."""
    env = {**source.env, MARK: source.mark}
    if path is not None:
        env["PYTHONPATH"] = ":".join([str(path), *filter(None, [env.get("PYTHONPATH")])])
    try:
        running = subprocess.Popen(
            [source.python, *words],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, stdin=subprocess.DEVNULL,
            text=True, errors="replace", env=env, start_new_session=True,
        )  # fmt: skip
    except OSError as error:
        return "", f"the job's Python could not be started ({error})"
    said, told, why = listen(running, source.mark, source.stop_asked, LONGEST_SECONDS)
    if why:
        return "", f"it was ended: {why}"
    return said, "" if running.returncode == 0 else _reason(told, source)


def _reason(told: str, source: Source) -> str:
    lines = [line.strip() for line in told.splitlines() if line.strip()]
    if "No module named pip" in told:
        return f"the job's Python has no pip ({source.python} -m ensurepip makes one)"
    if source.wheels is None and _NO_INDEX.search(told):
        return "the package index cannot be reached; name a folder of wheels under `pins.wheels`"
    errors = [line for line in lines if line.startswith("ERROR:")] or lines[-1:]
    return (errors[0].removeprefix("ERROR: ") if errors else "it ended without a word")[:300]
