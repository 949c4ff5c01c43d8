"""The parts of the built-in trainer's settings: its adapters and its data."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

Number = Annotated[float, Field(ge=0)]


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class Lora(Strict):
    """The adapters of `method: lora` and `method: qlora`."""

    rank: int = Field(default=8, ge=1)
    alpha: Number = 16.0
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    targets: Literal["all-linear"] | list[str] = "all-linear"


class Data(Strict):
    """What is learned: JSON lines of messages, prompt and completion, or text."""

    train: str
    eval: str | None = None
    eval_fraction: Annotated[float, Field(ge=0, lt=1)] = 0.0
    sequence: int = Field(ge=8, description="tokens per sample; longer samples are cut")
    packing: bool = Field(default=False, description="rows put end to end up to `sequence`")
    response_only: bool = True
    shuffle: bool = True
