"""A Llama of two layers under HF Trainer and DeepSpeed writes down what it computed, to compare.

Run under torchrun as `tiny_trainer.py PLAN_JSON`. It stands for any HF Trainer script: the
optimizer is the one HF makes (weight decay on matrices only), so its checkpoints are the real
thing. Every rank writes OUT/rank<r>.json: the loss of each optimizer step, and the optimizer's
parameter groups as they stood after a checkpoint was loaded and before the first step.
`tiny_trainer.py --base DIR` writes the base model that adapters are trained on.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import torch
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    Trainer,
    TrainerCallback,
    TrainingArguments,
    set_seed,
)

ROWS, LENGTH, VOCAB = 64, 32, 101


class Rows(torch.utils.data.Dataset):  # type: ignore[misc]
    def __init__(self) -> None:
        generator = torch.Generator().manual_seed(7)
        # Arithmetic progressions: the loss falls within eight steps, so lost state shows in it.
        start = torch.randint(0, VOCAB, (ROWS, 1), generator=generator)
        stride = torch.randint(1, 4, (ROWS, 1), generator=generator)
        self.ids = (start + stride * torch.arange(LENGTH)) % VOCAB

    def __len__(self) -> int:
        return ROWS

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        return {"input_ids": self.ids[index], "labels": self.ids[index]}


class Recorder(TrainerCallback):  # type: ignore[misc]
    """Keeps the loss of each step unrounded, and the parameter groups before the first one."""

    def __init__(self) -> None:
        self.pending: list[float] = []
        self.losses: dict[int, float] = {}
        self.groups: list[dict[str, Any]] = []
        self.facts: dict[str, Any] = {}

    def on_step_begin(self, args: Any, state: Any, control: Any, **kw: Any) -> None:
        if not self.groups:
            engine = kw["model"] if hasattr(kw["model"], "optimizer") else self.trainer.deepspeed
            zero = engine.optimizer
            inner = zero.optimizer
            self.facts = {
                "optimizer": type(inner).__name__,
                "library": type(inner).__module__.split(".")[0],
                "zero": type(zero).__name__,
                "states": sorted({k for s in inner.state.values() for k in s}),
                "moment_norm": float(
                    sum(
                        float(s["exp_avg"].abs().sum())
                        for s in inner.state.values()
                        if "exp_avg" in s
                    )
                ),
                "step": state.global_step,
            }
            for group in inner.param_groups:
                keep = {
                    k: v for k, v in group.items() if isinstance(v, (int, float, bool, tuple, list))
                }
                keep.pop("params", None)
                self.groups.append(keep)

    def on_step_end(self, args: Any, state: Any, control: Any, **kw: Any) -> None:
        self.losses[state.global_step] = sum(self.pending)
        self.pending = []


def recorded(recorder: Recorder) -> type[Trainer]:
    class Recorded(Trainer):  # type: ignore[misc]
        def training_step(self, *args: Any, **kw: Any) -> torch.Tensor:
            loss = super().training_step(*args, **kw)
            recorder.pending.append(float(loss.detach().double()))
            return loss

    return Recorded


def build_model(plan: dict[str, Any], base: Path) -> Any:
    if not plan.get("lora"):
        set_seed(1)
        return LlamaForCausalLM(llama(plan))
    from peft import LoraConfig, get_peft_model, prepare_model_for_kbit_training

    extra: dict[str, Any] = {}
    if plan.get("nf4"):
        from transformers import BitsAndBytesConfig

        extra["quantization_config"] = BitsAndBytesConfig(
            load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=torch.float32
        )
    model = LlamaForCausalLM.from_pretrained(base, dtype=torch.float32, **extra)
    if plan.get("nf4"):
        model = prepare_model_for_kbit_training(model, use_gradient_checkpointing=False)
    set_seed(1)
    targets = "all-linear"
    return get_peft_model(model, LoraConfig(r=8, lora_alpha=64, target_modules=targets))


def llama(plan: dict[str, Any]) -> LlamaConfig:
    return LlamaConfig(
        vocab_size=VOCAB,
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=64,
        tie_word_embeddings=bool(plan.get("tied")),
    )


def main() -> None:
    if sys.argv[1] == "--base":
        set_seed(1)
        LlamaForCausalLM(llama({})).save_pretrained(sys.argv[2])
        return
    plan = json.loads(Path(sys.argv[1]).read_text())
    out = Path(plan["out"])
    set_seed(1)
    world = int(os.environ["WORLD_SIZE"])
    arguments = TrainingArguments(
        output_dir=str(out),
        per_device_train_batch_size=2,
        gradient_accumulation_steps=4 // world,
        max_steps=8,
        learning_rate=5e-3,
        weight_decay=0.1,
        warmup_steps=2,
        lr_scheduler_type="linear",
        optim=plan.get("optim", "adamw_torch"),
        save_steps=2,
        logging_steps=1,
        report_to=[],
        use_cpu=True,
        bf16=bool(plan.get("bf16")),
        seed=3,
        deepspeed=plan["deepspeed"],
        disable_tqdm=True,
    )
    # Ranks must know of one another before zero.Init reads the config, or it counts one of them.
    _ = arguments.device
    model = build_model(plan, Path(plan["base"]))
    recorder = Recorder()
    trainer = recorded(recorder)(
        model=model, args=arguments, train_dataset=Rows(), callbacks=[recorder]
    )
    recorder.trainer = trainer
    trainer.train(resume_from_checkpoint=plan.get("resume"))
    rank = os.environ["RANK"]
    record = {"losses": recorder.losses, "groups": recorder.groups, **recorder.facts}
    (out / f"rank{rank}.json").write_text(json.dumps(record))


if __name__ == "__main__":
    main()
