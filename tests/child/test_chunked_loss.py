"""The loss taken piece by piece is the loss of the whole, and so are its gradients."""

from __future__ import annotations

from typing import Any

import pytest

from autotune.child import finetune

pytestmark = pytest.mark.train

SMALL = {
    "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 4, "vocab_size": 301, "max_position_embeddings": 512,
}  # fmt: skip


def model_of(kind: str, **extra: Any) -> Any:
    import transformers

    transformers.set_seed(1)
    config = transformers.AutoConfig.for_model(kind, **{**SMALL, **extra})
    return transformers.AutoModelForCausalLM.from_config(config)


def batch(rows: int = 5, length: int = 300) -> tuple[dict[str, Any], Any]:
    """Three pieces, the last of them not full, with labels missing here and there."""
    import torch

    torch.manual_seed(2)
    ids = torch.randint(0, SMALL["vocab_size"], (rows, length))
    labels = ids.clone()
    labels[:, :40] = finetune.IGNORED
    labels[-1] = finetune.IGNORED
    return {"input_ids": ids}, labels


def whole(model: Any, inputs: dict[str, Any], labels: Any) -> Any:
    return finetune.token_loss(model(**inputs).logits, labels)


def in_pieces(model: Any, inputs: dict[str, Any], labels: Any) -> Any:
    return finetune.ChunkedLoss(model).of(model, inputs, labels)


def taken(loss_of: Any, model: Any, scale: float = 0.01) -> tuple[float, dict[str, Any]]:
    loss = loss_of(model, *batch())
    (loss * scale).backward()
    return float(loss.detach()), {
        name: one.grad for name, one in model.named_parameters() if one.grad is not None
    }


def same(before: tuple[float, dict[str, Any]], after: tuple[float, dict[str, Any]]) -> None:
    import torch

    assert after[0] == pytest.approx(before[0], rel=1e-6)
    assert after[1].keys() == before[1].keys()
    for name, slope in before[1].items():
        torch.testing.assert_close(after[1][name], slope, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("kind", "extra"),
    [
        ("llama", {}),
        ("llama", {"tie_word_embeddings": True}),
        ("phi", {}),  # a head with a bias
        ("gemma2", {"head_dim": 8, "final_logit_softcapping": None}),
    ],
)
def test_loss_and_gradients_are_those_of_the_whole(kind: str, extra: dict[str, Any]) -> None:
    same(taken(whole, model_of(kind, **extra)), taken(in_pieces, model_of(kind, **extra)))


def test_half_precision_strays_no_further_in_pieces_than_as_a_whole() -> None:
    """Measured against float32: the head's gradient is rounded once for each piece."""
    import torch

    truth = taken(whole, model_of("llama"))[1]
    strays = []
    for loss_of in (whole, in_pieces):
        found = taken(loss_of, model_of("llama").to(torch.bfloat16))[1]
        strays.append(
            {name: float((found[name].float() - slope).norm()) for name, slope in truth.items()}
        )
    for name, stray in strays[1].items():
        assert stray <= 1.5 * strays[0][name]


def test_a_frozen_head_under_adapters_gives_the_same_gradients() -> None:
    method = {"kind": "lora", "quantization": "none", "lora_rank": 4, "lora_alpha": 8.0}
    method |= {"lora_dropout": 0.0, "lora_targets": "all-linear"}
    settings = {"method": method, "schedule": {"seed": 1}, "activation_checkpointing": True}
    models = [finetune.finish_model(settings, model_of("llama")) for _ in range(2)]
    one, other = taken(whole, models[0]), taken(in_pieces, models[1])
    assert not any("lm_head" in name for name in one[1])
    same(one, other)


def test_an_evaluation_in_pieces_gives_the_same_loss() -> None:
    import torch

    model = model_of("llama")
    with torch.no_grad():
        before = float(whole(model, *batch()))
        assert float(in_pieces(model, *batch())) == pytest.approx(before, rel=1e-6)


def test_a_batch_without_a_label_costs_nothing_and_teaches_nothing() -> None:
    model = model_of("llama")
    inputs, labels = batch(2, 16)
    loss = in_pieces(model, inputs, labels.fill_(finetune.IGNORED))
    loss.backward()
    assert float(loss.detach()) == 0
    assert all(float(one.grad.abs().sum()) == 0 for one in model.parameters())


def test_the_head_still_gives_logits_to_whoever_asks_without_labels() -> None:
    import torch

    model, (inputs, _) = model_of("llama"), batch(1, 8)
    before = model(**inputs).logits
    finetune.ChunkedLoss(model)
    torch.testing.assert_close(model(**inputs).logits, before)


@pytest.mark.parametrize(
    ("kind", "extra"),
    [
        ("gemma2", {"head_dim": 8, "final_logit_softcapping": 30.0}),
        ("cohere", {"logit_scale": 0.0625}),
        ("granite", {"logits_scaling": 8.0}),
    ],
)
def test_a_model_that_changes_its_logits_behind_the_head_is_refused(
    kind: str, extra: dict[str, Any]
) -> None:
    model = model_of(kind, **extra)
    with pytest.raises(finetune.SettingsError, match="changes its logits behind it"):
        in_pieces(model, *batch())


def test_a_loss_that_is_lost_is_no_reason_to_refuse_the_model() -> None:
    import torch

    model = model_of("llama")
    with torch.no_grad():
        model.lm_head.weight[0, 0] = float("nan")
    assert torch.isnan(in_pieces(model, *batch()))


def test_rows_without_a_label_excuse_no_model() -> None:
    model = model_of("granite", logits_scaling=8.0)
    chunked, (inputs, labels) = finetune.ChunkedLoss(model), batch(2, 16)
    nothing = labels.clone().fill_(finetune.IGNORED)
    assert float(chunked.of(model, inputs, nothing).detach()) == 0
    with pytest.raises(finetune.SettingsError, match="changes its logits behind it"):
        chunked.of(model, inputs, labels.clamp(min=0))


def test_a_head_that_is_no_plain_layer_is_refused() -> None:
    import peft

    adapted = peft.LoraConfig(task_type="CAUSAL_LM", r=2, target_modules=["lm_head"])
    with pytest.raises(finetune.SettingsError, match="needs a plain linear head"):
        finetune.ChunkedLoss(peft.get_peft_model(model_of("llama"), adapted))


def test_the_logits_of_a_micro_batch_never_exist_as_a_whole() -> None:
    import torch
    from torch.utils._python_dispatch import TorchDispatchMode

    class Largest(TorchDispatchMode):  # type: ignore[misc]
        rows = 0

        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None):  # type: ignore[no-untyped-def]
            made = func(*args, **(kwargs or {}))
            if isinstance(made, torch.Tensor) and made.shape[-1:] == (SMALL["vocab_size"],):
                self.rows = max(self.rows, made.numel() // SMALL["vocab_size"])
            return made

    with Largest() as largest:
        taken(in_pieces, model_of("llama"))
    assert largest.rows == finetune.LOSS_TOKENS
    with Largest() as largest:
        taken(whole, model_of("llama"))
    assert largest.rows == 5 * 300
