"""Measures the memory forecast: `python -m tests.bench.memory_accuracy [TRUTH.jsonl]`.

The truth is a file of measured runs, one JSON object a line; without one that part is skipped.
"""

import argparse
import json
import math
import statistics
import time
from pathlib import Path
from typing import Any

from autotune.core.memory.predict import forecast
from autotune.core.memory.reading import read_shape
from autotune.core.memory.shape import ModelShape
from autotune.core.memory.student import quantile
from autotune.core.memory.workload import Subject, Workload
from autotune.core.plan import Plan

GIB = 2**30
NINE_OF_TEN = quantile(0.95)
CAPS = (16, 24, 40, 80)
TARGETS = {
    "q,k,v,o": ("q_proj", "k_proj", "v_proj", "o_proj"),
    "q,v": ("q_proj", "v_proj"),
    "mlp": ("gate_proj", "up_proj", "down_proj"),
}
START = Plan(
    world_size=1,
    micro_batch=1,
    accumulation=1,
    eval_micro_batch=1,
    method="full",
    quantization="none",
    dtype="bf16",
    activation_checkpointing=False,
    zero_stage=0,
    offload_optimizer=False,
    offload_param=False,
    reduce_bucket=500_000_000,
    allgather_bucket=500_000_000,
    gather_on_save=False,
)


def shape_of(row: dict[str, Any]) -> ModelShape:
    """Return the shape of a measured row's model, which it names by its sizes."""
    config = {
        "model_type": "qwen2" if "Qwen" in row["model"] else "llama",
        "hidden_size": row["hidden"],
        "num_hidden_layers": row["layers"],
        "num_attention_heads": row["heads"],
        "num_key_value_heads": row["kv_heads"],
        "intermediate_size": row["ffn"],
        "vocab_size": row["vocab"],
    }
    both = [read_shape({**config, "tie_word_embeddings": tied}) for tied in (False, True)]
    shapes = [one for one in both if isinstance(one, ModelShape)]
    return min(shapes, key=lambda one: abs(one.parameters - row["params"]))


def workload_of(row: dict[str, Any]) -> Workload | None:
    """Return the workload of a measured row, or None where the model here has no such thing."""
    if row["zero"] not in (0, 3) or row["attention"] == "torchtune" or row["rank"] is None:
        return None
    lora, four_bit = row["method"] != "full", row["method"] == "qlora"
    fp32 = "non-4-bit params fp32" in row["dtype"]
    subject = Subject(
        shape=shape_of(row),
        device="cuda",
        sequence=row["seq"],
        lora_rank=row["rank"] or 8,
        lora_targets=TARGETS.get(row.get("lora_targets", ""), ()),
        adapter_dtype="fp32" if fp32 or "adapters fp32" in row["dtype"] else "plan",
        other_weights_fp32=fp32,
        padded="padding mask" in row.get("notes", ""),
        keeps_outputs="keeps model outputs" in row.get("notes", ""),
    )
    plan = START.but(
        world_size=row["gpus"],
        micro_batch=row["micro_batch"],
        eval_micro_batch=row["micro_batch"],
        method="lora" if lora else "full",
        quantization="nf4" if four_bit else "none",
        activation_checkpointing=row["checkpointing"] is True,
        zero_stage=row["zero"],
        optimizer=row["optimizer"] if row["optimizer"].startswith("paged") else "adamw",
    )
    return Workload(subject, plan)


def against_truth(file: Path) -> None:
    """Print the signed error of each measured row, and of the exact rows together."""
    for exact in (True, False):
        tensors: list[float] = []
        peaks: list[float] = []
        kept: list[float] = []
        agree = 0
        print("\nexact settings" if exact else "\nsettings partly inferred: not a measure")
        for line in file.read_text().splitlines():
            row = json.loads(line)
            workload = workload_of(row) if row.get("settings_exact") is exact else None
            if workload is None or row["measured_peak_gib"] is None:
                continue
            found = forecast(workload)
            error = found.tensors / GIB / row["measured_peak_gib"] - 1
            tensors.append(error)
            told = (
                f"{row['model'][-24:]:24} {row['method']:5} {row['seq']:5} x {row['micro_batch']}"
            )
            told += (
                f"  {found.tensors / GIB:6.2f} / {row['measured_peak_gib']:6.2f} GiB {error:+.1%}"
            )
            if row.get("measured_reserved_gib"):
                peaks.append((found.peak - found.outside) / GIB / row["measured_reserved_gib"] - 1)
                truth = row["measured_reserved_gib"]
                logits = 4 * workload.subject.shape.vocab * workload.tokens / GIB
                kept.append((truth - row["measured_peak_gib"]) / logits)
                ours = (found.peak - found.outside) / GIB
                agree += sum((ours <= cap) == (truth <= cap) for cap in CAPS)
                told += f"  reserved {peaks[-1]:+.1%}"
            print(told)
        if exact:
            print(f"verdicts at {CAPS} GiB that agree: {agree} of {4 * len(peaks)}")
            if kept:
                middle, least, most = statistics.median(kept), min(kept), max(kept)
                print(
                    f"reserved beside the tensors, of 4 bytes a logit: median {middle:.2f},", end=""
                )
                print(f" {least:.2f} to {most:.2f}")
            spread_and_coverage(peaks)
        for name, errors in (("tensors", tensors), ("reserved", peaks)):
            if errors:
                mean = statistics.mean(map(abs, errors))
                print(f"{name}: {len(errors)} rows, MAE {mean:.1%}, worst under {min(errors):+.1%}")


def spread_and_coverage(errors: list[float]) -> None:
    """Print how well a spread taken from every other error covers the rest."""
    logs = [math.log1p(error) for error in errors]
    fitted, judged = logs[::2], logs[1::2]
    spread = math.sqrt(statistics.mean(one * one for one in fitted))
    inside = sum(abs(one) <= NINE_OF_TEN * spread for one in judged)
    print(f"spread of all {math.sqrt(statistics.mean(one * one for one in logs)):.3f}")
    print(f"spread of every other one {spread:.3f}; its 90 % interval, {NINE_OF_TEN * spread:.1%}")
    print(f"  to either side, holds {inside} of the {len(judged)} others")


def speed() -> None:
    """Print what 500 forecasts take, of plans that share nothing but their subject."""
    shape = shape_of({"model": "llama", "hidden": 4096, "layers": 32, "heads": 32, "kv_heads": 8,
                      "ffn": 14336, "vocab": 32000, "params": 7_241_732_096})  # fmt: skip
    subject = Subject(shape, "cuda", 2048)
    plans = [
        START.but(micro_batch=1 + index // 4, zero_stage=index % 4, activation_checkpointing=odd)
        for index in range(250)
        for odd in (False, True)
    ]
    began = time.process_time()
    for plan in plans:
        forecast(Workload(subject, plan))
    print(f"\n{len(plans)} forecasts: {time.process_time() - began:.3f} s of processor time")


def main() -> None:
    """Run the parts whose data are there."""
    parser = argparse.ArgumentParser(description=__doc__)
    beside = Path(__file__).resolve().parents[3] / "shared" / "facts" / "memory_truth.jsonl"
    parser.add_argument("truth", nargs="?", type=Path, default=beside)
    truth = parser.parse_args().truth
    if truth.is_file():
        against_truth(truth)
    speed()


if __name__ == "__main__":
    main()
