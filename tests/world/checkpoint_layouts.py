"""Makes checkpoint folders as HF Trainer and DeepSpeed lay them out, of files that are whole."""

import io
import json
import zipfile
from pathlib import Path
from typing import Any


def archive() -> bytes:
    """Return what ends as a file of torch ends."""
    held = io.BytesIO()
    with zipfile.ZipFile(held, "w") as file:
        file.writestr("archive/data.pkl", b"never read" * 20)
    return held.getvalue()


def tensors() -> bytes:
    """Return a safetensors file of one tensor."""
    header = json.dumps({"w": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}).encode()
    return len(header).to_bytes(8, "little") + header + b"\0" * 8


def plain(folder: Path, step: int, ranks: int = 1, **state: Any) -> Path:
    """Make a checkpoint of a training without DeepSpeed."""
    path = folder / f"checkpoint-{step}"
    path.mkdir(parents=True)
    (path / "model.safetensors").write_bytes(tensors())
    for name in ("optimizer.pt", "scheduler.pt", "training_args.bin"):
        (path / name).write_bytes(archive())
    names = [f"rng_state_{rank}.pth" for rank in range(ranks)] if ranks > 1 else ["rng_state.pth"]
    for name in names:
        (path / name).write_bytes(archive())
    (path / "trainer_state.json").write_text(json.dumps({"global_step": step, **state}))
    (path / "config.json").write_text(json.dumps({"model_type": "llama", "hidden_size": 8}))
    return path


def sharded(folder: Path, step: int, ranks: int = 2, stage: int = 2, bf16: bool = False) -> Path:
    """Make a checkpoint of a training under DeepSpeed."""
    path = plain(folder, step, ranks)
    (path / "optimizer.pt").unlink()
    shards, prefix = path / f"global_step{step}", "bf16_" if bf16 else ""
    shards.mkdir()
    for rank in range(ranks):
        name = f"{prefix}zero_pp_rank_{rank}_mp_rank_00_optim_states.pt"
        (shards / name).write_bytes(archive())
        if stage == 3:
            (shards / f"zero_pp_rank_{rank}_mp_rank_00_model_states.pt").write_bytes(archive())
    if stage < 3:
        (shards / "mp_rank_00_model_states.pt").write_bytes(archive())
    (path / "latest").write_text(f"global_step{step}")
    return path
