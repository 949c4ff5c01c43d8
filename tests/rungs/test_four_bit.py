"""Only a frozen base under adapters can be 4-bit, and it is close to the same, not the same."""

from autotune.core.rung import Result
from autotune.rungs.four_bit import RUNG
from tests import builders


def test_the_base_of_an_adapter_becomes_nf4() -> None:
    scene = builders.scene(builders.plan(method="lora"))
    assert RUNG.applies(scene) is None
    assert RUNG.apply(scene).quantization == "nf4"


def test_weights_that_are_trained_are_left_alone() -> None:
    reason = RUNG.applies(builders.scene(builders.plan(method="full")))
    assert reason is not None
    assert "cannot be trained" in reason


def test_a_base_is_quantized_once() -> None:
    scene = builders.scene(builders.plan(method="lora", quantization="nf4"))
    assert RUNG.applies(scene) == "the base is 4-bit already"


def test_the_result_is_close_and_not_the_same() -> None:
    assert RUNG.result is Result.CLOSE
