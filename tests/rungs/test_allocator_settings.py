"""Allocator settings are merged with the user's own, one at a time, and only where they work."""

import pytest

from autotune.core.allocator import parse, show
from autotune.rungs.allocator_settings import RUNG
from tests import builders


def after(text: str, times: int = 1) -> str:
    """Return the allocator's settings after the rung was taken `times` times."""
    plan = builders.plan(allocator=parse(text))
    for _ in range(times):
        assert RUNG.applies(builders.scene(plan)) is None
        plan = RUNG.apply(builders.scene(plan))
    return show(plan.allocator)


def test_segments_may_grow_first_and_are_collected_next() -> None:
    assert after("") == "expandable_segments:True"
    assert after("", 2) == "expandable_segments:True,garbage_collection_threshold:0.8"


def test_what_the_user_has_set_stays_word_for_word() -> None:
    held = "max_split_size_mb:128,roundup_power2_divisions:[256:1,512:2,>:4]"
    assert after(held) == f"{held},expandable_segments:True"
    assert after("expandable_segments:False") == (
        "expandable_segments:False,garbage_collection_threshold:0.8"
    )


def test_there_is_nothing_to_set_once_both_are_set() -> None:
    held = parse("garbage_collection_threshold:0.6,expandable_segments:False")
    reason = RUNG.applies(builders.scene(builders.plan(allocator=held)))
    assert reason == "the allocator settings are in force already"


@pytest.mark.parametrize(
    ("where", "word"),
    [({"device": "cpu"}, "CPU"), ({"platform": "wsl"}, "wsl"), ({"platform": "tegra"}, "tegra")],
)
def test_they_are_not_set_where_they_do_nothing_or_harm(where: dict[str, str], word: str) -> None:
    reason = RUNG.applies(builders.scene(where=builders.around(**where)))
    assert reason is not None
    assert word in reason
