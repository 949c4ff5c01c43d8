"""The cells of the grid of real jobs: small models under limits that most of them do not fit.

A limit is no number here but a place between two measured plans, so that a cell asks the same on
every machine: "the job as given does not fit, half its micro-batch does".
"""

import json
import random
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

STEPS = 6
CORES = 2
WORDS = 2046
MIB = 2**20


@dataclass(frozen=True)
class Word:
    """A plan as the cells write one: the micro-batch and what is on, as in "4cb"."""

    micro: int
    checkpointing: bool = False  # c
    four_bit: bool = False  # q
    small_buckets: bool = False  # b

    @staticmethod
    def of(text: str) -> "Word":
        """Read "4cb"."""
        digits = text.rstrip("cqb")
        flags = text[len(digits) :]
        return Word(int(digits), "c" in flags, "q" in flags, "b" in flags)


@dataclass(frozen=True)
class Cell:
    """One real job; `plans` begins with the job as given."""

    name: str
    model: Mapping[str, Any]
    method: str  # full, lora or qlora
    ranks: int
    sequence: int
    global_: int
    plans: tuple[str, ...]
    # Between the peaks of two plans; or of one plan, a share above it or below it.
    limit: tuple[str, str] | tuple[str, float]
    late: bool = False  # the long rows come in the fifth of six steps
    zero: int = 2
    default_buckets: bool = False

    def limit_bytes(self, peaks: Mapping[str, int]) -> int:
        """Return the limit for each rank, from the measured peaks of the plans, in bytes."""
        one, other = self.limit
        if isinstance(other, str):
            return (peaks[one] + peaks[other]) // 2
        return int(peaks[one] * other)


def machine_dtype(cpuinfo: str) -> str:
    """Return bf16 where oneDNN can multiply it; elsewhere a step in it takes minutes."""
    return "bf16" if "avx512bw" in cpuinfo.split() else "fp32"


DTYPE = machine_dtype(Path("/proc/cpuinfo").read_text())


def llama(hidden: int, layers: int, vocab: int, **changes: Any) -> dict[str, Any]:
    """Return a Llama's architecture config with heads of 64."""
    return {
        "model_type": "llama", "vocab_size": vocab, "hidden_size": hidden,
        "intermediate_size": hidden * 43 // 16, "num_hidden_layers": layers,
        "num_attention_heads": hidden // 64, "num_key_value_heads": hidden // 64,
        "max_position_embeddings": 1024, "tie_word_embeddings": True, "use_cache": False,
        **changes,
    }  # fmt: skip


def qwen(hidden: int, layers: int, vocab: int, **changes: Any) -> dict[str, Any]:
    """Return a Qwen2 with two heads of keys and values."""
    given = {"model_type": "qwen2", "num_key_value_heads": 2, **changes}
    return llama(hidden, layers, vocab, **given)


def neox(hidden: int, layers: int, vocab: int) -> dict[str, Any]:
    """Return a GPT-NeoX: no gate, biases, a head of its own."""
    return {
        "model_type": "gpt_neox", "vocab_size": vocab, "hidden_size": hidden,
        "intermediate_size": 4 * hidden, "num_hidden_layers": layers,
        "num_attention_heads": hidden // 64, "max_position_embeddings": 1024,
        "tie_word_embeddings": False, "use_cache": False,
    }  # fmt: skip


# Small steps and large activations: what costs memory here is the vocabulary more than the width,
# so that a step takes about a second on two cores.
CELLS = (
    Cell("llama-two-ranks", llama(320, 4, 16384), "full", 2, 128, 16,
         ("8", "4", "2", "8c"), ("8", "4")),
    Cell("llama-two-ranks-tight", llama(320, 4, 16384), "full", 2, 128, 16,
         ("8", "2", "1", "8c"), ("2", "1")),
    Cell("llama-late-rows", llama(320, 4, 16384), "full", 1, 256, 4,
         ("4", "2", "1", "4c"), ("4", "2"), late=True),
    Cell("llama-fits", llama(320, 4, 16384), "full", 1, 128, 8, ("8", "4"), ("8", 1.15)),
    Cell("llama-wide-vocabulary", llama(192, 4, 65536), "full", 1, 128, 8,
         ("8", "4", "2", "8c"), ("4", "2")),
    Cell("llama-deep", llama(256, 12, 4096), "full", 1, 512, 2,
         ("2", "1", "2c", "1c"), ("1", "1c")),
    Cell("llama-default-buckets", llama(320, 4, 16384), "full", 2, 128, 16,
         ("8", "8b", "4b"), ("8", "8b"), default_buckets=True),
    Cell("qwen-long", qwen(384, 4, 8192), "full", 1, 512, 2,
         ("2", "1", "2c", "1c"), ("2", "1")),
    Cell("qwen-lora", qwen(512, 6, 16384), "lora", 1, 128, 4,
         ("4", "2", "1", "4c"), ("4", "2")),
    Cell("qwen-lora-two-ranks-late", qwen(512, 6, 16384), "lora", 2, 128, 8,
         ("4", "2", "1"), ("2", "1"), late=True),
    Cell("qwen-qlora", qwen(640, 8, 8192), "qlora", 1, 128, 4,
         ("4", "2", "4c"), ("4", "2")),
    Cell("qlora-fits", llama(512, 6, 8192), "qlora", 1, 128, 2, ("2", "1"), ("2", 1.15)),
    Cell("neox", neox(320, 5, 8192), "full", 1, 128, 8,
         ("8", "4", "2", "8c"), ("8", "4")),
    Cell("neox-zero-1", neox(320, 4, 8192), "full", 2, 128, 16,
         ("8", "4", "2"), ("4", "2"), zero=1),
    Cell("llama-impossible", llama(640, 10, 16384), "full", 1, 64, 2,
         ("2", "1c"), ("1c", 0.75)),
    Cell("neox-impossible", neox(512, 6, 16384), "full", 2, 64, 4,
         ("2", "1c"), ("1c", 0.65)),
)  # fmt: skip


def make_rows(cell: Cell, folder: Path) -> Path:
    """Write rows for `STEPS` optimizer steps, and return their file."""
    draw = random.Random(5)
    count = STEPS * cell.global_
    longest = range(4 * cell.global_, 5 * cell.global_) if cell.late else range(count)
    path = folder / "rows.jsonl"
    with path.open("w") as lines:
        for row in range(count):
            length = cell.sequence if row in longest else cell.sequence // 2
            first, stride = draw.randrange(WORDS), draw.randrange(1, 4)
            words = (f"w{(first + stride * at) % WORDS}" for at in range(length - 1))
            lines.write(json.dumps({"text": " ".join(words)}) + "\n")
    return path


def make_tokenizer(folder: Path) -> Path:
    """Write a tokenizer of one token for each word, and return its folder."""
    import tokenizers

    folder.mkdir(parents=True, exist_ok=True)
    vocabulary = {"<end>": 0, "<pad>": 1} | {f"w{number}": number + 2 for number in range(WORDS)}
    made = tokenizers.Tokenizer(tokenizers.models.WordLevel(vocabulary, unk_token="<pad>"))
    made.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
    made.save(str(folder / "tokenizer.json"))
    told = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<end>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(told | {"pad_token": "<pad>"}))
    return folder


def job_of(cell: Cell, word: Word, folder: Path, limit: int | None, start: str) -> dict[str, Any]:
    """Return the job file of a cell at one of its plans; paths lie in the grid's folder."""
    zero: dict[str, Any] = {"stage": cell.zero}
    if word.small_buckets or not cell.default_buckets:
        zero |= {"reduce_bucket_size": 5_000_000, "allgather_bucket_size": 5_000_000}
    method = "qlora" if word.four_bit else cell.method
    devices: dict[str, Any] = {"use": cell.ranks}
    if limit is not None:
        devices["memory_limit"] = limit
    return {
        "name": cell.name,
        "framework": "finetune",
        "settings": {
            "model": dict(cell.model),
            "tokenizer": str(folder / "tokenizer"),
            "method": method,
            "data": {
                "train": str(folder / cell.name / "rows.jsonl"),
                "sequence": cell.sequence,
                "shuffle": False,
            },
            "max_steps": STEPS,
            "learning_rate": 1e-4,
            "dtype": DTYPE,
            "activation_checkpointing": word.checkpointing,
            "deepspeed": {"zero_optimization": zero},
        },
        "batch": {"global": cell.global_, "micro": word.micro},
        "start": start,
        # As given is also the blind ladder: one rung at a time, and nobody looks ahead.
        "policy": "default" if start == "predicted" else "in_order",
        "climb_back": 0,  # these trainings are over before it could pay
        "devices": devices,
        "checkpoints": {"every": STEPS, "keep": 2},
        "limits": {"attempts": 12, "wall": "30m"},
        "proof": False,
        "env": {"OMP_NUM_THREADS": str(CORES // cell.ranks)},
    }
