"""What LLaMA-Factory refuses once it has started, said before the launch.

The rules are those of hparams/parser.py, hparams/data_args.py and model/model_utils/quantization.py
of 0.9.3 to 0.9.5, in the words of somebody who has to mend the configuration.
"""

from collections.abc import Callable
from dataclasses import dataclass

from autotune.core.fault import Fault
from autotune.frameworks.arguments import decimal, integer
from autotune.frameworks.llamafactory_config import Given


@dataclass(frozen=True)
class Seen:
    """A configuration and how it will be started."""

    given: Given
    zero_stage: int  # 0: without DeepSpeed

    @property
    def stage(self) -> str:
        """What is trained: sft, pt, rm, ppo, dpo or kto."""
        return self.given.text("stage", "sft")

    @property
    def method(self) -> str:
        """Which weights are trained: lora, oft, freeze or full."""
        return self.given.text("finetuning_type", "lora")

    @property
    def bits(self) -> int | None:
        """Bits of the base's weights; None where they are not quantised as they are loaded."""
        return integer(self.given.values.get("quantization_bit"))

    @property
    def quantizer(self) -> str:
        """What quantises: bnb, hqq or eetq (older configurations write bitsandbytes)."""
        said = self.given.text("quantization_method", "bnb").lower()
        return "bnb" if said == "bitsandbytes" else said

    @property
    def has_evaluation_data(self) -> bool:
        """Whether rows are set aside, or given, for evaluation."""
        return bool(self.given.names("eval_dataset")) or self.held_out > 1e-6

    @property
    def held_out(self) -> float:
        """`val_size`: a share below 1, a number of rows from there on."""
        return decimal(self.given.values.get("val_size")) or 0.0


@dataclass(frozen=True)
class Rule:
    """One refusal: when it comes, what is wrong, and one thing to do."""

    broken: Callable[[Seen], bool]
    text: str
    hint: str


def _on(*keys: str) -> Callable[[Seen], bool]:
    return lambda seen: all(seen.given.on(key) for key in keys)


def _nothing_trains(seen: Seen) -> bool:
    return not seen.given.on("do_train")


def _quantized(seen: Seen) -> bool:
    return seen.bits is not None


def _evaluates(seen: Seen) -> bool:
    given = seen.given
    return given.on("do_eval") or given.on("do_predict") or given.on("predict_with_generate")


def _strange_bits(seen: Seen) -> bool:
    known = {"bnb": (4, 8), "eetq": (8,), "hqq": (8, 6, 5, 4, 3, 2, 1)}
    return _quantized(seen) and seen.bits not in known.get(seen.quantizer, (seen.bits,))


def _many_adapters(seen: Seen) -> bool:
    return _quantized(seen) and len(seen.given.names("adapter_name_or_path")) > 1


RULES = (
    Rule(
        _nothing_trains,
        "`do_train` is not on, so that LLaMA-Factory would train nothing",
        "write `do_train: true`",
    ),
    Rule(
        lambda seen: not seen.given.text("model_name_or_path"),
        "`model_name_or_path` is missing",
        "name a model folder, or a model of the hub",
    ),
    Rule(
        lambda seen: not seen.given.names("dataset"),
        "`dataset` is missing",
        "name one of `dataset_info.json`",
    ),
    Rule(
        lambda seen: _quantized(seen) and seen.method not in ("lora", "oft"),
        "`quantization_bit` goes with LoRA and OFT only: quantised weights cannot be trained",
        "write `finetuning_type: lora`, or take `quantization_bit` out",
    ),
    Rule(
        _strange_bits,
        "`quantization_bit` is none that `quantization_method` has (bnb: 4, 8; eetq: 8; hqq: 1-8)",
        "write `quantization_bit: 4` with `quantization_method: bnb`",
    ),
    Rule(
        lambda seen: _quantized(seen) and seen.zero_stage == 3 and seen.quantizer != "bnb",
        "HQQ and EETQ cannot be spread over ranks by ZeRO stage 3",
        "write `quantization_method: bnb`, or use ZeRO stage 2",
    ),
    Rule(
        lambda seen: seen.bits == 8 and seen.quantizer == "bnb" and seen.zero_stage == 3,
        "ZeRO stage 3 takes 4-bit weights only, and `quantization_bit` is 8",
        "write `quantization_bit: 4`, or use ZeRO stage 2",
    ),
    Rule(
        lambda seen: _quantized(seen) and seen.given.on("resize_vocab"),
        "the vocabulary of a quantised model cannot be resized",
        "take `resize_vocab` or `quantization_bit` out",
    ),
    Rule(
        lambda seen: _quantized(seen) and seen.given.on("pissa_init"),
        "PiSSA cannot start from a quantised model",
        "prepare it with LLaMA-Factory's scripts/pissa_init.py, or take `pissa_init` out",
    ),
    Rule(
        lambda seen: seen.given.on("pissa_init") and seen.zero_stage == 3,
        "PiSSA cannot start under ZeRO stage 3",
        "prepare it with LLaMA-Factory's scripts/pissa_init.py, or use ZeRO stage 2",
    ),
    Rule(
        _many_adapters,
        "a quantised model takes one adapter, and `adapter_name_or_path` names several",
        "merge them first",
    ),
    Rule(
        lambda seen: bool(seen.given.names("adapter_name_or_path")) and seen.method != "lora",
        "`adapter_name_or_path` goes with LoRA only",
        "write `finetuning_type: lora`, or take the adapter out",
    ),
    Rule(
        lambda seen: seen.given.on("pure_bf16") and seen.zero_stage == 3,
        "`pure_bf16` is refused under ZeRO stage 3",
        "write `bf16: true` instead, or use ZeRO stage 2",
    ),
    Rule(
        lambda seen: (
            seen.zero_stage > 0 and (seen.given.on("use_galore") or seen.given.on("use_apollo"))
        ),
        "GaLore and APOLLO do not run under DeepSpeed",
        "take `deepspeed` out, or the optimizer",
    ),
    Rule(
        _on("use_galore", "galore_layerwise"),
        "layer-wise GaLore is refused under torchrun, which starts every training here",
        "take `galore_layerwise` out",
    ),
    Rule(
        _on("use_apollo", "apollo_layerwise"),
        "layer-wise APOLLO is refused under torchrun, which starts every training here",
        "take `apollo_layerwise` out",
    ),
    Rule(
        lambda seen: (
            seen.given.on("use_badam")
            and (seen.zero_stage != 3 or seen.given.text("badam_mode", "layer") == "ratio")
        ),
        "BAdam runs under torchrun only layer by layer and at ZeRO stage 3",
        "write `badam_mode: layer` and a stage-3 `deepspeed` configuration",
    ),
    Rule(
        lambda seen: seen.given.on("use_unsloth") and seen.zero_stage == 3,
        "Unsloth does not run under ZeRO stage 3",
        "use ZeRO stage 2, or take `use_unsloth` out",
    ),
    Rule(
        lambda seen: seen.given.on("fp8") and _quantized(seen),
        "FP8 training and a quantised base exclude each other",
        "take `fp8` or `quantization_bit` out",
    ),
    Rule(
        lambda seen: seen.given.text("quantization_device_map") == "auto",
        "`quantization_device_map: auto` is refused in training",
        "take it out",
    ),
    Rule(
        lambda seen: seen.given.text("infer_backend", "huggingface") not in ("huggingface", "hf"),
        "training takes `infer_backend: huggingface` only",
        "take `infer_backend` out",
    ),
    Rule(
        lambda seen: (
            seen.given.on("predict_with_generate") and (seen.zero_stage == 3 or seen.stage != "sft")
        ),
        "`predict_with_generate` goes with stage sft only, and not with ZeRO stage 3",
        "take `predict_with_generate` out of the training, and predict afterwards",
    ),
    Rule(
        lambda seen: (
            seen.stage == "sft"
            and seen.given.on("do_predict")
            and not seen.given.on("predict_with_generate")
        ),
        "`do_predict` needs `predict_with_generate`",
        "take `do_predict` out of the training, and predict afterwards",
    ),
    Rule(
        lambda seen: _evaluates(seen) and not seen.has_evaluation_data,
        "an evaluation is asked for, and there is nothing to evaluate on",
        "set `val_size: 0.1` or `eval_dataset`",
    ),
    Rule(
        lambda seen: bool(seen.given.names("eval_dataset")) and seen.held_out > 1e-6,
        "`val_size` and `eval_dataset` exclude each other",
        "keep one of the two",
    ),
    Rule(
        lambda seen: (
            seen.given.on("streaming")
            and (integer(seen.given.values.get("max_steps")) or -1) < 1
        ),
        "a dataset that is streamed has no length, and `max_steps` is not set",
        "set `max_steps`, or take `streaming` out",
    ),
    Rule(
        lambda seen: seen.given.on("streaming") and 1e-6 < seen.held_out < 1,
        "of a dataset that is streamed no share can be held out",
        "write `val_size` as a number of rows",
    ),
    Rule(
        lambda seen: seen.given.on("streaming") and bool(seen.given.text("max_samples")),
        "`max_samples` and `streaming` exclude each other",
        "take one of the two out",
    ),
    Rule(
        _on("mask_history", "train_on_prompt"),
        "`mask_history` and `train_on_prompt` exclude each other",
        "take one of the two out",
    ),
    Rule(
        lambda seen: (
            seen.stage != "sft"
            and any(
                seen.given.on(key) for key in ("neat_packing", "train_on_prompt", "mask_history")
            )
        ),
        "`neat_packing`, `train_on_prompt` and `mask_history` go with stage sft only",
        "take them out, or write `stage: sft`",
    ),
    # What follows LLaMA-Factory takes, and autotune cannot follow.
    Rule(
        lambda seen: seen.stage == "ppo",
        "PPO has a loop of its own, which goes on from no checkpoint",
        "train it without autotune; sft, pt, rm, dpo and kto are followed",
    ),
    Rule(
        lambda seen: seen.stage == "rm" and seen.method in ("full", "freeze"),
        "LLaMA-Factory goes on from no checkpoint of a reward model that is trained in full",
        "write `finetuning_type: lora`, or train it without autotune",
    ),
    Rule(
        lambda seen: seen.given.on("use_kt") or seen.given.enabled("USE_KT"),
        "KTransformers places the weights itself, which autotune does not know",
        "train it without autotune",
    ),
    Rule(
        lambda seen: seen.given.enabled("USE_RAY") or bool(seen.given.text("ray_run_name")),
        "Ray starts the ranks itself, where autotune cannot follow them",
        "take Ray's keys and USE_RAY out",
    ),
    Rule(
        lambda seen: seen.given.enabled("USE_MCA") or seen.given.on("use_mca"),
        "Megatron's trainer is another one, which autotune does not know",
        "take USE_MCA out, or train it without autotune",
    ),
    Rule(
        lambda seen: seen.given.enabled("USE_V1"),
        "USE_V1 chooses LLaMA-Factory's second trainer, which autotune does not know",
        "take USE_V1 out",
    ),
)  # fmt: skip


def refusals(given: Given, zero_stage: int, where: str) -> list[Fault]:
    """Return every rule that the configuration breaks."""
    seen = Seen(given, zero_stage)
    return [Fault(rule.text, where, rule.hint) for rule in RULES if rule.broken(seen)]
