"""A finished attempt teaches what it measured, of the rows that its forecast is about."""

import dataclasses

from autotune.core.history import Attempt
from autotune.core.lessons import lesson_of
from tests.builders import evidence, launch, plan
from tests.core.foretold import foretold


def test_a_pass_over_short_rows_is_told_from_one_over_the_longest() -> None:
    foresight = foretold(24, lambda _: 10.0)
    rows = dataclasses.replace(foresight.subject, sequence=512)
    foresight = dataclasses.replace(foresight, subject=rows)
    for cut, tokens in ((0, 512), (256, 256)):
        ran = plan(sequence=cut)
        attempt = Attempt(launch(1, ran), evidence=evidence())
        assert lesson_of(attempt, foresight).sequence == tokens
