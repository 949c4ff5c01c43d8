"""A pattern that could stall the watcher is refused, and what it must contain is derived."""

import pytest

from autotune.core.pattern import PatternError, compile_pattern
from autotune.core.required import more_words, required_words
from autotune.core.words import Words


@pytest.mark.parametrize(
    "text",
    ["a.*b", r"\w+Error", r"(?:\w{1,9}\.){1,9}", r"(a)\1", "(", "x{,9999}", r"\S{1,9}", ".?"],
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
        (r"a\S{1,3}longer", ("longer",)),
        ("loss: ?(?:nan|inf)", ("loss: inf", "loss: nan", "loss:inf", "loss:nan")),
        ("(?:first|second)", ("first", "second")),
        (r"(?:first|\S)", ()),
        ("内存不足", ("内存不足",)),
        ("maybe?", ("mayb",)),
        (r"(?i)LOUD", ("loud",)),
    ],
)
def test_required_words_are_those_no_match_can_lack(text: str, words: tuple[str, ...]) -> None:
    assert required_words(text) == words


def test_more_words_tell_what_the_first_cannot() -> None:
    assert required_words("batch_size.{0,60}must be ") == ("batch_size",)
    assert more_words("batch_size.{0,60}must be ") == ("must be ",)
    assert more_words("batch_size") == ()


def test_words_are_found_within_one_another() -> None:
    words = Words(dict.fromkeys(["out of", "out of memory", "memory", "of"], ()))
    assert words.within(b"out of memory") == {"out of memory", "out of", "memory", "of"}


def test_each_line_that_holds_a_word_and_what_it_needs_is_named_once() -> None:
    words = Words({"loss": (b"nan", b"inf"), "memory": ()})
    text = b"quiet\nloss memory\nmemory\nloss 3\nloss inf loss"
    assert list(words.lines(text)) == [6, 18, 32]
    assert list(words.lines_from_end(text)) == [32, 18, 6]
