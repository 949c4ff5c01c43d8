"""Carry: how a checkpoint of one plan becomes the start of another, and what is lost on the way.

Each answer here was tried with DeepSpeed 0.19.8 under HF Trainer: eight steps undisturbed against
four, the change, and four more (tests/child/test_convert.py). What was not tried is not promised.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

RESET_OPTIMIZER = "reset_optimizer_state"
FROM_WEIGHTS = "restart_from_weights"
CHANGE_DTYPE = "change_dtype"

CPU_ADAM = "deepspeed_cpu_adam"
# One algorithm with one state: step, exp_avg, exp_avg_sq.
TORCH_ADAMW = frozenset({"adamw_torch", "adamw_torch_fused"})
ADAMW = TORCH_ADAMW | {CPU_ADAM}
# These keep the same hyper-parameters in a group, so one goes on from the other's groups and
# schedule; others (adafactor: KeyError 'beta1') miss their own keys at the first step.
PAGED = frozenset({"paged_adamw_32bit", "paged_adamw_8bit"})
LIKE_ADAMW = TORCH_ADAMW | {"adamw_8bit", "adamw_bnb_8bit"} | PAGED
# On 0.19.8 every way; on the other two the way from stage 2 to 3 and back, and the refusals.
PROVEN_ON_DEEPSPEED = ("0.19.3", "0.19.6", "0.19.8")


class CarryKind(str, Enum):
    SAME = "same"  # the checkpoint as it lies, new flags
    STAGED = "staged"  # a converted copy; weights, moments, schedule and data position are kept
    STAGED_WITHOUT_MOMENTS = "staged_without_moments"  # a copy whose optimizer begins anew
    WEIGHTS_ONLY = "weights_only"  # a new run from the weights; schedule and data begin anew too
    FRESH = "fresh"  # nothing was saved
    IMPOSSIBLE = "impossible"


@dataclass(frozen=True)
class Shape:
    """What of a plan is written into its checkpoints."""

    zero_stage: int
    world_size: int
    offload_optimizer: str = "none"  # none | cpu | nvme
    offload_param: str = "none"
    quantization: str = "none"
    method: str = "full"  # full | lora
    # The class that steps, not the one the job names: accelerate swaps in deepspeed_cpu_adam under
    # offload unless zero_force_ds_cpu_optimizer is false.
    optimizer: str = "adamw_torch"
    round_robin_gradients: bool = False
    sub_group_size: int = 1_000_000_000
    dtype: str = "bf16"  # bf16 | fp16 | fp32
    lora_rank: int = 0  # 0: as the job says


class SavedShape(Shape):
    """The shape of the plan that wrote the checkpoint."""


class WantedShape(Shape):
    """The shape of the plan that is to go on from it."""


@dataclass(frozen=True)
class Carry:
    kind: CarryKind
    why: str
    conversions: tuple[str, ...] = ()  # the rows that child/convert.py knows
    # {"checkpoint": {"load_universal": true}} for this resume only: what it saves is ordinary.
    load_universal: bool = False
    # Keys of the DeepSpeed configuration, by dotted path. They hold for every later attempt too.
    ds_overrides: tuple[tuple[str, bool | int], ...] = ()
    needs_consent: str | None = (
        None  # a name that `allow` lacks: without it this carry is not taken
    )

    @property
    def usable(self) -> bool:
        return self.kind is not CarryKind.IMPOSSIBLE and self.needs_consent is None


def decide_carry(
    saved: SavedShape | None, wanted: WantedShape, consented: frozenset[str] = frozenset()
) -> Carry:
    """The least costly way from the one to the other; a refusal says what to keep instead."""
    refusal = _cannot_train(wanted)
    if refusal:
        return Carry(CarryKind.IMPOSSIBLE, refusal)
    if saved is None:
        why = "Nothing has been saved yet, so the run starts at its first step."
        return Carry(CarryKind.FRESH, why, ds_overrides=_overrides(wanted))
    refusal = _cannot_carry(saved, wanted)
    if refusal:
        return Carry(CarryKind.IMPOSSIBLE, refusal)
    lost = _loses_moments(saved, wanted)
    if lost:
        return _from_weights(lost, wanted, consented)
    if _new_optimizer(saved, wanted):
        return _without_moments(saved, wanted, consented)
    if _same_files(saved, wanted):
        return Carry(CarryKind.SAME, _why_same(saved, wanted), ds_overrides=_overrides(wanted))
    return _staged(saved, wanted, consented)


def conversion_request(
    carry: Carry, wanted: WantedShape, source: str, target: str, moments_since: int = 0
) -> dict[str, object]:
    """What child/convert.py is asked to do for this carry."""
    return {
        "source": source,
        "target": target,
        "conversions": list(carry.conversions),
        "ds_version_tested": list(PROVEN_ON_DEEPSPEED),
        "moments_since": moments_since,
        "world_size": wanted.world_size,
        "sub_group_size": wanted.sub_group_size,
        "optimizer": wanted.optimizer,
        "bf16": wanted.dtype == "bf16",
    }


# --- refusals ----------------------------------------------------------------------------------


def _cannot_train(wanted: WantedShape) -> str | None:
    if wanted.zero_stage not in (0, 1, 2, 3):
        return f"There is no ZeRO stage {wanted.zero_stage}; use 1, 2 or 3, or 0 for none."
    if wanted.zero_stage == 0 and wanted.offload_optimizer != "none":
        return "Without ZeRO nothing is offloaded; use stage 1."
    if wanted.offload_param != "none" and wanted.zero_stage != 3:
        return "offload_param belongs to ZeRO stage 3; at stages 1 and 2 DeepSpeed ignores it."
    if wanted.optimizer == CPU_ADAM and wanted.offload_optimizer == "none":
        return (
            "DeepSpeed's CPU Adam steps on parameters in host memory: it needs offload_optimizer."
        )
    if wanted.offload_optimizer != "none" and wanted.optimizer not in ADAMW:
        return (
            f"Under offload_optimizer {wanted.optimizer} is silently replaced or fails; keep "
            "AdamW, or leave the optimizer where it is."
        )
    return None


def _cannot_carry(saved: SavedShape, wanted: WantedShape) -> str | None:
    if (saved.zero_stage == 0) != (wanted.zero_stage == 0):
        before, after = ("without", "under") if saved.zero_stage == 0 else ("under", "without")
        return (
            f"The checkpoint was saved {before} DeepSpeed, and its optimizer state lies in other "
            f"files {after} it, which nothing here converts; keep the way it is trained."
        )
    if saved.zero_stage not in (0, 1, 2, 3):
        return f"There is no ZeRO stage {saved.zero_stage}."
    if saved.method != wanted.method:
        return (
            f"A checkpoint of {saved.method} training has other trained parameters than "
            f"{wanted.method} training: that is another run."
        )
    if saved.lora_rank != wanted.lora_rank:
        return (
            "A checkpoint holds adapters of one rank, and nothing makes them those of another: "
            f"keep rank {saved.lora_rank or 'of the job'}, or begin a new run."
        )
    if saved.quantization != wanted.quantization:
        if wanted.method != "lora":
            return "Weights that are trained cannot be quantised; quantise the frozen base of LoRA."
        if 3 in (saved.zero_stage, wanted.zero_stage):
            return (
                "Changing the base's quantisation from or to ZeRO stage 3 was never shown to work; "
                "quantise at stage 1 or 2."
            )
    both_low = _low(saved) and _low(wanted)
    if both_low and saved.round_robin_gradients != wanted.round_robin_gradients:
        return (
            "round_robin_gradients orders the optimizer state, and a checkpoint resumed under "
            "another value is permuted in silence; keep the checkpoint's "
            f"{str(saved.round_robin_gradients).lower()}."
        )
    both_3 = saved.zero_stage == wanted.zero_stage == 3
    if both_3 and saved.sub_group_size != wanted.sub_group_size:
        return (
            "sub_group_size cuts the optimizer state of stage 3 into groups; keep the checkpoint's "
            f"{saved.sub_group_size}."
        )
    return None


def _loses_moments(saved: SavedShape, wanted: WantedShape) -> str | None:
    if saved.dtype != wanted.dtype and "fp16" in (saved.dtype, wanted.dtype):
        return f"Going from {saved.dtype} to {wanted.dtype} with the optimizer state was not tried."
    offloads = {saved.offload_optimizer, wanted.offload_optimizer}
    params = {saved.offload_param, wanted.offload_param}
    if ("nvme" in offloads and len(offloads) > 1) or ("nvme" in params and len(params) > 1):
        return "An optimizer or parameters on NVMe are saved in swap files that nothing converts."
    if "nvme" in offloads | params and not _same_files(saved, wanted):
        return "A checkpoint with NVMe swap files resumes only under the very same layout."
    if not _new_optimizer(saved, wanted):
        if saved.optimizer in ADAMW or _same_files(saved, wanted):
            return None
        return f"The moments of {saved.optimizer} lie in a form that nothing converts."
    if not {saved.optimizer, wanted.optimizer} <= LIKE_ADAMW:
        return (
            f"{wanted.optimizer} needs settings in its parameter groups that a checkpoint of "
            f"{saved.optimizer} does not hold."
        )
    if not _same_files(saved, wanted):
        return (
            f"Changing the optimizer from {saved.optimizer} to {wanted.optimizer} together with "
            "the layout of the checkpoint is two steps; taken at once, only the weights survive."
        )
    return None


# --- ways ----------------------------------------------------------------------------------------


def _same_files(saved: SavedShape, wanted: WantedShape) -> bool:
    """Whether the checkpoint is read as it lies."""
    if saved.zero_stage == wanted.zero_stage == 0:
        # Whole tensors, whichever rank wrote them; the parameters stay in the model's precision.
        return saved.optimizer == wanted.optimizer
    return (
        _low(saved) == _low(wanted)
        and saved.world_size == wanted.world_size
        and saved.dtype == wanted.dtype
        and not (wanted.optimizer == CPU_ADAM and saved.optimizer in TORCH_ADAMW)
    )


def _why_same(saved: SavedShape, wanted: WantedShape) -> str:
    if saved.quantization != wanted.quantization:
        return (
            "The checkpoint holds the adapters and their moments, and not the frozen base: they go "
            f"on over a base in {wanted.quantization}. The loss shifts with the base."
        )
    if saved.offload_optimizer != wanted.offload_optimizer:
        if wanted.offload_optimizer == "none":
            return (
                "The optimizer comes back from the host; its state is saved in one form for both."
            )
        return (
            "torch's AdamW goes on, on the host: bit for bit the same steps, where DeepSpeed's CPU "
            "Adam would be faster, round otherwise, and refuse this checkpoint as it lies."
        )
    if wanted.optimizer in PAGED:
        return (
            "The checkpoint resumes as it lies; its moments come back as plain memory of the "
            "device, and are paged no more."
        )
    if saved.zero_stage != wanted.zero_stage:
        return "ZeRO stages 1 and 2 save the same files."
    return "The new plan changes nothing that is written into a checkpoint."


def _staged(saved: SavedShape, wanted: WantedShape, consented: frozenset[str]) -> Carry:
    if wanted.zero_stage == 3:
        conversions: tuple[str, ...] = ("universal", "shards_of_3")
    elif saved.zero_stage == 3:
        conversions = ("universal", "family_3_to_2")
    else:
        conversions = ("universal",)
    changed = [
        f"{word} {before} -> {after}"
        for word, before, after in (
            ("ZeRO stage", saved.zero_stage, wanted.zero_stage),
            ("world size", saved.world_size, wanted.world_size),
            ("precision", saved.dtype, wanted.dtype),
            ("optimizer", saved.optimizer, wanted.optimizer),
        )
        if before != after
    ]
    precision = None if saved.dtype == wanted.dtype else CHANGE_DTYPE
    return Carry(
        CarryKind.STAGED,
        f"DeepSpeed cannot read this checkpoint under the new plan ({', '.join(changed)}): a copy "
        "is converted, and weights, moments, schedule and data position are kept."
        # Each rank saves its own random state, and there is none for another number of ranks.
        + (" Dropout draws other masks." if saved.world_size != wanted.world_size else ""),
        conversions,
        # Stage 3 is given ordinary shards: loading a universal tree there puts weight decay on
        # every group and advances Adam's step once for each of them.
        load_universal=wanted.zero_stage != 3,
        ds_overrides=_overrides(wanted),
        needs_consent=_missing(precision, consented),
    )


def _without_moments(saved: SavedShape, wanted: WantedShape, consented: frozenset[str]) -> Carry:
    return Carry(
        CarryKind.STAGED_WITHOUT_MOMENTS,
        f"{wanted.optimizer} cannot use what {saved.optimizer} remembers: weights, schedule and "
        "data position are kept, and the optimizer's moments begin anew.",
        ("drop_moments",),
        ds_overrides=_overrides(wanted),
        needs_consent=_missing(RESET_OPTIMIZER, consented),
    )


def _from_weights(lost: str, wanted: WantedShape, consented: frozenset[str]) -> Carry:
    return Carry(
        CarryKind.WEIGHTS_ONLY,
        f"{lost} A new run can start from the weights; moments, schedule and data begin anew.",
        ds_overrides=_overrides(wanted),
        needs_consent=_missing(FROM_WEIGHTS, consented),
    )


def _overrides(wanted: WantedShape) -> tuple[tuple[str, bool | int], ...]:
    """What the configuration must say in so many words: each of these binds the next checkpoint."""
    keys: list[tuple[str, bool | int]] = []
    if wanted.zero_stage == 0:
        return ()
    if wanted.zero_stage == 3:
        keys.append(("zero_optimization.sub_group_size", wanted.sub_group_size))
    else:
        keys.append(("zero_optimization.round_robin_gradients", wanted.round_robin_gradients))
    if wanted.offload_optimizer != "none":
        # Left out it is true: accelerate then swaps in DeepSpeed's CPU Adam.
        keys.append(("zero_force_ds_cpu_optimizer", wanted.optimizer == CPU_ADAM))
    return tuple(keys)


def _low(shape: Shape) -> bool:
    return shape.zero_stage in (1, 2)


def _new_optimizer(saved: SavedShape, wanted: WantedShape) -> bool:
    return saved.optimizer != wanted.optimizer and not {saved.optimizer, wanted.optimizer} <= ADAMW


def _missing(consent: str | None, consented: frozenset[str]) -> str | None:
    return consent if consent is not None and consent not in consented else None
