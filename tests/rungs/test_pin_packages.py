"""Other package versions: asked for by the job, by a cure, or by what transformers 5 rewrote."""

import pytest
from pydantic import ValidationError

from autotune.core.failure import Failure, Trait
from autotune.core.job import Pins
from autotune.core.rung import Scene
from autotune.rungs.pin_packages import LAST_BEFORE_5, RUNG
from tests import builders


def scene(failure: Failure, pins: tuple[str, ...] = (), cure: str = "", **versions: str) -> Scene:
    why = builders.diagnosis(failure, cure=cure)
    return builders.scene(why=why, where=builders.around(versions=versions, pins=pins))


def pinned(found: Scene) -> tuple[str, ...]:
    return RUNG.apply(found).pins if RUNG.applies(found) is None else ()


def test_what_the_job_names_comes_first() -> None:
    asked = scene(Failure.DTYPE_KERNEL_GAP, ("peft<0.18",), transformers="5.23.0")
    assert pinned(asked) == ("peft<0.18",)


def test_a_cure_that_names_a_version_is_taken() -> None:
    cure = "install 'numpy<2' in the training's Python ('numpy<1.24' where it misses numpy.bool)"
    assert pinned(scene(Failure.MISSING_DEPENDENCY, cure=cure)) == ("numpy<2",)
    assert pinned(scene(Failure.MISSING_DEPENDENCY, cure="pip install bitsandbytes")) == ()


def test_the_line_before_transformers_5_is_tried_where_it_was_rewritten() -> None:
    gap = Failure.DTYPE_KERNEL_GAP
    assert pinned(scene(gap, transformers="5.23.0")) == (LAST_BEFORE_5,)
    assert pinned(scene(gap, transformers="4.57.6")) == ()
    assert pinned(scene(Failure.DEVICE_OOM, transformers="5.23.0")) == ()


def test_packages_are_pinned_once() -> None:
    found = scene(Failure.DTYPE_KERNEL_GAP, ("peft<0.18",))
    again = builders.scene(RUNG.apply(found), found.diagnosis, found.around)
    assert RUNG.applies(again) == "other versions are laid over the job's Python already"


@pytest.mark.parametrize(
    "one",
    ["transformers", "transformers<5", "peft >=0.17, <0.18", "trl[vllm]==0.24.*", "a~=1.0rc1"],
)
def test_requirements_of_names_and_versions_are_taken(one: str) -> None:
    assert Pins.model_validate({"packages": [one]}).packages == [one]


@pytest.mark.parametrize(
    "one",
    ["-r file", "--index-url=http://x", "pkg @ http://x/y.whl", "./wheel.whl", "a<5\n-r x", ""],
)
def test_anything_else_that_pip_would_take_is_refused(one: str) -> None:
    with pytest.raises(ValidationError, match="no package with versions"):
        Pins.model_validate({"packages": [one]})


def test_pinning_from_the_start_needs_packages() -> None:
    with pytest.raises(ValidationError, match="needs `packages`"):
        Pins.model_validate({"use": "always"})


def test_what_the_trainings_own_code_calls_is_not_mended_by_an_older_transformers() -> None:
    gap = builders.diagnosis(Failure.DTYPE_KERNEL_GAP, traits=(Trait.OWN_OPERATION,))
    where = builders.around(versions={"transformers": "5.23.0"})
    assert pinned(builders.scene(why=gap, where=where)) == ()
    named = builders.around(versions={"transformers": "5.23.0"}, pins=("torch==2.12.0",))
    assert pinned(builders.scene(why=gap, where=named)) == ("torch==2.12.0",)
