"""What DeepSpeed makes of the blocks `optimizer` and `scheduler`, and of offload beside them."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from autotune.core.fault import nearest
from autotune.frameworks.ds_recipes import (
    NEEDED,
    ON_THE_HOST,
    ONE_BIT,
    ONE_BIT_GONE_SINCE,
    OPTIMIZERS,
    SCHEDULERS,
    TESTED_WITH_ZERO,
    TORCH_OPTIMIZERS,
    TORCH_SCHEDULERS,
    WARMUP_ABOVE_ZERO_SINCE,
)
from autotune.frameworks.ds_remark import AUTO, Remark, View
from autotune.frameworks.ds_values import WRITE, shown

_NUMBERS = ("lr", "eps", "weight_decay", "momentum", "warmup_min_lr", "warmup_max_lr")


def optimizer_rule(view: View) -> Iterator[Remark]:
    """Say what is wrong with the optimizer, or with going without one under offload."""
    if "optimizer" in view.use.elsewhere:
        return
    block = view.get("optimizer")
    if block is None:
        yield from _clients_own(view)
    if not isinstance(block, Mapping):
        return
    kind = block.get("type")
    if not isinstance(kind, str):
        if "type" not in block:
            what = "`optimizer` names no `type`, so that DeepSpeed does not read the block"
            yield Remark(("optimizer",), what, 'add "type": "AdamW"')
        return
    name = kind.lower() if kind.lower() in OPTIMIZERS else kind
    yield from _type(view, kind, name)
    yield from _params(view, "optimizer", kind, OPTIMIZERS.get(name))
    amsgrad = view.on("optimizer.params.amsgrad") and not view.on("optimizer.params.torch_adam")
    if amsgrad and name in ("adam", "adamw", "lamb") and view.offload("optimizer") == "none":
        what = f"DeepSpeed's {kind} has no AMSGrad and refuses it"
        yield Remark(("optimizer", "params", "amsgrad"), what, 'add "torch_adam": true')
    if view.use.hf:
        what = "the block `optimizer` decides, and the trainer's own `optim` is not used"
        yield Remark(("optimizer",), what, "take it out to use the trainer's", fault=False)


def _clients_own(view: View) -> Iterator[Remark]:
    if view.offload("optimizer") == "none" or not view.config.get(
        "zero_force_ds_cpu_optimizer", True
    ):
        return
    if view.use.hf:
        what = (
            "under optimizer offload HF Trainer's optimizer is replaced by DeepSpeed's CPU Adam; "
        )
        what += "an 8-bit or paged AdamW then decays its weights otherwise, and Adafactor fails"
        hint = 'keep `optim` to AdamW, or add "zero_force_ds_cpu_optimizer": false'
    else:
        what = "under optimizer offload DeepSpeed refuses a program's own optimizer unless it is "
        what += "DeepSpeedCPUAdam or DeepSpeedCPULion"
        hint = 'add an `optimizer` block, or "zero_force_ds_cpu_optimizer": false'
    yield Remark(("zero_optimization", "offload_optimizer"), what, hint, fault=False)


def _type(view: View, kind: str, name: str) -> Iterator[Remark]:
    place = ("optimizer", "type")
    if kind.lower() in ONE_BIT:
        if view.use.has(ONE_BIT_GONE_SINCE):
            what = f"`{kind}` is gone from DeepSpeed since {ONE_BIT_GONE_SINCE}"
            yield Remark(place, what, "write AdamW")
        return
    if name not in OPTIMIZERS and name not in TORCH_OPTIMIZERS:
        known = [*TORCH_OPTIMIZERS, "Lamb", "Lion"]
        what = f"`{kind}` is no optimizer that DeepSpeed can make, and it refuses to start"
        yield Remark(place, what, nearest(kind, known))
        return
    offloaded = view.offload("optimizer") != "none"
    if offloaded and name == "lamb":
        what = f"`{kind}` steps on a GPU only and cannot be offloaded"
        yield Remark(place, what, "write AdamW, or take `offload_optimizer` out")
    if view.stage > 0 and name not in TESTED_WITH_ZERO:
        if not view.on("zero_allow_untested_optimizer"):
            what = f"`{kind}` was not tested with ZeRO, and DeepSpeed refuses it"
            yield Remark(place, what, 'write AdamW, or add "zero_allow_untested_optimizer": true')
        elif offloaded and name not in ON_THE_HOST and name != "lamb":
            what = f"`{kind}` has no fast form on the host; an offloaded step will be slow"
            yield Remark(place, what, "write AdamW for speed", fault=False)


def scheduler_rule(view: View) -> Iterator[Remark]:
    """Say what is wrong with the scheduler."""
    block = view.get("scheduler")
    if "scheduler" in view.use.elsewhere or not isinstance(block, Mapping):
        return
    kind = block.get("type")
    if not isinstance(kind, str):
        if "type" not in block:
            what = "`scheduler` names no `type`, so that DeepSpeed does not read the block"
            yield Remark(("scheduler",), what, 'add "type": "WarmupDecayLR"')
        return
    place = ("scheduler", "type")
    if kind not in SCHEDULERS and kind not in TORCH_SCHEDULERS:
        what = f"`{kind}` is no schedule that DeepSpeed can make, and it refuses to start"
        yield Remark(place, what, nearest(kind, SCHEDULERS))
        return
    yield from _params(view, "scheduler", kind, SCHEDULERS.get(kind))
    params = view.table("scheduler.params")
    for name in NEEDED.get(kind, ()):
        if name not in params:
            what = f"`{kind}` needs `{name}`, and DeepSpeed fails without it"
            yield Remark(("scheduler", "params"), what, f"add `{name}`")
    if "params" not in block:
        what = f"`{kind}` has no `params`, and DeepSpeed fails on that"
        yield Remark(("scheduler",), what, 'add "params": {}')
    yield from _warmup(view, kind, params)
    if "optimizer" not in view.config:
        what = "there is a `scheduler` and no `optimizer`: the program must bring its own"
        what += ", and the trainer's own schedule is not used" if view.use.hf else ""
        yield Remark(("scheduler",), what, "check that this is meant", fault=False)


def _warmup(view: View, kind: str, params: Mapping[str, Any]) -> Iterator[Remark]:
    steps = params.get("warmup_num_steps", 1)
    if kind not in SCHEDULERS or steps == AUTO or not view.use.has(WARMUP_ABOVE_ZERO_SINCE):
        return
    if isinstance(steps, bool) or not isinstance(steps, int) or steps < 1:
        what = (
            f"`warmup_num_steps` is {shown(steps)}, and DeepSpeed takes whole numbers above 0 only"
        )
        place = ("scheduler", "params", "warmup_num_steps")
        yield Remark(place, what + f" since {WARMUP_ABOVE_ZERO_SINCE}", "write 1 for no warm-up")


def _params(view: View, block: str, kind: str, known: Iterable[str] | None) -> Iterator[Remark]:
    for name, value in view.table(f"{block}.params").items():
        place = (block, "params", str(name))
        if known is not None and name not in known:
            yield _unknown_param(block, kind, str(name), known)
        elif value == AUTO and ".".join(place) not in view.use.fills:
            what = f': "auto" is nothing that {view.use.who} fills in here, and DeepSpeed uses the '
            yield Remark(place, what + "word itself as the value", WRITE, alike=True)
        elif name in _NUMBERS and value != AUTO and not _is_number(value):
            what = f"`{'.'.join(place)}` is {shown(value)}, and must be a number"
            yield Remark(place, what, "write a number without quotes")
        elif name == "betas" and value != AUTO and not _are_betas(value):
            what = f"`{'.'.join(place)}` is {shown(value)}, and must be two numbers"
            yield Remark(place, what, "write [0.9, 0.999]")


def _unknown_param(block: str, kind: str, name: str, known: Iterable[str]) -> Remark:
    place = (block, "params", name)
    if name == "max_grad_norm":
        what = f"`{'.'.join(place)}` is refused by DeepSpeed"
        return Remark(place, what, "write `gradient_clipping` at the top level instead")
    what = f"`{name}` is nothing that {kind} takes, and DeepSpeed fails on it"
    return Remark(place, what, "take it out; " + nearest(name, known))


def _is_number(value: Any) -> bool:
    finite = isinstance(value, (int, float)) and value - value == 0
    return finite and not isinstance(value, bool)


def _are_betas(value: Any) -> bool:
    return isinstance(value, (list, tuple)) and len(value) == 2 and all(map(_is_number, value))
