"""A config becomes the shape that transformers would build, or a sentence."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as some

from autotune.core.memory.reading import ALIASES, NAMES, read_shape
from autotune.core.memory.shape import ModelShape
from tests.core.memory.configs import CONFIGS

CHATGLM3_6B = {
    "model_type": "chatglm",
    "num_layers": 28,
    "hidden_size": 4096,
    "ffn_hidden_size": 13696,
    "kv_channels": 128,
    "num_attention_heads": 32,
    "multi_query_attention": True,
    "multi_query_group_num": 2,
    "padded_vocab_size": 65024,
    "add_qkv_bias": True,
    "add_bias_linear": False,
    "tie_word_embeddings": False,
}


def shape(config: dict[str, Any]) -> ModelShape:
    found = read_shape(config)
    assert isinstance(found, ModelShape), found
    return found


@pytest.mark.long  # for the import of transformers
@pytest.mark.parametrize("name", CONFIGS)
def test_a_shape_has_the_parameters_that_transformers_makes(name: str) -> None:
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    wanted = dict(CONFIGS[name])
    kind = wanted.pop("model_type")
    config = transformers.AutoConfig.for_model(kind, **wanted)
    with torch.device("meta"):
        model = transformers.AutoModelForCausalLM.from_config(config)
    made = sum(one.numel() for one in model.parameters())
    assert shape(CONFIGS[name]).parameters == made
    assert shape(config.to_dict()).parameters == made


def test_the_first_glm_is_read_by_its_own_names() -> None:
    assert shape(CHATGLM3_6B).parameters == 6_243_584_000


def test_a_tied_head_is_counted_once() -> None:
    tied = shape(CONFIGS["llama-3.2-1b"])
    untied = shape({**CONFIGS["llama-3.2-1b"], "tie_word_embeddings": False})
    assert untied.parameters - tied.parameters == 128256 * 2048


def test_an_unknown_architecture_is_doubted() -> None:
    assert shape({**CONFIGS["llama-2-7b"], "model_type": "novel"}).doubts


def test_what_a_config_does_not_say_is_named() -> None:
    found = read_shape({"model_type": "llama", "hidden_size": 64})
    assert isinstance(found, str)
    assert "the number of layers" in found
    assert "the hidden size" not in found


KEYS = [*NAMES, *ALIASES, "model_type", "head_dim", "tie_word_embeddings", "text_config"]
KEYS += [alias for names in ALIASES.values() for alias in names]
KEYS += ["decoder_sparse_step", "mlp_only_layers", "moe_intermediate_size", "attention_dropout"]
PLAIN = some.none() | some.booleans() | some.integers(-3, 1 << 50) | some.floats() | some.text()
KINDS = some.sampled_from([one["model_type"] for one in CONFIGS.values()])
VALUES = some.recursive(
    PLAIN | KINDS | some.integers(1, 64),
    lambda inner: some.lists(inner, max_size=3) | some.dictionaries(some.text(), inner, max_size=3),
    max_leaves=6,
)


@given(some.dictionaries(some.sampled_from(KEYS) | some.text(), VALUES, max_size=14))
def test_any_mapping_gives_a_shape_or_a_sentence(config: dict[str, Any]) -> None:
    found = read_shape(config)
    if isinstance(found, str):
        assert found.endswith(".")
    else:
        assert found.parameters > 0
