"""The words that options of the command line take."""

from enum import Enum


class Device(str, Enum):
    """What a training ran on."""

    CPU = "cpu"
    CUDA = "cuda"


class Method(str, Enum):
    """What of a model is trained, and how the rest is kept."""

    FULL = "full"
    LORA = "lora"
    QLORA = "qlora"


class Offload(str, Enum):
    """What waits in host memory between its uses."""

    NONE = "none"
    OPTIMIZER = "optimizer"
    BOTH = "optimizer+param"


class Dtype(str, Enum):
    """What the weights are kept and multiplied in."""

    BF16 = "bf16"
    FP16 = "fp16"
    FP32 = "fp32"
