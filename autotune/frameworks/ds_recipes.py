"""What DeepSpeed's optimizers and schedulers take as `params`, as of 0.19.8.

Read from the constructors in ops/ and runtime/lr_schedules.py, and from torch.optim.
"""

from collections.abc import Mapping

_ADAM = "lr betas eps weight_decay bias_correction amsgrad adam_w_mode torch_adam set_grad_none "
_ADAM += "fp32_optimizer_states foreach"
_MU = "lr betas eps weight_decay amsgrad impl momentum dampening nesterov scaled_wd decoupled_wd"


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


# By DeepSpeed's own names, which it reads in any case.
OPTIMIZERS: Mapping[str, frozenset[str]] = {
    "adam": _names(_ADAM),
    "adamw": _names(_ADAM),
    "adagrad": _names(
        "lr eps weight_decay amsgrad fp32_optimizer_states lr_decay initial_accumulator_value"
    ),
    "lamb": _names(
        "lr betas eps weight_decay bias_correction amsgrad eps_inside_sqrt max_coeff min_coeff"
    ),
    "lion": _names("lr betas weight_decay set_grad_none fp32_optimizer_states"),
    "muon": _names(_ADAM + " momentum ns_method muon_lr adam_lr"),
    **dict.fromkeys(("muadam", "muadamw", "musgd"), _names(_MU)),
}
# Those with a form that steps on the host (engine.py, _configure_basic_optimizer).
ON_THE_HOST = ("adam", "adamw", "adagrad", "lion", "muon")
# Those that ZeRO takes without `zero_allow_untested_optimizer` (zero/utils.py).
TESTED_WITH_ZERO = (*ON_THE_HOST, "Adam", "AdamW", "Adagrad")
ONE_BIT = {"onebitadam", "zerooneadam", "onebitlamb"}
ONE_BIT_GONE_SINCE = "0.19.7"
TORCH_OPTIMIZERS = _names(
    "ASGD Adadelta Adafactor Adagrad Adam AdamW Adamax LBFGS Muon NAdam RAdam RMSprop Rprop SGD "
    "SparseAdam"
)

_WARMUP = "warmup_num_steps warmup_type last_batch_iteration "
SCHEDULERS: Mapping[str, frozenset[str]] = {
    "WarmupLR": _names(_WARMUP + "warmup_min_lr warmup_max_lr"),
    "WarmupDecayLR": _names(_WARMUP + "warmup_min_lr warmup_max_lr total_num_steps"),
    "WarmupCosineLR": _names(_WARMUP + "total_num_steps warmup_min_ratio cos_min_ratio"),
    "LRRangeTest": _names(
        "lr_range_test_min_lr lr_range_test_step_size lr_range_test_step_rate "
        "lr_range_test_staircase last_batch_iteration"
    ),
    "OneCycle": _names(
        "cycle_min_lr cycle_max_lr decay_lr_rate cycle_first_step_size cycle_second_step_size "
        "cycle_first_stair_count cycle_second_stair_count decay_step_size cycle_momentum "
        "cycle_min_mom cycle_max_mom decay_mom_rate last_batch_iteration"
    ),
}
NEEDED = {
    "WarmupDecayLR": ("total_num_steps",),
    "WarmupCosineLR": ("total_num_steps",),
    "OneCycle": ("cycle_min_lr", "cycle_max_lr"),
}
TORCH_SCHEDULERS = _names(
    "ConstantLR CosineAnnealingLR CosineAnnealingWarmRestarts CyclicLR ExponentialLR LambdaLR "
    "LinearLR MultiStepLR MultiplicativeLR OneCycleLR PolynomialLR ReduceLROnPlateau StepLR"
)
WARMUP_ABOVE_ZERO_SINCE = "0.19.3"
