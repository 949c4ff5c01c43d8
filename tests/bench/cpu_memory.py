"""Real trainings on the CPU, moment by moment, against what was predicted of them.

`python -m tests.bench.cpu_memory measure DATA OUT.jsonl [COUNT]` trains the next cells, two steps
each (DATA is what configs/quickstart_data.py writes), and appends what their ranks reported;
`... score OUT.jsonl` prints the signed error of every cell; `... smallest DATA OUT.jsonl CELL`
finds by bisection the smallest memory limit under which a cell of OUT.jsonl still trains.
"""

from __future__ import annotations

import json
import math
import os
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from autotune.core.memory.belief import Belief, interval
from autotune.core.memory.predict import forecast
from autotune.core.memory.reading import read_shape
from autotune.core.memory.shape import ModelShape
from autotune.core.memory.workload import Subject, Workload
from autotune.core.plan import Plan
from autotune.frameworks import ds_config

ROOT = Path(__file__).parents[2]
TRAINER = ROOT / "autotune" / "child" / "finetune.py"
MIB = 1 << 20
MODELS = {
    "40M": {
        "model_type": "llama", "vocab_size": 8192, "hidden_size": 512, "intermediate_size": 1376,
        "num_hidden_layers": 10, "num_attention_heads": 8, "num_key_value_heads": 8,
        "max_position_embeddings": 512, "tie_word_embeddings": False,
    },
    "55M": {
        "model_type": "llama", "vocab_size": 8192, "hidden_size": 768, "intermediate_size": 2048,
        "num_hidden_layers": 6, "num_attention_heads": 8, "num_key_value_heads": 8,
        "max_position_embeddings": 512, "tie_word_embeddings": False,
    },
    "22M": {
        "model_type": "qwen2", "vocab_size": 24576, "hidden_size": 384, "intermediate_size": 1024,
        "num_hidden_layers": 8, "num_attention_heads": 6, "num_key_value_heads": 2,
        "max_position_embeddings": 512, "tie_word_embeddings": True,
    },
    "9M": {
        "model_type": "llama", "vocab_size": 8192, "hidden_size": 256, "intermediate_size": 688,
        "num_hidden_layers": 6, "num_attention_heads": 4, "num_key_value_heads": 4,
        "max_position_embeddings": 512, "tie_word_embeddings": False,
    },
}  # fmt: skip
BUCKET = 5_000_000
BASE = Plan(
    world_size=1,
    micro_batch=2,
    accumulation=1,
    eval_micro_batch=2,
    method="full",
    quantization="none",
    dtype="fp32",
    activation_checkpointing=False,
    zero_stage=2,
    offload_optimizer=False,
    offload_param=False,
    reduce_bucket=BUCKET,
    allgather_bucket=BUCKET,
    gather_on_save=True,
)
LORA = {"method": "lora"}
QLORA = {"method": "lora", "quantization": "nf4"}
TWO = {"world_size": 2}
# Name, model, tokens a row, and what differs from BASE. Every second one is held out from fitting.
CELLS: tuple[tuple[str, str, int, dict[str, Any]], ...] = (
    ("z2", "40M", 128, {}),
    ("z2 grouped", "22M", 128, {}),
    ("z3", "40M", 128, {"zero_stage": 3}),
    ("z3 grouped", "22M", 128, {"zero_stage": 3}),
    ("z2 x2", "40M", 128, TWO),
    ("z1 wide x2", "55M", 128, {"zero_stage": 1, **TWO}),
    ("z3 x2", "55M", 128, {"zero_stage": 3, **TWO}),
    ("z3 grouped x2", "22M", 128, {"zero_stage": 3, **TWO}),
    ("z1", "40M", 128, {"zero_stage": 1}),
    ("z1 wide accumulating", "55M", 128, {"zero_stage": 1, "accumulation": 2}),
    ("z2 micro 8", "22M", 256, {"micro_batch": 8}),
    ("z2 micro 6", "40M", 256, {"micro_batch": 6}),
    ("z2 micro 8 checkpointing", "22M", 256, {"micro_batch": 8, "activation_checkpointing": True}),
    ("z3 micro 4 checkpointing", "40M", 256,
     {"zero_stage": 3, "micro_batch": 4, "activation_checkpointing": True}),
    ("z2 lora", "40M", 256, LORA),
    ("z2 lora wide micro 4", "55M", 256, {**LORA, "micro_batch": 4}),
    ("z3 lora x2", "40M", 128, {"zero_stage": 3, **LORA, **TWO}),
    ("z3 lora", "55M", 128, {"zero_stage": 3, **LORA}),
    ("z2 qlora", "55M", 128, QLORA),
    ("z2 qlora x2", "40M", 128, {**QLORA, **TWO}),
    ("z2 chunked micro 8", "22M", 256, {"micro_batch": 8, "loss": "chunked"}),
    ("z3 chunked micro 6", "22M", 256, {"zero_stage": 3, "micro_batch": 6, "loss": "chunked"}),
    ("z2 large bucket", "40M", 128, {"reduce_bucket": 10 * BUCKET}),
    ("z2 wide accumulating x2", "55M", 128, {"accumulation": 2, **TWO}),
    ("z3 sub-groups", "55M", 128, {"zero_stage": 3, "sub_group_size": 10_000_000}),
    ("z3 accumulating", "40M", 128, {"zero_stage": 3, "accumulation": 2}),
    ("z2 bf16", "9M", 64, {"dtype": "bf16"}),
    ("z3 bf16 x2", "9M", 64, {"dtype": "bf16", "zero_stage": 3, **TWO}),
    ("z2 bf16 x2", "9M", 64, {"dtype": "bf16", **TWO}),
    ("z3 bf16", "9M", 64, {"dtype": "bf16", "zero_stage": 3}),
    ("z2 offload", "40M", 128, {"offload_optimizer": True}),
    ("z3 offload", "40M", 128, {"zero_stage": 3, "offload_optimizer": True}),
    ("z2 padded micro 4", "22M", 512, {"micro_batch": 4}),
    ("z2 padded lora x2", "55M", 512, {**LORA, **TWO}),
)  # fmt: skip


def plan_of(changes: dict[str, Any]) -> Plan:
    plan = BASE.but(**changes)
    return plan.but(eval_micro_batch=plan.micro_batch)


def train_json(
    data: Path, model: dict[str, Any], sequence: int, plan: Plan, limit: int | None
) -> dict[str, Any]:
    deepspeed = ds_config.with_plan({}, plan)
    deepspeed |= {"gradient_clipping": 1.0, "zero_allow_untested_optimizer": True}
    deepspeed |= {"zero_force_ds_cpu_optimizer": False}
    tokenizer = str(data / "tokenizer")
    return {
        "schema": 1,
        "mode": "train",
        "model": {"path": None, "config": model, "tokenizer": tokenizer, "dtype": plan.dtype}
        | {"trust_remote_code": False, "attention": "sdpa"},
        "method": {"kind": plan.method, "quantization": plan.quantization}
        | {"double_quantization": True, "lora_rank": 8, "lora_alpha": 16, "lora_dropout": 0.0}
        | {"lora_targets": "all-linear"},
        "data": {"train": str(data / "train.jsonl"), "eval": None, "eval_fraction": 0.01}
        | {"sequence": sequence, "packing": False, "response_only": True, "shuffle": False}
        | {"seed": 1},
        "schedule": {"epochs": None, "max_steps": 2, "learning_rate": 1e-4, "scheduler": "constant"}
        | {"warmup_steps": 0, "weight_decay": 0.0, "adam_betas": [0.9, 0.999]}
        | {"adam_epsilon": 1e-8, "max_grad_norm": 1.0, "optimizer": "adamw_torch_fused"}
        | {"seed": 1, "eval_every": 2},
        "batch": {"global": plan.global_batch, "micro": plan.micro_batch}
        | {"accumulation": plan.accumulation, "eval_micro": plan.eval_micro_batch}
        | {"world_size": plan.world_size},
        "activation_checkpointing": plan.activation_checkpointing,
        "loss": plan.loss,
        "deepspeed": deepspeed,
        "memory": {"device": "cpu", "limit_bytes": limit},
        "checkpoints": {"dir": "checkpoints", "every": 2, "keep": 1, "resume": None},
        "channel": {"events": "events", "control": "control.json", "attempt": 1},
    }


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def run(
    data: Path, cell: tuple[str, str, int, dict[str, Any]], limit: int | None
) -> tuple[bool, list[dict[str, Any]], str]:
    """Train a cell; return whether it came to its end, the events of all ranks and its output."""
    _, model, sequence, changes = cell
    folder = Path(tempfile.mkdtemp(prefix="cpu-memory-"))
    settings = train_json(data, MODELS[model], sequence, plan_of(changes), limit)
    (folder / "train.json").write_text(json.dumps(settings))
    command = [sys.executable, "-m", "torch.distributed.run", "--master-port", str(free_port())]
    command += [f"--nproc-per-node={settings['batch']['world_size']}", str(TRAINER)]
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": "1", "PATH": path}
    try:
        done = subprocess.run(
            [*command, str(folder / "train.json")],
            env=environment,
            capture_output=True,
            text=True,
            timeout=300,
        )
        events = [
            json.loads(line)
            for file in sorted((folder / "events").glob("rank*.jsonl"))
            for line in file.read_text().splitlines()
        ]
        return done.returncode == 0, events, done.stdout + done.stderr
    finally:
        shutil.rmtree(folder)


def measure(data: Path, out: Path, count: int) -> None:
    known = {one["cell"] for one in read(out)}
    for cell in [cell for cell in CELLS if cell[0] not in known][:count]:
        ended, events, output = run(data, cell, None)
        if not ended:
            print(f"{cell[0]}: failed\n{output[-2000:]}", file=sys.stderr)
            continue
        told: dict[str, dict[str, int]] = {}
        for event in events:
            if event["kind"] == "probe":
                before = told.setdefault(event["moment"], {"peak": 0, "held": 0})
                before["peak"] = max(before["peak"], event["peak_bytes"])
                before["held"] = max(before["held"], event["held_bytes"])
        base = max(
            e["memory"]["data_bytes"]
            for e in events
            if e["kind"] == "phase" and e["phase"] == "load"
        )
        peak = max(e["memory"]["peak_data_bytes"] for e in events if "memory" in e)
        found = {"cell": cell[0], "base": base, "peak": peak, "moments": told}
        found["tokens"] = max(e["max_length"] for e in events if e["kind"] == "step")
        found["seconds"] = round(max(e["t"] for e in events) - min(e["t"] for e in events), 1)
        with out.open("a") as file:
            file.write(json.dumps(found) + "\n")
        print(f"{cell[0]}: {peak / MIB:.0f} MiB, base {base / MIB:.0f}", flush=True)


def read(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in out.read_text().splitlines()] if out.exists() else []


def workload_of(cell: tuple[str, str, int, dict[str, Any]], tokens: int) -> Workload:
    _, model, sequence, changes = cell
    shape = read_shape(MODELS[model])
    assert isinstance(shape, ModelShape), shape
    plan = plan_of(changes)
    # All rows are longer than 256 tokens: cut there they are of one length, and need no mask.
    padded = sequence > 256
    subject = Subject(
        shape,
        "cpu",
        min(sequence, tokens),
        padded=padded,
        fresh=True,
        evaluates=True,
        host_ranks=plan.world_size,
    )
    return Workload(subject, plan)


def score(out: Path) -> None:
    cells = {cell[0]: (at, cell) for at, cell in enumerate(CELLS)}
    errors: dict[str, list[float]] = {"fitted": [], "held out": []}
    inside = 0
    for one in read(out):
        at, cell = cells[one["cell"]]
        told = forecast(workload_of(cell, one["tokens"]))
        error = told.peak / one["peak"] - 1
        which = "held out" if at % 2 else "fitted"
        errors[which].append(error)
        low, high = interval(Belief(), plan_of(cell[3]), told)
        inside += which == "held out" and low <= one["peak"] <= high
        print(
            f"{one['cell']:<34} {which:<9} {one['peak'] / MIB:7.0f} {told.peak / MIB:7.0f} "
            f"{error:+7.1%}  {told.peak_at.value}"
        )
        if "-v" in sys.argv:
            for moment, bytes_ in told.moments.items():
                seen = one["moments"].get(moment.value)
                if seen:
                    print(
                        f"    {moment.value:<20} peak {seen['peak'] / MIB:7.0f} "
                        f"{(bytes_.peak + told.outside) / MIB:7.0f}  held "
                        f"{seen['held'] / MIB:7.0f} {(bytes_.held + told.outside) / MIB:7.0f}"
                    )
    for name, values in errors.items():
        if values:
            mean = statistics.mean(map(abs, values))
            spread = math.sqrt(statistics.mean(math.log1p(value) ** 2 for value in values))
            print(
                f"{name}: {len(values)} cells, mean {mean:.1%}, lowest {min(values):+.1%},", end=""
            )
            print(f" highest {max(values):+.1%}, spread {spread:.3f}")
    print(f"held out and within the forecast's own interval: {inside} of {len(errors['held out'])}")


def smallest(data: Path, out: Path, name: str) -> None:
    """Bisect the limit between 85 % and 105 % of the peak that was measured, to 1 %."""
    cell = next(cell for cell in CELLS if cell[0] == name)
    one = next(one for one in read(out) if one["cell"] == name)
    peak = one["peak"]
    low, high = 0.85 * peak, 1.05 * peak
    while high - low > 0.01 * peak:
        middle = (low + high) / 2
        survives = run(data, cell, int(middle))[0]
        low, high = (low, middle) if survives else (middle, high)
    told = forecast(workload_of(cell, one["tokens"])).peak
    print(
        f"{name}: smallest limit {high / MIB:.0f} MiB, peak {peak / MIB:.0f}, told {told / MIB:.0f}"
    )


if __name__ == "__main__":
    what, *rest = [word for word in sys.argv[1:] if word != "-v"]
    if what == "measure":
        measure(Path(rest[0]), Path(rest[1]), int(rest[2]) if len(rest) > 2 else len(CELLS))
    elif what == "score":
        score(Path(rest[0]))
    else:
        smallest(Path(rest[0]), Path(rest[1]), rest[2])
