"""Whose operation it was that has no kernel: frames as Python 3.11 writes them, from real ends."""

import pytest

from autotune.core.diagnosis import diagnose
from autotune.core.evidence import Evidence, RankException, Sign
from autotune.core.failure import Failure, Role, Trait
from autotune.core.own_operation import is_own

SITE = "/venv/lib/python3.11/site-packages"
GAP = "\"pdist\" not implemented for 'BFloat16'"


def trace(*frames: tuple[str, str, str]) -> str:
    """Return a traceback of path, name and source, the outermost first."""
    lines = ["Traceback (most recent call last):"]
    for path, name, source in frames:
        lines += [f'  File "{path}", line 7, in {name}', f"    {source}", "    ^^^^^^^"]
    return "\n".join([*lines, f"NotImplementedError: {GAP}", ""])


TRAINER = (f"{SITE}/transformers/trainer.py", "training_step", "loss = self.compute_loss(model)")
OWN = ("/home/ada/train.py", "compute_loss", "apart = torch.pdist(hidden)")
LAYER = (f"{SITE}/bitsandbytes/autograd/_functions.py", "forward", "F.dequantize_4bit(B)")
MASK = ("/home/ada/modeling.py", "_update_causal_mask", "causal = torch.triu(causal)")


@pytest.mark.parametrize(
    ("frames", "own"),
    [
        ((TRAINER, OWN), True),
        ((TRAINER, OWN, (f"{SITE}/torch/functional.py", "cdist", "return _VF.cdist(x)")), True),
        ((OWN, (f"{SITE}/torch/nn/modules/module.py", "_call_impl", "return f()"), LAYER), False),
        ((OWN, (f"{SITE}/transformers/models/llama/modeling_llama.py", "f", "y")), False),
        ((OWN, ("/home/ada/src/bitsandbytes/functional.py", "dequantize_4bit", "y")), False),
        ((OWN, ("/home/ada/hf/modules/transformers_modules/m.py", "f", "y")), False),
        ((TRAINER, MASK), False),
        ((OWN, (f"{SITE}/torch/_tensor.py", "backward", "torch.autograd.backward(self)")), False),
        ((("/tmp/torchinductor_ada/ab/cab.py", "call", "extern_kernels.mm(x)"),), False),
        ((), False),
    ],
)  # fmt: skip
def test_an_operation_is_the_trainings_own_where_no_layer_and_no_attention_called_it(
    frames: tuple[tuple[str, str, str], ...], own: bool
) -> None:
    assert is_own(trace(*frames)) is own


def test_of_a_chain_the_last_counts_and_what_is_no_traceback_says_nothing() -> None:
    between = "\nDuring handling of the above exception, another exception occurred:\n\n"
    assert not is_own(trace(TRAINER, OWN) + between + trace(TRAINER, LAYER))
    assert is_own(trace(TRAINER, LAYER) + between + trace(TRAINER, OWN))
    assert not is_own("no frames here\n" * 1000)


@pytest.mark.parametrize(("frames", "traits"), [((OWN,), (Trait.OWN_OPERATION,)), ((LAYER,), ())])
def test_only_a_kernel_gap_carries_it(
    frames: tuple[tuple[str, str, str], ...], traits: tuple[Trait, ...]
) -> None:
    said = Sign("kernel_missing_for_dtype", Failure.DTYPE_KERNEL_GAP, Role.ROOT, 1, GAP)
    died = RankException(0, "NotImplementedError", GAP, traceback=trace(*frames), signs=(said,))
    assert diagnose(Evidence(attempt=1, exceptions=(died,))).traits == traits
