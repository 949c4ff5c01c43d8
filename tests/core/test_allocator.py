"""The allocator's settings are taken apart and put together as torch reads them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autotune.core.allocator import merge, parse, show


@pytest.mark.parametrize(
    ("text", "settings"),
    [
        ("", ()),
        (" , ,", ()),
        ("expandable_segments:True", (("expandable_segments", "True"),)),
        (" a : 1 , b:2 ", (("a", "1"), ("b", "2"))),
        (
            "roundup_power2_divisions:[256:1,512:2,>:4],max_split_size_mb:128",
            (("roundup_power2_divisions", "[256:1,512:2,>:4]"), ("max_split_size_mb", "128")),
        ),
        ("alone", (("alone", ""),)),
    ],
)
def test_settings_are_split_at_commas_outside_brackets(
    text: str, settings: tuple[tuple[str, str], ...]
) -> None:
    assert parse(text) == settings


def test_a_later_value_wins_in_the_earlier_place() -> None:
    assert merge(parse("a:1,b:2"), parse("b:3,c:4")) == (("a", "1"), ("b", "3"), ("c", "4"))


names = st.text(st.characters(categories=["Ll"]), min_size=1, max_size=5)
values = st.one_of(names, st.lists(names, min_size=1).map(lambda one: f"[{','.join(one)}]"))


@given(st.dictionaries(names, values))
def test_what_is_shown_is_read_back(settings: dict[str, str]) -> None:
    pairs = tuple(settings.items())
    assert parse(show(pairs)) == pairs


@given(st.text(max_size=40))
def test_no_text_of_a_user_is_too_strange_to_be_read(text: str) -> None:
    assert all(key == key.strip() for key, _ in parse(text))
