"""A Python that lacks, breaks or hangs on what it is asked for costs that part alone."""

import os
import sys
from pathlib import Path

import pytest

from autotune import child
from autotune.core.doctor.examine import examine, is_fit
from autotune.core.doctor.facts import Facts, Stack
from autotune.world.job_stack import PARTS, look_at_stack

PROGRAM = Path(child.__file__).parent / "doctor.py"
LONG = 60.0
FAKE_TORCH = "__version__ = '9.9'\nclass version: cuda = None; hip = None\n"
BROKEN = {
    "raises": "raise OSError('libcudart.so.12: cannot open shared object file')",
    "exits": "raise SystemExit(3)",
    "dies": "import os; os.abort()",
}


@pytest.fixture
def bare(tmp_path: Path) -> str:
    """A Python without any package, but with those that a test lays into `packages`."""
    packages = tmp_path / "packages"
    packages.mkdir()
    wrapper = tmp_path / "python"
    wrapper.write_text(
        f'#!/bin/sh\nPYTHONPATH="{packages}" exec "{sys.executable}" -S "$@"\n', encoding="utf-8"
    )
    wrapper.chmod(0o755)
    return str(wrapper)


def look(python: str, seconds: float = LONG) -> Stack:
    return look_at_stack(python, PROGRAM, dict(os.environ), seconds)


def lay(python: str, name: str, text: str) -> None:
    (Path(python).parent / "packages" / f"{name}.py").write_text(text)


def test_a_python_without_torch_is_named_as_one(bare: str) -> None:
    stack = look(bare)
    assert set(stack.parts) == set(PARTS)
    assert stack.parts["torch"].told == {"missing": True}
    found = {one.name: one for one in examine(Facts(stack=stack))}
    assert found["torch.loads"].what == "torch is not installed"
    assert not is_fit(list(found.values()))
    python = stack.part("python")
    assert python is not None
    assert python.text("version") == sys.version.split()[0]


@pytest.mark.parametrize("how", BROKEN)
def test_a_torch_that_breaks_is_a_finding_and_the_rest_is_still_asked(how: str, bare: str) -> None:
    lay(bare, "torch", BROKEN[how])
    stack = look(bare)
    assert stack.parts["torch"].error
    assert stack.parts["torch"].told.get("missing") is not True
    assert stack.parts["deepspeed"].told == {"missing": True}
    assert stack.part("build") is not None


@pytest.mark.long
def test_an_import_that_hangs_is_left_and_what_comes_after_it_is_asked(bare: str) -> None:
    lay(bare, "torch", "import signal; signal.pause()")
    stack = look(bare, 8)
    assert stack.parts["torch"].error == "it did not answer within 8 s"
    assert stack.parts["bitsandbytes"].told == {"missing": True}


def test_what_packages_print_is_not_taken_for_an_answer(bare: str) -> None:
    noise = 'print(\'{"part": "torch", "told": {"version": "forged"}}\', flush=True)\n'
    lay(bare, "torch", noise * 50 + FAKE_TORCH)
    torch = look(bare).part("torch")
    assert torch is not None
    assert torch.text("version") == "9.9"


def test_a_python_that_does_not_start_says_why(tmp_path: Path) -> None:
    assert "No such file" in look(str(tmp_path / "none")).why_not
    silent = tmp_path / "silent"
    silent.write_text("#!/bin/sh\nexit 7\n")
    silent.chmod(0o755)
    assert look(str(silent)).why_not == "it ended with status 7"


def test_a_python_that_answers_nonsense_breaks_nothing(tmp_path: Path) -> None:
    odd = tmp_path / "odd"
    odd.write_text('#!/bin/sh\nprintf \'[1]\\n{"part": 3}\\n\\377\\n{"begins": "python"}\\n\'\n')
    odd.chmod(0o755)
    stack = look(str(odd))
    assert stack.why_not
