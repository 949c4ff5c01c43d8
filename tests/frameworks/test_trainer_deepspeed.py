"""What a `deepspeed` argument may be, for every tool that ends in HF Trainer."""

from typing import Any

import pytest

from autotune.frameworks.framework import Looked
from autotune.frameworks.trainer_deepspeed import judge


@pytest.mark.parametrize("value", [True, 3, ["a.json"], 0.5])
def test_what_is_neither_a_file_nor_a_table_is_a_fault(value: Any) -> None:
    (fault,), notes = judge(value, Looked(), 1, "train.yaml:3")
    assert "neither a file nor a configuration" in fault.what
    assert (fault.where, notes) == ("train.yaml:3", ())
