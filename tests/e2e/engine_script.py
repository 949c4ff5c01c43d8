"""A user's own DeepSpeed program with an optimizer of its own, which knows nothing of autotune.

Started as `deepspeed --num_gpus 1 engine_script.py --deepspeed_config ds.json`.
"""

import argparse
import sys
from pathlib import Path

import deepspeed
import torch
from transformers import LlamaConfig, LlamaForCausalLM, set_seed

sys.path.insert(0, str(Path(__file__).parents[2]))
from tests.e2e.plain_script import ScriptArguments, collate, rows


def main() -> None:
    """Train once over the rows, micro-batch by micro-batch as the configuration says."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--deepspeed_config", required=True)
    parser.add_argument("--local_rank", type=int, default=0)
    asked = parser.parse_args()
    set_seed(1)
    model = LlamaForCausalLM(LlamaConfig.from_json_file("model.json"))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    engine, *_ = deepspeed.initialize(
        model=model, optimizer=optimizer, config=asked.deepspeed_config
    )
    made, micro = rows(ScriptArguments(rows=48)), engine.train_micro_batch_size_per_gpu()
    for at in range(0, len(made), micro):
        loss = engine(**collate(made[at : at + micro])).loss
        engine.backward(loss)
        engine.step()
        print(f"rows {at + micro}/{len(made)} loss {loss.item():.4f}", flush=True)
    engine.save_checkpoint("out")


if __name__ == "__main__":
    main()
