"""Command lines and YAML of training programs: read as they are meant, changed in one place."""

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ruamel.yaml import YAML

from autotune.frameworks.arguments import Arguments, Table, decimal, flag, integer, to_yaml

keys = st.from_regex(r"[a-z][a-z0-9]{0,4}(_[a-z]{1,4})?", fullmatch=True).filter(
    lambda key: not key.startswith("no_")
)
words = st.text(alphabet="abc019._-=/{}[] \"',é", max_size=8)
lines = st.lists(
    words | keys.map(lambda key: "--" + key) | st.builds("--{}={}".format, keys, words),
    max_size=12,
).map(tuple)
plain = (
    st.booleans()
    | st.integers(-(10**12), 10**12)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.from_regex(r"[a-zA-Z./][a-zA-Z0-9./_=, -]{0,10}", fullmatch=True).filter(
        lambda text: text.lower() not in ("true", "false") and text[0] != "-"
    )
)
trees = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**62), 2**62)
    | st.floats(allow_nan=False)
    | st.text(alphabet=st.characters(codec="utf-8"), max_size=10)
    | st.sampled_from(
        ["y", "no", "0x1f", "1_000", "1:30", "2026-01-01", "1e5", "~", "", ".5", "="]
    ),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3)
    ),
    max_leaves=10,
)


@given(lines, st.booleans())
def test_a_line_that_is_not_changed_comes_back_word_for_word(
    line: tuple[str, ...], bare: bool
) -> None:
    arguments = Arguments(line, bare)
    assert arguments.changed({}).words == line
    assert arguments.changed(arguments.values() if not bare else {}).words == line


@given(lines, keys, plain, st.booleans())
def test_setting_a_value_changes_its_own_place_and_is_read_back(
    line: tuple[str, ...], key: str, value: Any, bare: bool
) -> None:
    before = Arguments(line, bare)
    after = before.changed({key: value})
    assert after.get(key) == value
    others = {name: one for name, one in before.values().items() if name != key}
    assert {name: one for name, one in after.values().items() if name != key} == others
    assert after.strays() == before.strays()


@given(lines, keys)
def test_an_option_that_is_taken_out_is_gone_and_nothing_else(
    line: tuple[str, ...], key: str
) -> None:
    before = Arguments(line)
    after = before.changed({key: None})
    assert after.get(key) is None
    assert after.strays() == before.strays()


def test_a_word_that_belongs_to_no_option_is_given_to_none_when_one_is_taken_out() -> None:
    line = Arguments(("--a", "--b", "--x=1", "config.json"))
    assert line.changed({"x": None}).words == ("config.json", "--a", "--b")


def test_every_way_to_write_an_option_is_read() -> None:
    line = "config.yaml --lr 1e-4 --bf16 --fp16=false --report-to a b --no_packing --steps -1"
    arguments = Arguments(tuple(line.split()))
    assert arguments.values() == {
        "lr": 1e-4, "bf16": True, "fp16": False, "report_to": ["a", "b"], "packing": False,
        "steps": -1,
    }  # fmt: skip
    assert arguments.strays() == ("config.yaml",)


def test_the_last_of_repeated_keys_wins_and_is_the_one_that_changes() -> None:
    arguments = Arguments(("--x", "1", "--y", "2", "--x=3"))
    assert arguments.get("x") == 3
    assert arguments.changed({"x": 4}).words == ("--x", "1", "--y", "2", "--x=4")


def test_a_negated_option_is_set_true_where_it_stands() -> None:
    assert Arguments(("--no_packing", "--a", "1")).changed({"packing": True}).words == (
        "--packing", "true", "--a", "1",
    )  # fmt: skip


def test_equal_values_keep_the_way_they_are_written() -> None:
    line = ("--learning_rate", "0.00001", "--bf16", "True")
    assert Arguments(line).changed({"learning_rate": 1e-5, "bf16": True}).words == line


def test_a_line_of_dashes_gets_new_keys_with_dashes() -> None:
    line = Arguments(("--micro-batch-size=1",)).changed({"output_dir": "/o", "micro_batch_size": 2})
    assert line.words == ("--micro-batch-size=2", "--output-dir", "/o")


def test_bare_assignments_are_read_and_changed_as_llama_factory_writes_them() -> None:
    line = Arguments(("train", "x.yaml", "learning_rate=1e-4", "bf16=true"), bare=True)
    assert line.values() == {"learning_rate": 1e-4, "bf16": True}
    assert line.strays() == ("train", "x.yaml")
    assert line.changed({"bf16": False, "optim": "sgd"}).words == (
        "train", "x.yaml", "learning_rate=1e-4", "bf16=false", "optim=sgd",
    )  # fmt: skip


def test_what_stands_behind_two_dashes_is_left_alone() -> None:
    line = Arguments(("--a", "1", "--", "--a", "2"))
    assert line.changed({"a": 5, "b": 6}).words == ("--a", "5", "--b", "6", "--", "--a", "2")


def test_values_that_no_command_line_can_hold_are_refused() -> None:
    with pytest.raises(ValueError, match="cannot be written"):
        Arguments(()).changed({"a": []})


def test_inline_json_is_read_as_the_mapping_it_is() -> None:
    line = Arguments(("--deepspeed", '{"zero_optimization": {"stage": 2}}'))
    assert line.get("deepspeed") == {"zero_optimization": {"stage": 2}}


def test_a_mapping_is_changed_in_its_place() -> None:
    table = Table({"a": 1, "b": 2, "c": 3}).changed({"b": None, "a": 4, "d": 5})
    assert list(table.values().items()) == [("a", 4), ("c", 3), ("d", 5)]


def test_texts_of_numbers_and_flags_are_understood() -> None:
    assert (decimal("1e-4"), integer("8"), integer("auto"), integer(True)) == (1e-4, 8, None, None)
    assert (flag("True"), flag("no"), flag(1), flag("auto")) == (True, False, True, None)
    assert decimal("1" * 400) is None


def same(one: Any, other: Any) -> bool:
    if isinstance(one, float) and isinstance(other, float):
        return one == other or (math.isnan(one) and math.isnan(other))
    if isinstance(one, dict) and isinstance(other, dict):
        return list(one) == list(other) and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(same, one, other))
    return type(one) is type(other) and bool(one == other)


@given(st.dictionaries(st.text(max_size=5), trees, max_size=4), st.sampled_from([(1, 1), (1, 2)]))
def test_yaml_is_read_alike_by_both_versions(tree: Any, version: tuple[int, int]) -> None:
    yaml = YAML(typ="safe", pure=True)
    yaml.version = version
    assert same(yaml.load(to_yaml(tree)), tree)


@given(st.dictionaries(st.text(max_size=5), trees, max_size=4))
def test_yaml_is_read_alike_by_the_library_the_tools_use(tree: Any) -> None:
    yaml = pytest.importorskip("yaml")
    assert same(yaml.safe_load(to_yaml(tree)), tree)


def test_small_floats_are_floats_for_yaml_of_1_1() -> None:
    assert to_yaml({"learning_rate": 1e-5}) == "learning_rate: 1.0e-05\n"
