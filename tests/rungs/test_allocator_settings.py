"""Allocator settings are merged with the user's own, and only where they work."""

import pytest

from autotune.core.allocator import parse, show
from autotune.rungs.allocator_settings import RUNG
from tests import builders


def after(text: str) -> str:
    """Return the allocator's settings after the rung was taken."""
    plan = builders.plan(allocator=parse(text))
    assert RUNG.applies(builders.scene(plan)) is None
    return show(RUNG.apply(builders.scene(plan)).allocator)


def test_segments_may_grow() -> None:
    assert after("") == "expandable_segments:True"


def test_what_the_user_has_set_stays_word_for_word() -> None:
    held = "max_split_size_mb:128,roundup_power2_divisions:[256:1,512:2,>:4]"
    assert after(held) == f"{held},expandable_segments:True"


def test_the_users_own_word_on_segments_is_the_last() -> None:
    held = parse("expandable_segments:False")
    reason = RUNG.applies(builders.scene(builders.plan(allocator=held)))
    assert reason == "expandable_segments is set already"


@pytest.mark.parametrize(
    ("where", "word"),
    [({"device": "cpu"}, "CPU"), ({"platform": "wsl"}, "wsl"), ({"platform": "tegra"}, "tegra")],
)
def test_they_are_not_set_where_they_do_nothing_or_harm(where: dict[str, str], word: str) -> None:
    reason = RUNG.applies(builders.scene(where=builders.around(**where)))
    assert reason is not None
    assert word in reason
