"""What others wrote is read or refused in a sentence, however it was torn, cut or forged."""

import pytest

from tests.fuzz_targets import mutations, survives, targets

SEED, COUNT = 20261121, 250
pytestmark = pytest.mark.long

SLOW = {"policy": 50}  # a long file, read whole each time


@pytest.mark.parametrize("name", [*targets()])
def test_no_bytes_bring_a_parser_down(name: str) -> None:
    target = targets()[name]
    for number, content in enumerate(mutations(target, SEED, SLOW.get(name, COUNT))):
        try:
            survives(target, content)
        except Exception as error:
            raise AssertionError(f"mutation {number} of seed {SEED}: {content!r}") from error
