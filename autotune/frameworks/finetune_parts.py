"""The built-in trainer's settings in the job, with their parts: adapters and data."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from autotune.core.job import Job
from autotune.core.plan import Dtype, FourBitCompute, Loss, Optimizer

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


class FinetuneSettings(Strict):
    """`settings` of a job with `framework: finetune`."""

    model: str | dict[str, Any] = Field(description="a model folder, or an architecture config")
    tokenizer: str | None = Field(default=None, description="a folder; default: the model's")
    trust_remote_code: bool = False
    method: Literal["full", "lora", "qlora"]
    lora: Lora = Lora()
    data: Data
    epochs: Annotated[float, Field(gt=0)] | None = None
    max_steps: int | None = Field(default=None, ge=1)
    learning_rate: Annotated[float, Field(gt=0)]
    scheduler: Literal["cosine", "linear", "constant", "constant_with_warmup"] = "cosine"
    warmup_steps: int = Field(default=0, ge=0)
    optimizer: Optimizer = Field(default="adamw", description="8-bit and paged: bitsandbytes")
    weight_decay: Number = 0.0
    adam_betas: tuple[float, float] | list[float] = (0.9, 0.999)
    adam_epsilon: Annotated[float, Field(gt=0)] = 1e-8
    max_grad_norm: Number = 1.0
    seed: int = Field(default=1, ge=0)
    eval_every: int | None = Field(default=None, ge=1, description="optimizer steps")
    eval_micro_batch: int | None = Field(default=None, ge=1, description="default: the micro-batch")
    dtype: Dtype = "bf16"
    attention: Literal["sdpa", "eager", "flash_attention_2"] = "sdpa"
    loss: Loss = Field(default="whole", description="chunked: never all logits at once")
    four_bit_compute: FourBitCompute = Field(
        default="dtype", description="what 4-bit layers multiply in"
    )
    loader_workers: int = Field(default=0, ge=0, description="processes that read samples")
    pin_memory: bool = Field(default=False, description="pin the batches of the loader")
    activation_checkpointing: bool = False
    activation_offload: bool = Field(
        default=False, description="checkpointed activations wait on the host"
    )
    zero_stage: Literal[1, 2, 3] | None = Field(default=None, description="default: 2")
    offload_optimizer: bool | None = None
    offload_param: bool | None = None
    gather_on_save: bool = Field(default=True, description="ZeRO 3: save whole weights too")
    deepspeed: str | dict[str, Any] | None = Field(
        default=None, description="a DeepSpeed configuration or its file, edited key by key"
    )


def settings_of(job: Job) -> FinetuneSettings:
    """Return the job's settings; raises pydantic's ValidationError when they are wrong."""
    return FinetuneSettings.model_validate(job.settings)
