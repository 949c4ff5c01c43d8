"""A script of somebody's own around HF Trainer, which knows nothing of autotune.

Run under torchrun as `two_ranks.py JSON`, where JSON may change SIZES. It trains a Llama made from
nothing on the CPU, with DeepSpeed where `stage` is not null; then it says that it is done.
"""

from __future__ import annotations

import json
import sys
from typing import Any

import torch
import transformers

SIZES: dict[str, Any] = {
    "hidden": 16, "layers": 2, "length": 16, "micro": 2, "steps": 100_000, "stage": None,
    "save": "steps",
}  # fmt: skip


def main() -> None:
    sizes = {**SIZES, **json.loads(sys.argv[1])}
    stage = sizes["stage"]
    arguments = transformers.TrainingArguments(
        output_dir="out", max_steps=sizes["steps"], per_device_train_batch_size=sizes["micro"],
        save_strategy=sizes["save"], save_steps=1_000_000, logging_steps=1_000_000, report_to=[],
        use_cpu=True, disable_tqdm=True, seed=3, dataloader_num_workers=0,
        deepspeed=None if stage is None else {
            "zero_optimization": {"stage": stage}, "zero_force_ds_cpu_optimizer": False,
            "train_micro_batch_size_per_gpu": "auto", "gradient_accumulation_steps": "auto",
        },
    )  # fmt: skip
    _ = arguments.device  # the ranks must know of one another before a model is made
    hidden = sizes["hidden"]
    config = transformers.LlamaConfig(
        vocab_size=512, hidden_size=hidden, intermediate_size=2 * hidden,
        num_hidden_layers=sizes["layers"], num_attention_heads=2,
        max_position_embeddings=sizes["length"],
    )  # fmt: skip
    transformers.set_seed(1)
    model = transformers.LlamaForCausalLM(config)
    generator = torch.Generator().manual_seed(7)
    ids = torch.randint(0, 512, (64, sizes["length"]), generator=generator)
    rows = [{"input_ids": row, "labels": row} for row in ids]
    transformers.Trainer(model=model, args=arguments, train_dataset=rows).train()
    print("the rest of the script", flush=True)


if __name__ == "__main__":
    main()
