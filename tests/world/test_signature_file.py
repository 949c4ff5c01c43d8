"""A file of signatures is read strictly, and every fault is shown with its line."""

from pathlib import Path

import pytest

from autotune.world.policy_folder import policy_folder
from autotune.world.signature_file import SignatureFileError, load_signatures

ENTRY = """signatures:
- name: one
  failure: disk_full
  role: root
  patterns: ['No space']
  means: Full.
  careful: Nothing.
"""


def load(tmp_path: Path, text: str) -> None:
    path = tmp_path / "s.yaml"
    path.write_text(text)
    load_signatures(path)


def test_the_signatures_that_are_shipped_load_and_lie_beside_their_readme_folder() -> None:
    assert (policy_folder() / "signatures.yaml").is_file()
    assert len(load_signatures().entries) > 40


@pytest.mark.parametrize(
    ("old", "new", "line", "hint"),
    [
        ("role:", "rolle:", 4, "role"),
        ("disk_full", "disk_fill", 3, "disk_full"),
        ("role: root", "role: rot", 4, "root"),
        ("['No space']", "['No (space']", 5, "pattern"),
        ("['No space']", "['No .* space']", 5, "pattern"),
        ("['No space']", "[3]", 5, "pattern"),
        ("['No space']", "No space", 5, "pattern"),
        ("  means: Full.\n", "", 2, "add means"),
        ("careful: Nothing.", "careful: ''", 7, "sentence"),
        ("careful:", "device: tpu\n  careful:", 7, "cpu or cuda"),
        ("signatures:", "signature:", 1, "signatures"),
        ("role: root", "role: {", 6, "syntax"),
    ],
)
def test_a_fault_is_refused_with_its_line_and_what_would_do(
    tmp_path: Path, old: str, new: str, line: int, hint: str
) -> None:
    with pytest.raises(SignatureFileError) as caught:
        load(tmp_path, ENTRY.replace(old, new))
    assert caught.value.where.endswith(f"s.yaml:{line}")
    assert hint in caught.value.hint


def test_a_name_used_twice_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SignatureFileError, match="used twice"):
        load(tmp_path, ENTRY + ENTRY.replace("signatures:\n", ""))
