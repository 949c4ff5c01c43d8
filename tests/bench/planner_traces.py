"""Makes the traces that the simulated truth rests on: `python -m tests.bench.planner_traces NAME…`.

Each named model is traced by child/trace.py, as the trainer would run it on CUDA, and its numbers
are written into planner_traces.json; without a name, every model that is not in there yet.
"""

import json
import os
import subprocess
import sys
import tempfile
from itertools import product
from pathlib import Path
from typing import Any

from autotune import child

TRACES = Path(__file__).with_name("planner_traces.json")
TRACER = Path(child.__file__).parent / "trace.py"
LORA_RANK = 16
# Micro-batch and tokens of a row. Between them bytes are interpolated over the tokens of a
# micro-batch; where rows are padded the last point tells what a mask costs for longer rows.
PACKED = ((1, 1024), (4, 1024), (16, 1024), (64, 1024))
PADDED = ((1, 512), (4, 512), (32, 512), (128, 512), (1, 4096))


def decoder(kind: str, hidden: int, layers: int, heads: int, kv: int, inner: int, vocab: int,
            **more: object) -> dict[str, object]:  # fmt: skip
    """Return an architecture config."""
    return {
        "model_type": kind, "hidden_size": hidden, "num_hidden_layers": layers,
        "num_attention_heads": heads, "num_key_value_heads": kv, "intermediate_size": inner,
        "vocab_size": vocab, "max_position_embeddings": 32768, "tie_word_embeddings": False, **more,
    }  # fmt: skip


TIED = {"tie_word_embeddings": True}
# The first two are for changing the planner, the others for judging it.
FOR_CHANGING = ("llama3.2-1b", "qwen2.5-7b")
MODELS: dict[str, tuple[bool, dict[str, object]]] = {  # whether rows are padded, and the config
    "llama3.2-1b": (True, decoder("llama", 2048, 16, 32, 8, 8192, 128256, **TIED)),
    "qwen2.5-7b": (False, decoder("qwen2", 3584, 28, 28, 4, 18944, 152064)),
    "llama2-7b": (True, decoder("llama", 4096, 32, 32, 32, 11008, 32000)),
    "qwen2.5-1.5b": (False, decoder("qwen2", 1536, 28, 12, 2, 8960, 151936, **TIED)),
    "llama3.2-3b": (True, decoder("llama", 3072, 28, 24, 8, 8192, 128256, **TIED)),
    "llama2-13b": (False, decoder("llama", 5120, 40, 40, 40, 13824, 32000)),
    "qwen3-4b": (True, decoder("qwen3", 2560, 36, 32, 8, 9728, 151936, head_dim=128, **TIED)),
    "qwen2.5-0.5b": (False, decoder("qwen2", 896, 24, 14, 2, 4864, 151936, **TIED)),
    "mistral-nemo-12b": (
        False, decoder("mistral", 5120, 40, 32, 8, 14336, 131072, head_dim=128),
    ),
}  # fmt: skip
SETTINGS = tuple(product(("full", "lora"), (False, True), ("whole", "chunked")))


def key_of(method: str, checkpointing: bool, loss: str) -> str:
    """Return the name of one setting's numbers."""
    return f"{method}/{'checkpointing' if checkpointing else 'stored'}/{loss}"


def case(method: str, checkpointing: bool, loss: str, padded: bool, micro: int, tokens: int) -> Any:
    """Return what the tracer is asked of one setting."""
    lora = {"rank": LORA_RANK, "targets": [], "dropout": 0.0, "fp32": False}
    return {
        "dtype": "bf16", "micro_batch": micro, "eval_micro_batch": micro, "sequence": tokens,
        "checkpointing": checkpointing, "attention": "sdpa", "padded": padded, "loss": loss,
        "fp32_logits": True, "keeps_outputs": False, "evaluates": False,
        "quantization": "none", "four_bit_compute": "dtype",
        "other_weights_fp32": False, "activation_offload": False,
        "lora": None if method == "full" else lora,
    }  # fmt: skip


def traced(padded: bool, config: dict[str, object]) -> dict[str, Any]:
    """Return a model's numbers, bytes: micro-batch, tokens of a row, forward peak, backward peaks
    before and after the first gradient is made, what the loss takes of the forward one, and the
    allocator's overhead, with plain and with expandable segments; RuntimeError where the tracer
    fails."""
    points = PADDED if padded else PACKED
    asked = [(setting, point) for setting in SETTINGS for point in points]
    cases = [case(*setting, padded, *point) for setting, point in asked]
    request = {
        "model": {"config": config}, "trust_remote_code": False, "device": "cuda",
        "data_limit": 8 << 30, "cases": cases,
    }  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "request.json"
        file.write_text(json.dumps(request))
        said = subprocess.run(
            [sys.executable, str(TRACER), str(file)], cwd=folder, check=True, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
            env={**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
        ).stdout  # fmt: skip
    rows: dict[str, list[list[int]]] = {}
    for (setting, point), line in zip(asked, said.splitlines(), strict=True):
        told = json.loads(line)
        if not told["ok"]:
            raise RuntimeError(f"{config['model_type']} {setting}: {told['error']}")
        before = max((size for size, made in told["backward"] if not made), default=0)
        after = max((size for size, made in told["backward"] if made), default=0)
        row = [*point, told["forward"], before, after, told["loss"], told["overhead"]]
        rows.setdefault(key_of(*setting), []).append([*row, told["overhead_expandable"]])
    return {"config": config, "padded": padded, "rows": rows}


def main() -> None:
    """Trace what is asked for, and write it down as each model is done."""
    known: dict[str, Any] = json.loads(TRACES.read_text()) if TRACES.is_file() else {}
    for name in sys.argv[1:] or [name for name in MODELS if name not in known]:
        known[name] = traced(*MODELS[name])
        lines = [f" {json.dumps(one)}: {json.dumps(known[one])}" for one in known]
        TRACES.write_text("{\n" + ",\n".join(lines) + "\n}\n")
        print(name, flush=True)


if __name__ == "__main__":
    main()
