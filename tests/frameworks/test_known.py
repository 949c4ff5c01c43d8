"""Every framework that a job may name is there, under its own name."""

from typing import get_args

from autotune.core.job import FrameworkName
from autotune.frameworks.known import FRAMEWORKS


def test_the_names_a_job_may_give_are_those_of_the_frameworks_there_are() -> None:
    assert set(FRAMEWORKS) == set(get_args(FrameworkName))
    assert {name: one.name for name, one in FRAMEWORKS.items()} == {n: n for n in FRAMEWORKS}
