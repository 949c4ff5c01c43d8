"""What cannot be read as YAML is refused in a sentence, whichever way the library stumbles."""

from pathlib import Path

import pytest

from autotune.core.fault import InputError
from autotune.world.yaml_files import read_document


@pytest.mark.long
@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a: [1", "not YAML"),
        ("x:\n  ? {a: {b: 1}}\n", "a key of the file is itself a mapping"),
        ("[" * 5000, "not YAML"),
        ("a: *nobody", "not YAML"),
        ("a: -_", "cannot be read as YAML (IndexError"),
        ("a:\n  |\nb:  # c\n d\n  \n", "cannot be read as YAML (NotImplementedError"),
    ],
)
def test_a_file_that_is_no_yaml_is_refused_in_a_sentence(
    tmp_path: Path, text: str, said: str
) -> None:
    path = tmp_path / "job.yaml"
    path.write_text(text)
    with pytest.raises(InputError) as refused:
        read_document(path)
    assert said in str(refused.value.faults[0].what)
