"""Which settings of a DeepSpeed configuration cannot go together, or not with the run they are for.

Each rule is read from the installed source: runtime/config.py (batch, precision), runtime/engine.py
and zero/ (offload, optimizers), and accelerate's and transformers' own DeepSpeed files.
"""

from collections.abc import Callable, Iterator
from typing import Any

from autotune.frameworks.ds_former import TWO_NAMES
from autotune.frameworks.ds_keys import BLOCKS
from autotune.frameworks.ds_optimizer import optimizer_rule, scheduler_rule
from autotune.frameworks.ds_remark import AUTO, Remark, View

Rule = Callable[[View], Iterator[Remark]]

TRIAD = ("train_batch_size", "train_micro_batch_size_per_gpu", "gradient_accumulation_steps")
ZERO = ("zero_optimization",)
ON_BY_DEFAULT = (
    "allgather_partitions", "use_multi_rank_bucket_allreduce", "compute_grad_norm",
    "memory_efficient_linear", "override_module_apply",
)  # fmt: skip
# These have rules of their own.
JUDGED_APART = ("offload_param", "cpu_offload_param", "compute_grad_norm")
CLIPS_BY_DEFAULT_SINCE = "0.19.3"


def _batch(view: View) -> Iterator[Remark]:
    use = view.use
    if TRIAD[0] in use.elsewhere:
        return
    given = {key: view.config[key] for key in TRIAD if view.config.get(key) not in (None, AUTO)}
    if any(isinstance(n, bool) or not isinstance(n, int) or n < 1 for n in given.values()):
        return  # each is named by itself
    filled = [key for key in TRIAD if view.config.get(key) == AUTO and key in use.fills]
    if not filled and not {TRIAD[0], TRIAD[1]} & set(given):
        what = f"neither `{TRIAD[0]}` nor `{TRIAD[1]}` is given, and DeepSpeed refuses that"
        hint = f'write "auto" under `{TRIAD[1]}`' if use.hf else f"give `{TRIAD[1]}`"
        yield Remark((TRIAD[1],), what, hint)
    total = given.get(TRIAD[0])
    if total is None:
        return
    ranks = use.world_size if _data_parallel_only(view) else None
    micro, steps = given.get(TRIAD[1], 1), given.get(TRIAD[2], 1)
    share = micro * steps * (ranks or 1)
    exact = ranks is not None and len(given) == len(TRIAD)
    if (total != share) if exact else total % share:
        factors = [f"{n} of `{key}`" for key, n in given.items() if key != TRIAD[0]]
        factors += [f"{ranks} ranks"] if ranks else []
        what = f"`{TRIAD[0]}` is {total}, and {' × '.join(factors)} "
        what += f"make {share}" if exact else "do not divide it"
        hint = f"write {share}, or leave one of the three out" if exact else "leave one of them out"
        yield Remark((TRIAD[0],), what, hint)


def _data_parallel_only(view: View) -> bool:
    others = ("sequence_parallel_size", "tensor_parallel", "pipeline", "expert_parallel")
    return not any(key in view.config for key in others)


def _precision(view: View) -> Iterator[Remark]:
    if "fp16.enabled" in view.use.elsewhere:
        return
    bf16 = "bf16" if "bf16" in view.config else "bfloat16"
    if view.on("fp16.enabled") and view.on(f"{bf16}.enabled"):
        what = "`fp16` and `bf16` are both enabled, and DeepSpeed refuses that"
        yield Remark(("fp16", "enabled"), what, "keep the one the model was trained in")
    if "bf16" in view.config and "bfloat16" in view.config:
        what = "`bfloat16` is the old name of `bf16`, and is not read beside it"
        yield Remark(("bfloat16",), what, "take `bfloat16` out", fault=False)


def _low_precision_state(view: View) -> Iterator[Remark]:
    for block in ("fp16", "bf16"):
        master = f"{block}_master_weights_and_grads"
        if view.on(f"{block}.{master}") and view.stage == 0:
            what = f"`{master}` needs ZeRO stage 1, 2 or 3, and DeepSpeed refuses it at stage 0"
            yield Remark((block, master), what, "set `zero_optimization.stage`")
    if view.on("bf16.bf16_optimizer_states") and not view.on("bf16.bf16_master_weights_and_grads"):
        what = "`bf16_optimizer_states` needs `bf16_master_weights_and_grads`, and DeepSpeed "
        hint = "turn both on, or neither"
        yield Remark(("bf16", "bf16_optimizer_states"), what + "refuses it alone", hint)


def _stage(view: View) -> Iterator[Remark]:
    zero = view.table("zero_optimization")
    if view.use.hf and view.use.stage is None and "zero_optimization" not in view.config:
        what = "there is no `zero_optimization`, and HF Trainer refuses a configuration without"
        yield Remark(ZERO, what, 'add "zero_optimization": {"stage": 0}')
    if zero and "stage" not in zero and view.use.stage is None:
        what = "`zero_optimization` names no `stage`, so that ZeRO is off and the rest of it idle"
        yield Remark(ZERO, what, "add the stage: 1, 2 or 3")
        return
    idle: dict[str, list[str]] = {}
    for name, value in zero.items():
        key = BLOCKS["zero_optimization"].keys.get(str(name))
        if key is None or str(view.stage) in key.stages or name in JUDGED_APART:
            continue
        if f"zero_optimization.{name}" in view.use.literal or not _set(name, key.kind, value):
            continue
        idle.setdefault(key.stages, []).append(str(name))
    for stages, names in idle.items():
        what = f"`{'`, `'.join(names)}`: read at ZeRO stage {' and '.join(stages)} only, and this "
        what += f"is stage {view.stage}"
        yield Remark((*ZERO, names[0]), what, "leave it, or take it out", fault=False)


def _set(name: str, kind: str, value: Any) -> bool:
    if kind != "switch":
        return value not in (None, AUTO)
    return value is not (name in ON_BY_DEFAULT) and value not in (None, AUTO)


def _two_names(view: View) -> Iterator[Remark]:
    zero = view.table("zero_optimization")
    for old, new in TWO_NAMES.items():
        if old not in zero:
            continue
        if new in zero:
            what = f"`{old}` and `{new}` are names of one key, and DeepSpeed refuses both at once"
            yield Remark((*ZERO, old), what, f"take `{old}` out")
        elif f"zero_optimization.{old}" in view.use.literal:
            what = f"`{old}` is another name of `{new}`, which {view.use.who} writes itself"
            yield Remark((*ZERO, old), what, f"write `{new}`")


def _offload(view: View) -> Iterator[Remark]:
    if view.use.offload_elsewhere:
        return
    for part in ("optimizer", "param"):
        place = (*ZERO, f"offload_{part}")
        table = view.table(".".join(place))
        if table and "device" not in table:
            what = f"`offload_{part}` names no `device`, so that nothing is offloaded"
            yield Remark(place, what, 'add "device": "cpu", or take the block out')
        if table.get("device") == "nvme" and not table.get("nvme_path"):
            what = f"`offload_{part}` goes to NVMe and names no `nvme_path`"
            yield Remark((*place, "device"), what, "name a folder on a fast local disk")
    if view.offload("param") != "none" and view.stage != 3:
        what = "parameters are offloaded at ZeRO stage 3 only; at stage "
        what += f"{view.stage} DeepSpeed ignores `offload_param`, and they stay on the device"
        yield Remark((*ZERO, "offload_param"), what, "set `stage` to 3, or take it out")
    yield from _optimizer_offload(view)


def _optimizer_offload(view: View) -> Iterator[Remark]:
    place = (*ZERO, "offload_optimizer")
    device = view.offload("optimizer")
    if device != "none" and view.stage == 0:
        what = "the optimizer is offloaded from ZeRO stage 1 on; at stage 0 its step fails on a GPU"
        yield Remark(place, what, "set `stage` to 1, 2 or 3, or take `offload_optimizer` out")
    elif device == "nvme" and view.stage != 3:
        what = "optimizer state goes to NVMe at ZeRO stage 3 only; at stage "
        what += f"{view.stage} it stays in host memory"
        yield Remark((*place, "device"), what, "set `stage` to 3, or say `cpu`")


def _partial_offload(view: View) -> Iterator[Remark]:
    place = (*ZERO, "offload_optimizer")
    ratio = view.get("zero_optimization.offload_optimizer.ratio", 1)
    if isinstance(ratio, (int, float)) and ratio < 1 and view.stage != 3:
        what = (
            "an offload `ratio` below 1 works at ZeRO stage 3 only, and DeepSpeed refuses it here"
        )
        yield Remark((*place, "ratio"), what, "set `stage` to 3, or take `ratio` out")
    if view.on("zero_optimization.offload_optimizer.super_offload") and view.stage != 3:
        what = "`super_offload` is read at ZeRO stage 3 only"
        yield Remark((*place, "super_offload"), what, "take it out", fault=False)


def _zero_switches(view: View) -> Iterator[Remark]:
    if view.on("zero_optimization.legacy_stage1"):
        what = "`legacy_stage1` is gone since DeepSpeed 0.5.9, which refuses it"
        yield Remark((*ZERO, "legacy_stage1"), what, "take it out")
    if view.on("zero_optimization.elastic_checkpoint") and view.stage == 3:
        what = "`elastic_checkpoint` does nothing at ZeRO stage 3"
        yield Remark((*ZERO, "elastic_checkpoint"), what, "take it out", fault=False)
    if view.get("zero_optimization.compute_grad_norm") is False:
        place = (*ZERO, "compute_grad_norm")
        if view.stage not in (1, 2):
            what = "`compute_grad_norm: false` works at ZeRO stage 1 and 2 only, and DeepSpeed "
            yield Remark(place, what + "refuses it here", "take it out")
        elif view.get("gradient_clipping") != 0:
            what = (
                "`compute_grad_norm: false` needs `gradient_clipping: 0`, and DeepSpeed clips by "
            )
            yield Remark(place, what + "default", "add `gradient_clipping: 0`, or take it out")


def _clipping(view: View) -> Iterator[Remark]:
    use = view.use
    silent = view.get("gradient_clipping") is None and "gradient_clipping" not in use.literal
    if not silent or not use.has(CLIPS_BY_DEFAULT_SINCE):
        return
    what = (
        f"`gradient_clipping` is not given: DeepSpeed clips at 1.0 since {CLIPS_BY_DEFAULT_SINCE}"
    )
    what += ", whatever `max_grad_norm` says" if use.hf else ", and did not clip before"
    hint = 'write "auto"' if use.hf else "write the norm that is meant; 0 clips nothing"
    yield Remark(("gradient_clipping",), what, hint, fault=False)


def _checkpointing(view: View) -> Iterator[Remark]:
    if view.use.hf and view.table("activation_checkpointing"):
        what = "`activation_checkpointing` sets up DeepSpeed's own function, which models of "
        what += "transformers do not call; it turns nothing on"
        hint = "turn checkpointing on in the trainer"
        yield Remark(("activation_checkpointing",), what, hint, fault=False)


RULES: tuple[Rule, ...] = (
    _batch, _precision, _low_precision_state, _stage, _two_names, _offload, _partial_offload,
    _zero_switches, optimizer_rule, scheduler_rule, _clipping, _checkpointing,
)  # fmt: skip
