"""Trains one cell of the grid with HF Trainer's `auto_find_batch_size` alone, for comparison.

`python hf_auto_batch.py SPEC.json` for one rank; under torchrun for more. The limit is set where
the built-in trainer sets it: after the libraries are loaded and before the model is. Prints one
JSON object a line: {"attempt"}, {"step", "t", "micro"}, {"finished"} or {"died"}.
"""

import json
import resource
import sys
import time
from pathlib import Path
from typing import Any


def say(**fields: Any) -> None:
    """Print one object; rank 0 speaks."""
    import os

    if os.environ.get("RANK", "0") == "0":
        print(json.dumps(fields), flush=True)


def load_model(spec: dict[str, Any]) -> Any:
    """Return the cell's model with random weights, as a user of HF Trainer would load it."""
    import torch
    import transformers

    wanted = dict(spec["model"])
    config = transformers.AutoConfig.for_model(wanted.pop("model_type"), **wanted)
    transformers.set_seed(1)
    adapters = spec["method"] != "full"
    # Full training in bf16 keeps float32 weights and computes in bf16; adapters rest on bf16 ones.
    half = adapters and spec["dtype"] == "bf16"
    dtype = torch.bfloat16 if half else torch.float32
    model = transformers.AutoModelForCausalLM.from_config(config, dtype=dtype)
    if spec["method"] == "qlora":
        model = in_four_bits(model, dtype)
    if adapters:
        import peft

        adapter = peft.LoraConfig(
            task_type="CAUSAL_LM", r=8, lora_alpha=16, target_modules="all-linear"
        )
        model = peft.get_peft_model(model, adapter)
    return model


def in_four_bits(model: Any, dtype: Any) -> Any:
    """Return the model with 4-bit weights, which exist only by loading."""
    import transformers

    four = transformers.BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=dtype,
    )  # fmt: skip
    return type(model).from_pretrained(
        None, config=model.config, state_dict=model.state_dict(), dtype=dtype,
        quantization_config=four, device_map={"": "cpu"},
    )  # fmt: skip


def load_rows(spec: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the same tokens as the built-in trainer sees."""
    import transformers

    tokenizer = transformers.AutoTokenizer.from_pretrained(spec["tokenizer"])
    rows = []
    for line in Path(spec["rows"]).read_text().splitlines():
        ids = tokenizer(json.loads(line)["text"] + tokenizer.eos_token)["input_ids"]
        ids = ids[: spec["sequence"]]
        rows.append({"input_ids": ids, "labels": list(ids), "attention_mask": [1] * len(ids)})
    return rows


def pad(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Return rows as tensors of one length."""
    import torch

    longest = max(len(row["input_ids"]) for row in rows)
    fill = {"input_ids": 1, "labels": -100, "attention_mask": 0}
    return {
        key: torch.tensor([row[key] + [value] * (longest - len(row[key])) for row in rows])
        for key, value in fill.items()
    }


def main() -> int:
    """Train as the SPEC says, and say what came of it."""
    spec = json.loads(Path(sys.argv[1]).read_text())
    import transformers

    class Watch(transformers.TrainerCallback):  # type: ignore[misc]
        trainer: Any = None

        def on_train_begin(self, *_: Any, **__: Any) -> None:
            say(attempt=True)

        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            say(step=state.global_step, t=time.time(), micro=self.trainer._train_batch_size)

    arguments = transformers.TrainingArguments(
        output_dir=spec["out"],
        max_steps=spec["steps"],
        per_device_train_batch_size=spec["micro"],
        gradient_accumulation_steps=spec["accumulation"],
        auto_find_batch_size=True,
        learning_rate=1e-4,
        optim="adamw_torch_fused",
        bf16=spec["dtype"] == "bf16",
        use_cpu=True,
        save_strategy="no",
        logging_strategy="no",
        report_to=[],
        disable_tqdm=True,
        remove_unused_columns=False,
    )
    hard = resource.getrlimit(resource.RLIMIT_DATA)[1]
    resource.setrlimit(resource.RLIMIT_DATA, (spec["limit"], hard))
    try:
        watch = Watch()
        trainer = watch.trainer = transformers.Trainer(
            model=load_model(spec), args=arguments, train_dataset=load_rows(spec),
            data_collator=pad, callbacks=[watch],
        )  # fmt: skip
        trainer.train()
    except Exception as error:
        resource.setrlimit(resource.RLIMIT_DATA, (hard, hard))
        say(died=f"{type(error).__name__}: {str(error).splitlines()[0][:200]}")
        return 1
    say(finished=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
