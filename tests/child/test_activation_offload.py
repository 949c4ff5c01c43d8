"""Activation offload moves what each checkpointed block keeps, and nothing else."""

from __future__ import annotations

from typing import Any

import pytest

from autotune.child import finetune

pytestmark = pytest.mark.train

LAYERS = 3
SETTINGS = {
    "method": {"kind": "full", "quantization": "none"},
    "schedule": {"seed": 1},
    "data": {},
    "activation_checkpointing": True,
}


def model_of(kind: str = "llama", **settings: Any) -> Any:
    import transformers

    transformers.set_seed(1)
    shape = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": LAYERS}
    shape |= {"num_attention_heads": 4, "num_key_value_heads": 4, "vocab_size": 301}
    config = transformers.AutoConfig.for_model(kind, **shape)
    model = transformers.AutoModelForCausalLM.from_config(config)
    return finetune.finish_model({**SETTINGS, **settings}, model).train()


def slopes(model: Any) -> dict[str, Any]:
    import torch

    ids = torch.arange(2 * 40).reshape(2, 40)
    loss = finetune.token_loss(model(input_ids=ids, attention_mask=ids + 1).logits, ids)
    loss.backward()
    return {name: one.grad for name, one in model.named_parameters()}


def test_the_input_of_each_block_is_moved_once_and_comes_back_the_same(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import torch

    before = slopes(model_of())
    moved, back = [], []
    really = torch.autograd.graph.save_on_cpu

    class Counted(torch.autograd.graph.saved_tensors_hooks):  # type: ignore[misc]
        def __init__(self, pin_memory: bool) -> None:
            kept = really(pin_memory=pin_memory)

            def out(tensor: Any) -> Any:
                moved.append(tuple(tensor.shape))
                return kept.pack_hook(tensor)

            def home(packed: Any) -> Any:
                back.append(packed)
                return kept.unpack_hook(packed)

            super().__init__(out, home)

    monkeypatch.setattr(torch.autograd.graph, "save_on_cpu", Counted)
    model = model_of(activation_offload=True)
    assert finetune.offloads_activations(model)
    after = slopes(model)
    assert [shape for shape in moved if len(shape) > 1] == [(2, 40, 32)] * LAYERS
    assert len(back) >= LAYERS
    for name, slope in before.items():
        torch.testing.assert_close(after[name], slope, rtol=0, atol=0)


def test_a_model_that_is_not_offloaded_says_so() -> None:
    assert not finetune.offloads_activations(model_of())


def test_what_is_not_checkpointed_is_not_moved() -> None:
    settings = {
        "activation_offload": True, "activation_checkpointing": False,
        "batch": {"micro": 1, "accumulation": 1, "world_size": 1, "global": 1},
        "method": {"kind": "full", "quantization": "none"}, "data": {},
        "model": {"attention": "sdpa", "path": "model", "config": None},
    }  # fmt: skip
    with pytest.raises(finetune.SettingsError, match="turn that on too"):
        finetune.refuse_impossible(settings)
