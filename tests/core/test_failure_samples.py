"""Every way a failure is known to be worded gets the failure's name, and healthy words get none."""

from pathlib import Path

import pytest
from ruamel.yaml import YAML

from autotune.core.explain import explain_lines
from autotune.core.failure import Role
from autotune.core.signature import STACK
from autotune.world.signature_file import load_signatures
from tests.core.signature_samples import SAMPLES

WORDS = YAML(typ="safe").load((Path(__file__).parent / "failure_samples.yaml").read_text("utf-8"))
SIGNATURES = load_signatures()
CASES = [(failure, line) for failure, lines in WORDS.items() for line in lines]


@pytest.mark.parametrize(("failure", "line"), CASES)
def test_a_line_alone_gets_its_name(failure: str, line: str) -> None:
    diagnosis = explain_lines([line], SIGNATURES).diagnosis
    assert diagnosis.failure.value == failure, diagnosis.why


def test_every_signature_that_names_something_has_a_sample() -> None:
    lines = [line for _, line in CASES] + [line for hits, _ in SAMPLES.values() for line in hits]
    found = {item.signature.name for line in lines for item in SIGNATURES.search(line)}
    found |= {name for name, (hits, _) in SAMPLES.items() if hits}
    named = {e.name for e in SIGNATURES.entries if e.role is not Role.CONTEXT and e.where != STACK}
    assert named - found == set()
