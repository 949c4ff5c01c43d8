"""A foresight whose forecasts are a table, so that a test says what every plan takes."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

from autotune.core.foresight import Foresight
from autotune.core.memory.forecast import Bytes, Forecast, Moment
from autotune.core.memory.reading import read_shape
from autotune.core.memory.shape import ModelShape
from autotune.core.memory.workload import Subject
from autotune.core.plan import Plan
from tests.builders import GIB

CONFIG = {
    "model_type": "llama", "vocab_size": 32000, "hidden_size": 4096, "intermediate_size": 11008,
    "num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 32,
}  # fmt: skip


def shape(config: Mapping[str, Any] = CONFIG) -> ModelShape:
    """Return the shape of a 7B Llama."""
    found = read_shape(config)
    assert isinstance(found, ModelShape)
    return found


def subject(**changes: Any) -> Subject:
    """Return what such a model trains on, on a GPU."""
    return Subject(**{"shape": shape(), "device": "cuda", "sequence": 2048, **changes})


def forecast(gib: float, spread: float = 0.03, host: float = 0.0) -> Forecast:
    """Return a prediction of so many GiB, reached in the second step."""
    peak = int(gib * GIB)
    moments = {
        Moment.LOAD: Bytes(peak // 4, peak // 4),
        Moment.BACKWARD: Bytes(peak * 3 // 4, peak // 2),
        Moment.SECOND_BACKWARD: Bytes(peak, peak // 2),
    }
    return Forecast(
        peak=peak,
        tensors=peak,
        peak_at=Moment.SECOND_BACKWARD,
        parts={"weights": peak // 4, "activations": peak - peak // 4},
        moments=moments,
        host=int(host * GIB),
        spread=spread,
    )


@dataclasses.dataclass(frozen=True)
class Foretold(Foresight):
    """Predicts what `gib_of` and `time` say of a plan."""

    gib_of: Callable[[Plan], float] = lambda _: 1.0

    def forecast(self, plan: Plan) -> Forecast:
        """Return the table's figure."""
        return forecast(self.gib_of(plan))


def foretold(capacity: float, gib_of: Callable[[Plan], float], **changes: Any) -> Foretold:
    """Return a foresight of a card of `capacity` GiB."""
    return Foretold(subject(), int(capacity * GIB), gib_of=gib_of, **changes)
