"""DeepKE-LLM: InstructKGC's `finetune.py`, an HF Trainer script with arguments of its own."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from autotune.core.fault import Fault
from autotune.core.plan import Plan
from autotune.frameworks import ds_config
from autotune.frameworks.arguments import Arguments, flag, integer, to_yaml
from autotune.frameworks.command_line import Call
from autotune.frameworks.framework import KnownGood, Looked, Program, Setting, Trained
from autotune.frameworks.lora import alpha_kept, number_of
from autotune.frameworks.tool import TRAIN_FILE, Given, Tool
from autotune.frameworks.trainer import Own
from autotune.frameworks.trainer_keys import Habits

_SCRIPT = "finetune.py"
_FILES = (".yaml", ".json")
_RAW = "finetuning_chatglm_pt.py"


class DeepKe(Tool):
    """`torchrun src/finetune.py …` of DeepKE's example/llm/InstructKGC."""

    name = "deepke"
    needs = ("torch", "transformers", "accelerate", "peft", "datasets")
    habits = Habits(checkpointing=None, checkpointing_default=True)

    def parts(self, call: Call) -> tuple[str | None, Arguments] | Fault:
        """Return the one file that stands in the place of arguments, or the arguments."""
        if call.name == _RAW:
            text = f"`{_RAW}` carries its DeepSpeed configuration in its own code and resumes "
            return Fault(text + "nothing", "", f"train with `src/{_SCRIPT} --model_name chatglm`")
        if call.name != _SCRIPT or call.kind in ("tool", "accelerate"):
            hint = f"write `torchrun --nproc_per_node N src/{_SCRIPT} …`"
            return Fault(f"the command is none of DeepKE's `{_SCRIPT}`", "", hint)
        if len(call.arguments) == 1 and call.arguments[0].endswith(_FILES):
            return call.arguments[0], Arguments(())
        return None, Arguments(call.arguments)

    def values(self, given: Given, _: Looked, __: int) -> dict[str, Any]:
        """Return the arguments; with `--fp16` no DeepSpeed file makes the training bf16."""
        values = given.values()
        return {"bf16": False, **values} if flag(values.get("fp16")) else values

    def fields(self, own: Own) -> dict[str, Any]:
        """Return adapters, 4-bit weights and length."""
        adapts = own.values.get("finetuning_type", "lora") == "lora"
        return {
            "method": "lora" if adapts else "full",
            "quantization": "nf4" if _bits(own) == 4 else "none",
            "sequence": own.number("cutoff_len", 1024),
            "lora_rank": own.number("lora_r", 8) if adapts else 0,
        }

    def more_lacks(self, own: Own) -> Mapping[str, str | None]:
        """Return what DeepKE has no argument for."""
        lacks: dict[str, str | None] = dict.fromkeys(("quantization", "sequence", "lora_rank"))
        lacks["activation_checkpointing"] = "DeepKE always checkpoints activations"
        lacks["four_bit_compute"] = "DeepKE's 4-bit layers multiply in the training's precision"
        lacks["attention"] = "DeepKE has no argument for attention"
        if _bits(own) == 8:
            lacks["quantization"] = "the weights are loaded in 8 bits (`--bits 8`)"
        return lacks

    def changes(self, own: Own, start: Plan, plan: Plan) -> dict[str, Any]:
        """Return DeepKE's own arguments of a plan."""
        changed: dict[str, Any] = {}
        if plan.quantization != start.quantization:
            changed["bits"] = 4 if plan.quantization == "nf4" else 16
        if plan.sequence != start.sequence:
            changed["cutoff_len"] = plan.sequence
        if plan.lora_rank != start.lora_rank:
            alpha = number_of(own.values.get("lora_alpha"), 2.0 * start.lora_rank)
            changed["lora_r"] = plan.lora_rank
            changed["lora_alpha"] = alpha_kept(alpha, start.lora_rank, plan.lora_rank)
        return changed

    def more_faults(self, own: Own, _: Given, where: str) -> list[Fault]:
        """Return where the ways to quantize contradict one another, and what is not DeepKE's."""
        faults, bits = [], _bits(own)
        if "quantization_config" in own.values:
            text = "`--quantization_config` is no argument of DeepKE's, which makes one of `--bits`"
            faults.append(Fault(text, where, "write `--bits 4` alone"))
        if bits not in (None, 4, 8, 16, 32):
            faults.append(Fault(f"`--bits {bits}` is no size of weights", where, "use 4, 8 or 16"))
        if bits in (4, 8):
            if own.deepspeed is not None and ds_config.stage(dict(own.deepspeed)) == 3:
                text = f"DeepKE refuses `--bits {bits}` at ZeRO stage 3"
                faults.append(Fault(text, where, "use configs/ds_config_bf16_stage2.json"))
            if (own.looked.model_config or {}).get("quantization_config"):
                text = f"the model's own config quantizes it already, and `--bits {bits}` would "
                text += "again: transformers then takes the one and DeepKE means the other"
                faults.append(Fault(text, where, "take `--bits` out, or name the whole model"))
            if own.values.get("finetuning_type", "lora") != "lora":
                text = f"weights of {bits} bits cannot be trained themselves"
                faults.append(Fault(text, where, "use `--finetuning_type lora`, or `--bits 16`"))
        if own.values.get("finetuning_type") == "freeze":
            text = "`--finetuning_type freeze` trains a few layers, which predictions do not know"
            faults.append(Fault(text, where, "use lora or full"))
        targets = own.values.get("lora_target_modules")
        if isinstance(targets, str) and not targets.strip().startswith(("[", "(")):
            text = "DeepKE reads `--lora_target_modules` as a Python list, and this is none"
            faults.append(Fault(text, where, 'write it as \'["q_proj", "v_proj"]\''))
        return faults

    def more_notes(self, own: Own, _: Given, where: str) -> list[Fault]:
        """Return which arguments do not do what their names say."""
        notes = []
        if own.on("gradient_checkpointing") or "gradient_checkpointing" in own.values:
            text = "`--gradient_checkpointing` has no effect: DeepKE always checkpoints"
            notes.append(Fault(text, where))
        if own.on("adam8bit"):
            text = "`--adam8bit` has no effect in DeepKE; `--optim adamw_bnb_8bit` has"
            notes.append(Fault(text, where))
        if own.values.get("checkpoint_dir") is not None:
            text = "`--checkpoint_dir` begins with adapters trained before, and resumes nothing"
            notes.append(Fault(text, where))
        brought = [name for name in ("optimizer", "scheduler") if name in (own.deepspeed or {})]
        if brought:
            text = f"the DeepSpeed configuration brings its own {' and '.join(brought)}: `--optim` "
            notes.append(Fault(text + "and `--lr_scheduler_type` have no effect", where))
        return notes

    def trains(self, own: Own) -> Trained:
        """Return the length of the rows and what is adapted."""
        said = own.values.get("lora_target_modules")
        names = () if said is None else tuple(str(said).strip("[]() ").replace(",", " ").split())
        bare = tuple(name.strip("\"'") for name in names)
        return Trained(
            own.number("cutoff_len", 1024),
            own.number("lora_r", 8) if own.values.get("finetuning_type", "lora") == "lora" else 0,
            () if bare == ("all",) else bare,
            number_of(own.values.get("lora_dropout"), 0.1),
            True,  # finetune.py always trusts a model's code
        )

    def program(self, setting: Setting) -> Program:
        """Return `finetune.py` with the plan's arguments, to be run by torchrun."""
        given, files = self._changed(setting)
        words, more = _written(given, setting)
        program = super().program(setting)
        module = ("-m",) if given.call.is_module else ()
        return replace(
            program,
            argv=(*module, given.call.program, *words),
            files={**files, **more},
            starts_ranks=False,
            launcher="torchrun",
        )

    def launched(self, _: Given, __: Setting) -> tuple[tuple[str, ...], dict[str, str]]:
        """Return nothing: our launcher starts the script."""
        return (), {}

    def known_good(self, setting: Setting) -> KnownGood:
        """Return the script's arguments at this plan, and a job that starts there."""
        return replace(super().known_good(setting), starts_ranks=False, launcher="torchrun")

    def relaunched(self, given: Given, setting: Setting) -> tuple[str, ...]:
        """Return torchrun on the script, as DeepKE's own shell scripts have it."""
        words, _ = _written(given, setting)
        count = f"--nproc_per_node={setting.plan.world_size}"
        return ("torchrun", count, given.call.program, *words)


def _written(given: Given, setting: Setting) -> tuple[tuple[str, ...], dict[str, str]]:
    """Return the arguments where they stood: in a file of their own, or on the line."""
    if given.file is not None:
        return (f"{setting.folder}/{TRAIN_FILE}",), {TRAIN_FILE: to_yaml(given.table)}
    line = Arguments(given.call.arguments)
    gone = line.values().keys() - given.line.values().keys() - given.table.keys()
    return line.changed({**dict.fromkeys(gone), **given.table}).words, {}


def _bits(own: Own) -> int | None:
    return integer(own.values.get("bits"))
