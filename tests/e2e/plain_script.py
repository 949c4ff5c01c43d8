"""A user's training script that knows nothing of autotune: a Llama over the library's docstrings.

Started as `python plain_script.py --output_dir out --per_device_train_batch_size 8 …`.
"""

import ast
import sysconfig
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import (
    HfArgumentParser,
    LlamaConfig,
    LlamaForCausalLM,
    Trainer,
    TrainingArguments,
    set_seed,
)


@dataclass
class ScriptArguments:
    """What is trained."""

    rows: int = 64
    block_size: int = 512
    config_name: str = "model.json"


def docstrings(wanted: int) -> list[str]:
    """Return the first docstrings of the standard library, in the order of its files."""
    found: list[str] = []
    for path in sorted(Path(sysconfig.get_path("stdlib")).glob("*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8", errors="replace"))
        for node in ast.walk(tree):
            if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef)):
                text = ast.get_docstring(node)
                if text and len(text) > 40:
                    found.append(text)
        if len(found) >= wanted:
            break
    return found[:wanted]


def rows(script: ScriptArguments) -> list[list[int]]:
    """Return rows of bytes, the short ones first, so that memory is short late."""
    found = [list(text.encode()[: script.block_size]) for text in docstrings(script.rows)]
    return sorted(found, key=len)


def collate(batch: list[list[int]]) -> dict[str, torch.Tensor]:
    """Return a batch filled up to its longest row."""
    longest = max(len(row) for row in batch)
    filled = torch.tensor([row + [0] * (longest - len(row)) for row in batch])
    mask = (filled != 0).long()
    labels = torch.where(filled == 0, -100, filled)
    return {"input_ids": filled, "attention_mask": mask, "labels": labels}


def main() -> None:
    """Train."""
    script, arguments = HfArgumentParser(
        (ScriptArguments, TrainingArguments)
    ).parse_args_into_dataclasses()
    set_seed(arguments.seed)
    model = LlamaForCausalLM(LlamaConfig.from_json_file(script.config_name))
    made = rows(script)
    trainer = Trainer(model=model, args=arguments, train_dataset=made, data_collator=collate)
    trainer.train(resume_from_checkpoint=arguments.resume_from_checkpoint)
    trainer.save_model()


if __name__ == "__main__":
    main()
