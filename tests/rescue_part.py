"""Writes what one rank writes of a refused training's last step, with bytes in place of tensors."""

import hashlib
import json
from pathlib import Path
from typing import Any


def part(place: Path, rank: int, ranks: int, at: int, **changes: Any) -> None:
    """Write a part in the layout of stages 1 and 2, and the file that vouches for it."""
    tag = f"global_step{at}"
    names = {f"{tag}/zero_pp_rank_{rank}_mp_rank_00_optim_states.pt": b"moments" * 99}
    names["rng_state.pth" if ranks == 1 else f"rng_state_{rank}.pth"] = b"random"
    if rank == 0:
        names[f"{tag}/mp_rank_00_model_states.pt"] = b"weights" * 99
        names["latest"] = tag.encode()
        names["trainer_state.json"] = json.dumps({"global_step": at}).encode()
    files = []
    for name, content in names.items():
        path = place / f"checkpoint-{at}" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        digest = hashlib.sha256(content).hexdigest()
        files.append({"name": name, "bytes": len(content), "sha256": digest})
    told: dict[str, Any] = {"id": 1, "step": at, "rank": rank, "world_size": ranks}
    told |= {"zero_stage": 2, "files": files, **changes}
    draft = place / f"rank{rank}.draft"
    draft.write_text(json.dumps(told))
    draft.replace(place / f"rank{rank}.json")
