"""The text of a DeepSpeed configuration: what is JSON, what only DeepSpeed reads, and where."""

import json
import math
import string
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autotune.frameworks.ds_doctor import examine_text
from autotune.frameworks.ds_remark import HF_TRAINER, PLAIN
from autotune.frameworks.ds_text import DEEPEST, parse

leaves = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text()
)
trees = st.recursive(
    leaves,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=12,
)


@given(trees, st.sampled_from([None, 2, "\t"]))
def test_plain_json_is_read_as_python_reads_it(tree: Any, indent: Any) -> None:
    parsed = parse(json.dumps(tree, indent=indent, allow_nan=False))
    assert (parsed.value, parsed.slips, parsed.broken) == (tree, [], None)


@given(st.text() | st.text(alphabet="{}[]\":,/*#\\\n 1e-'tru" + string.ascii_letters[:3]))
def test_no_text_makes_the_reader_raise(text: str) -> None:
    parsed = parse(text)
    assert (parsed.broken is None) or parsed.value is None
    assert isinstance(examine_text(parsed, HF_TRAINER), list)


@pytest.mark.parametrize(
    ("text", "value", "odd"),
    [
        ('{"a": 1, // why\n "b": 2}', {"a": 1, "b": 2}, "a comment"),
        ('{"a": 1 # why\n}', {"a": 1}, "a comment"),
        ('{/* why\n not */"a": 1}', {"a": 1}, "a comment"),
        ('{"a": [1, 2,],}', {"a": [1, 2]}, "a comma after the last item"),
        ('{"a": 1\n"b": 2}', {"a": 1, "b": 2}, "a comma left out at the end of a line"),
        ("{a: 1}", {"a": 1}, "a key without quotes"),
        ("{'a': 'it\\'s \"b\"'}", {"a": 'it\'s "b"'}, "single quotes"),
        ('\ufeff{"a": 1}', {"a": 1}, "a byte order mark at its beginning"),
    ],
)
def test_what_deepspeed_reads_beyond_json_is_read_and_named_to_others(
    text: str, value: Any, odd: str
) -> None:
    parsed = parse(text)
    assert parsed.value == value
    assert examine_text(parsed, PLAIN) == []
    (remark,) = examine_text(parsed, HF_TRAINER)
    assert odd in remark.what
    assert remark.fault


def test_a_key_given_twice_names_both_lines_whoever_reads_it() -> None:
    parsed = parse('{"zero_optimization": {\n"stage": 1,\n"stage": 3}}')
    for use in (PLAIN, HF_TRAINER):
        (remark,) = examine_text(parsed, use)
        assert "`zero_optimization.stage` is given twice, first on line 2" in remark.what
    assert parsed.lines["zero_optimization", "stage"] == 3


@pytest.mark.parametrize(
    ("word", "value"), [("True", True), ("None", None), ("yes", "yes"), ("1_000", "1_000")]
)
def test_a_bare_word_is_a_fault_and_read_as_it_was_meant(word: str, value: Any) -> None:
    parsed = parse(f'{{"a": {word}}}')
    assert parsed.value == {"a": value}
    (remark,) = examine_text(parsed, PLAIN)
    assert f"`{word}` is no JSON" in remark.what


def test_no_number_is_read_as_none() -> None:
    assert math.isnan(parse('{"a": NaN}').value["a"])
    assert parse('{"a": 1e999}').value == {"a": math.inf}


@pytest.mark.parametrize(
    ("text", "words", "line"),
    [
        ("", "the file is empty", 1),
        ("  \n // nothing\n", "the file is empty", 3),
        ('{"a": 1', "the file ends and a `{` is still open", 1),
        ('{"a":\n[1, 2', "the file ends and a `[` is still open", 2),
        ('{"a": 1 "b": 2}', "a comma is missing", 1),
        ('{"a": 1,, "b": 2}', "a key is missing before `,`", 1),
        ('{"a"\n1}', "a colon is missing after `a`", 2),
        ('{"a": }', "a value is missing before `}`", 1),
        ('{"a": "b\n"}', "no closing quote", 1),
        ('{"a": "\\q"}', "a backslash that means nothing", 1),
        ('{"a": 1}\n}', "something follows the closing brace", 2),
        ('{"a": ' + "9" * 5000 + "}", "hundreds of digits", 1),
        ("[" * 100_000, f"more than {DEEPEST} deep", 1),
        ('{"a":' * 100_000, f"more than {DEEPEST} deep", 1),
    ],
    ids=lambda value: str(value)[:30],
)
def test_a_broken_file_is_a_sentence_with_a_line(text: str, words: str, line: int) -> None:
    parsed = parse(text)
    assert (parsed.value, parsed.broken_line) == (None, line)
    (remark,) = examine_text(parsed, PLAIN)
    assert words in remark.what
    assert remark.fault
