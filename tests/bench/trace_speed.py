"""Times the trace of a 7B and a 13B model and compares a few layers with all of them.

python tests/bench/trace_speed.py [--full]
"""

import json
import os
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

TRACER = Path(__file__).parents[2] / "autotune" / "child" / "trace.py"
LLAMA: dict[str, Any] = {"model_type": "llama", "vocab_size": 32000}
MODELS: dict[str, dict[str, Any]] = {
    "Llama-2-7B": {
        **LLAMA, "hidden_size": 4096, "num_hidden_layers": 32, "num_attention_heads": 32,
        "intermediate_size": 11008,
    },
    "Llama-2-13B": {
        **LLAMA, "hidden_size": 5120, "num_hidden_layers": 40, "num_attention_heads": 40,
        "intermediate_size": 13824,
    },
}  # fmt: skip
CASE: dict[str, Any] = {
    "dtype": "bf16", "micro_batch": 2, "eval_micro_batch": 2, "sequence": 1024,
    "checkpointing": False, "attention": "sdpa", "padded": True, "loss": "whole",
    "fp32_logits": True, "activation_offload": False,
    "keeps_outputs": False, "evaluates": True, "quantization": "none",
    "four_bit_compute": "dtype", "other_weights_fp32": False, "lora": None,
}  # fmt: skip
LORA = {"rank": 8, "targets": [], "dropout": 0.05, "fp32": False}
PLANS: tuple[dict[str, Any], ...] = ({}, {"lora": LORA, "checkpointing": True})


def main() -> None:
    """Print a line for each model and plan."""
    for name, config in MODELS.items():
        for plan in PLANS:
            depths = (False, True) if "--full" in sys.argv else (False,)
            request = {
                "model": {"config": config}, "trust_remote_code": False, "device": "cuda",
                "data_limit": 8 * 2**30,
                "cases": [{**CASE, **plan, "full_depth": full} for full in depths],
            }  # fmt: skip
            began = time.monotonic()
            done = subprocess.run(
                [sys.executable, str(TRACER), json.dumps(request)],
                capture_output=True, text=True, check=True,
                env={**os.environ, "OMP_NUM_THREADS": "1"},
            )  # fmt: skip
            wall = time.monotonic() - began
            most = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 2**10
            for answer in map(json.loads, done.stdout.splitlines()):
                top = max(answer["backward"][0][0], answer["forward"])
                print(
                    f"{name} {'lora' if plan else 'full'}: {answer['depth']} layers, "
                    f"{answer['seconds']:.1f} s, peak {top} bytes, "
                    f"overhead {answer['overhead']}, expandable {answer['overhead_expandable']}"
                )
            print(f"  wall {wall:.1f} s with starting and importing, {most:.0f} MiB at most so far")


if __name__ == "__main__":
    main()
