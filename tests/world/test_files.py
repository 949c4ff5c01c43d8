"""What we write for people and for ourselves is whole, and can be read by both."""

import json
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from autotune.world.files import _laid_out, write_json

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@given(VALUES)
def test_json_laid_out_for_people_is_the_same_json(value: object) -> None:
    assert json.loads(_laid_out(value)) == value


def test_a_short_group_stands_on_one_line_and_a_nested_one_does_not(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"points": [{"at": 1, "bytes": None}], "long": ["x" * 99]})
    assert (tmp_path / "a.json").read_text().splitlines() == [
        "{", ' "points": [', '  {"at": 1, "bytes": null}', " ],",
        ' "long": [', f'  "{"x" * 99}"', " ]", "}",
    ]  # fmt: skip
