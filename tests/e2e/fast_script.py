"""A user's training script over a stand-in for transformers: steps of no time, real files.

`--fits N@K`: from step K on, micro-batches above N are refused as the CPU allocator refuses.
`--fails_after FILE`: after the last step it fails, once; FILE remembers it. `--seconds S` a step.
"""

import argparse
import json
import time
from pathlib import Path

import torch  # noqa: F401  a real transformers would import it
from transformers.trainer import Trainer

REFUSED = (
    "[enforce fail at alloc_cpu.cpp:121] err == 0. DefaultCPUAllocator: can't allocate memory: "
    "you tried to allocate 1073741824 bytes. Error code 12 (Cannot allocate memory)"
)


def read() -> argparse.Namespace:
    """Return the arguments, as a user's script reads them."""
    parser = argparse.ArgumentParser(allow_abbrev=False)
    parser.add_argument("--output_dir", required=True)
    parser.add_argument("--per_device_train_batch_size", type=int, default=8)
    parser.add_argument("--per_device_eval_batch_size", type=int, default=8)
    parser.add_argument("--gradient_accumulation_steps", type=int, default=1)
    parser.add_argument("--max_steps", type=int, default=6)
    parser.add_argument("--save_steps", type=float, default=500)
    parser.add_argument("--save_strategy", default="steps")
    parser.add_argument("--save_total_limit", type=int)
    parser.add_argument("--resume_from_checkpoint")
    parser.add_argument("--fits", default="99@0")
    parser.add_argument("--fails_after")
    parser.add_argument("--seconds", type=float, default=0.0)
    return parser.parse_args()


class Loss:
    """A loss that can be added up and read."""

    def detach(self) -> float:
        """Return the number."""
        return 1.0


class Own(Trainer):  # type: ignore[misc]
    """Refuses, saves and resumes as a real one does."""

    def __init__(self, given: argparse.Namespace) -> None:
        """Train by the arguments."""
        super().__init__(given.output_dir, given.max_steps, self.saves_when_due)
        self.given = given
        self._train_batch_size = given.per_device_train_batch_size
        said = {
            "gradient_accumulation_steps": given.gradient_accumulation_steps,
            "save_strategy": given.save_strategy,
            "eval_batch_size": given.per_device_eval_batch_size,
            "world_size": 1, "bf16": False, "fp16": False, "dataloader_num_workers": 0,
        }  # fmt: skip
        for name, value in said.items():
            setattr(self.args, name, value)
        if given.resume_from_checkpoint:
            held = Path(given.resume_from_checkpoint, "trainer_state.json").read_text()
            self.state.global_step = json.loads(held)["global_step"]

    def training_step(self, model: object, inputs: object) -> Loss:
        """Train one micro-batch."""
        time.sleep(self.given.seconds)
        fits, since = (int(part) for part in self.given.fits.split("@"))
        late = self.state.global_step + 1 >= since
        if late and self.given.per_device_train_batch_size > fits:
            raise RuntimeError(REFUSED)
        return Loss()

    def saves_when_due(self, step: int) -> None:
        """Ask for a save, as the real one's own callback does."""
        every = self.given.save_steps
        every = max(1, int(every if every >= 1 else every * self.given.max_steps))
        due = step % every == 0 or step == self.given.max_steps
        self.control.should_save = self.given.save_strategy != "no" and due

    def _save_checkpoint(self, model: object, trial: object) -> None:
        step = self.state.global_step
        folder = Path(self.args.output_dir, f"checkpoint-{step}")
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "model.safetensors").write_bytes((2).to_bytes(8, "little") + b"{}")
        for name in ("optimizer.pt", "scheduler.pt"):
            (folder / name).write_bytes(b"\x80")
        (folder / "trainer_state.json").write_text(json.dumps({"global_step": step}))


def main() -> None:
    """Train, and fail once afterwards where that is asked for."""
    given = read()
    Own(given).train()
    if given.fails_after and not Path(given.fails_after).exists():
        Path(given.fails_after).touch()
        raise ValueError("the final model has no name")
    Path(given.output_dir).mkdir(parents=True, exist_ok=True)
    Path(given.output_dir, "final").touch()


if __name__ == "__main__":
    main()
