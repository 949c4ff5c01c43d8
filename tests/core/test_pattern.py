"""A pattern that could stall the watcher is refused, and what it must contain is derived."""

import pytest

from autotune.core.pattern import PatternError, compile_pattern, required_words, word_finder


@pytest.mark.parametrize(
    "text", ["a.*b", r"\w+Error", r"(?:\w{1,9}\.){1,9}", r"(a)\1", "(", "x{,9999}"]
)
def test_a_pattern_that_could_stall_the_watcher_is_refused(text: str) -> None:
    with pytest.raises(PatternError):
        compile_pattern(text)


@pytest.mark.parametrize("text", [r"line \d{1,9}", "a?b", "(?:one|two) .{0,80}three", "x{2}"])
def test_a_bounded_pattern_is_accepted(text: str) -> None:
    compile_pattern(text)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("Out Of Memory", ("out of memory",)),
        (r"a\d{1,3}longer", ("longer",)),
        ("(?:first|second)", ("first", "second")),
        (r"(?:first|\d)", ()),
        ("maybe?", ("mayb",)),
        (r"(?i)LOUD", ("loud",)),
    ],
)
def test_required_words_are_those_no_match_can_lack(text: str, words: tuple[str, ...]) -> None:
    assert required_words(text) == words


def test_the_finder_finds_words_that_overlap_and_the_longest_of_one_place() -> None:
    finder = word_finder(["out of", "out of memory", "memory", "of"])
    assert {m[1] for m in finder.finditer("out of memory")} == {"out of memory", "of", "memory"}
