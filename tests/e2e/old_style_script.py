"""A user's LoRA script as they were written for transformers 4, with a loss term of its own.

Started as `python old_style_script.py --model model --quantization none --dtype bf16 …`. Two traits
of such scripts are real: `load_in_4bit` is given to `from_pretrained` itself, which transformers 5
does not know any more; and the term takes distances, for which torch has no kernel in bf16. No
autocast is asked for, so what the model returns has the dtype of its weights.
"""

import argparse

import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, Trainer, TrainingArguments, set_seed

DTYPES = {"bf16": torch.bfloat16, "fp32": torch.float32}


def rows(count: int, length: int) -> list[dict[str, list[int]]]:
    """Return rows of counted tokens, each its own label."""
    made = [[(7 * row + 3 * place) % 250 + 1 for place in range(length)] for row in range(count)]
    return [{"input_ids": row, "attention_mask": [1] * length, "labels": row} for row in made]


class Spread(Trainer):  # type: ignore[misc]
    """Keeps what the model makes of a row's tokens apart."""

    def compute_loss(self, model, inputs, **more):  # type: ignore[no-untyped-def]
        """Return the loss with the term."""
        loss, outputs = super().compute_loss(
            model, {**inputs, "output_hidden_states": True}, True, more.get("num_items_in_batch")
        )
        apart = torch.pdist(outputs.hidden_states[-1].flatten(0, 1))
        return loss - 0.01 * torch.log(apart.mean() + 1e-6)


def load(args: argparse.Namespace) -> torch.nn.Module:
    """Return the model under adapters."""
    more = {"load_in_4bit": True} if args.quantization == "nf4" else {}
    model = AutoModelForCausalLM.from_pretrained(args.model, dtype=DTYPES[args.dtype], **more)
    return get_peft_model(
        model, LoraConfig(r=8, lora_alpha=16, target_modules=["q_proj", "v_proj"])
    )


def main() -> None:
    """Train."""
    reader = argparse.ArgumentParser()
    for name in ("model", "output", "resume", "finetuning_type", "quantization", "dtype"):
        reader.add_argument(f"--{name}")
    reader.add_argument("--micro_batch", type=int)
    reader.add_argument("--accumulation", type=int)
    args = reader.parse_args()
    set_seed(1)
    arguments = TrainingArguments(
        args.output,
        per_device_train_batch_size=args.micro_batch,
        gradient_accumulation_steps=args.accumulation,
        max_steps=2, save_steps=1, learning_rate=1e-3, use_cpu=True,
    )  # fmt: skip
    trainer = Spread(model=load(args), args=arguments, train_dataset=rows(6, 5))
    trainer.train(resume_from_checkpoint=args.resume)
    trainer.save_model()


if __name__ == "__main__":
    main()
