"""Gives DeepSpeed a global batch that its micro-batch and accumulation do not make up."""

import os

os.environ.update(RANK="0", LOCAL_RANK="0", WORLD_SIZE="1")
os.environ.setdefault("DS_ACCELERATOR", "cpu")

from deepspeed.runtime.config import DeepSpeedConfig

DeepSpeedConfig(
    {
        "train_batch_size": 10,
        "train_micro_batch_size_per_gpu": 4,
        "gradient_accumulation_steps": 2,
    }
)
