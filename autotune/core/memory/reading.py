"""Reads the architecture config of a causal decoder into its shape."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from autotune.core.memory.families import FAMILIES, ON_BY_DEFAULT, Family
from autotune.core.memory.shape import Linear, ModelShape, Style

LARGEST = 1 << 40  # of any size in a config; beyond it the config is not believed
ALIASES = {
    "hidden_size": ("n_embd", "d_model"),
    "num_hidden_layers": ("num_layers", "n_layer"),
    "num_attention_heads": ("n_head",),
    "num_key_value_heads": ("multi_query_group_num", "num_kv_heads"),
    "intermediate_size": ("ffn_hidden_size", "n_inner"),
    "vocab_size": ("padded_vocab_size",),
    "head_dim": ("kv_channels",),
    "num_local_experts": ("num_experts",),
}
NAMES = {  # as people say them
    "hidden_size": "the hidden size",
    "num_hidden_layers": "the number of layers",
    "num_attention_heads": "the number of attention heads",
    "vocab_size": "the size of the vocabulary",
    "intermediate_size": "the inner size of the feed-forward",
}


def read_shape(config: Mapping[str, Any]) -> ModelShape | str:
    """Return the shape that an architecture config describes, or why its memory is unknown."""
    nested = config.get("text_config")
    if isinstance(nested, Mapping) and "hidden_size" not in config:
        shape = read_shape({"model_type": config.get("model_type"), **nested})
        if isinstance(shape, str):
            return shape
        doubt = "Only the language part of this model is counted, not what reads images or sound."
        return replace(shape, doubts=(*shape.doubts, doubt))
    kind = config.get("model_type")
    if config.get("is_encoder_decoder") is True:
        return "The config describes an encoder with a decoder; only decoders are predicted."
    doubts: tuple[str, ...] = ()
    family = FAMILIES.get(kind) if isinstance(kind, str) else None
    if family is None:
        family = FAMILIES["llama"]
        doubts = (f"The architecture {kind!r} is not known here and is taken for a Llama.",)
    sizes = {key: _size(config, key) for key in (*NAMES, "num_key_value_heads", "head_dim")}
    if sizes["intermediate_size"] is None and not family.gated and sizes["hidden_size"]:
        sizes["intermediate_size"] = 4 * sizes["hidden_size"]
    missing = [name for key, name in NAMES.items() if not sizes[key]]
    if missing:
        return f"The model's config does not say {' and '.join(missing)}."
    return _shape(config, str(kind), family, sizes, doubts)


def _shape(
    config: Mapping[str, Any],
    kind: str,
    family: Family,
    sizes: Mapping[str, int | None],
    doubts: tuple[str, ...],
) -> ModelShape | str:
    hidden, heads = sizes["hidden_size"] or 0, sizes["num_attention_heads"] or 0
    layers, vocab = sizes["num_hidden_layers"] or 0, sizes["vocab_size"] or 0
    inner = sizes["intermediate_size"] or 0
    head_dim = sizes["head_dim"] or family.head_dim or hidden // heads
    if not head_dim:
        return f"The model's config says {heads} attention heads for a hidden size of {hidden}."
    kv_heads = sizes["num_key_value_heads"] or heads
    if kind == "chatglm" and not config.get("multi_query_attention"):
        kv_heads = heads
    if kv_heads > heads or heads % kv_heads:
        return f"The model's config says {heads} attention heads over {kv_heads} of keys."
    if kind == "gpt_neox":
        kv_heads, head_dim = heads, hidden // heads
    tied = config.get("tie_word_embeddings")
    tied = tied if isinstance(tied, bool) else family.tied
    attention = _attention(config, kind, family, hidden, heads * head_dim, kv_heads * head_dim)
    experts = _experts(config, layers)
    feed, routers = _feed_forward(config, kind, family, hidden, inner, layers, experts)
    style = _style(config, kind, family)
    norm = (2 if style.norm == "layer" else 1) * hidden
    others = norm * (style.norms * layers + 1) + routers
    others += 2 * head_dim * layers if style.normed_heads else 0
    if family.positions:
        others += hidden * (_size(config, "n_positions") or 1024)
    found = ModelShape(
        family=kind,
        layers=layers,
        hidden=hidden,
        heads=heads,
        kv_heads=kv_heads,
        head_dim=head_dim,
        inner=inner,
        vocab=vocab,
        gated=family.gated,
        tied=tied,
        linears=attention + feed,
        embedding_parameters=vocab * hidden,
        head_parameters=0 if tied else vocab * hidden + (vocab if family.head_bias else 0),
        other_parameters=others + (vocab if tied and family.head_bias else 0),
        experts=experts.count,
        experts_per_token=experts.each,
        expert_inner=experts.inner or inner if experts.count else 0,
        shared_inner=experts.shared,
        sparse_layers=experts.layers,
        style=style,
        doubts=doubts,
    )
    if found.parameters > LARGEST * 16:
        return f"The model's config describes {found.parameters} parameters, which is no model."
    return found


def _style(config: Mapping[str, Any], kind: str, family: Family) -> Style:
    default = 0.1 if kind == "gpt2" else 0.0
    drops = config.get("attn_pdrop" if kind == "gpt2" else "attention_dropout", default)
    dropped = isinstance(drops, int | float) and drops > 0
    style = replace(family.style, dropped_scores=dropped)
    if kind == "gemma2":
        caps = config.get("attn_logit_softcapping", 50.0) is not None
        logits = config.get("final_logit_softcapping", 30.0) is not None
        return replace(style, capped_scores=caps, capped_logits=logits)
    if kind == "phi" and config.get("qk_layernorm") is True:
        return replace(style, normed_heads=True)
    act = config.get("hidden_act")
    if kind == "gpt_neox" and act in ("gelu_new", "gelu_fast"):
        return replace(style, activation="gelu_written_out")
    return style


def _attention(
    config: Mapping[str, Any], kind: str, family: Family, hidden: int, query: int, key: int
) -> tuple[Linear, ...]:
    bias = _on(config, kind, family.bias)
    out = Linear(family.names[1], query, hidden, _on(config, kind, family.output_bias))
    if family.style.fused_attention:
        return (Linear(family.names[0], hidden, query + 2 * key, bias), out)
    parts = (("q_proj", query), ("k_proj", key), ("v_proj", key))
    return (*(Linear(name, hidden, width, bias) for name, width in parts), out)


@dataclass(frozen=True)
class _Experts:
    count: int = 0
    each: int = 0
    inner: int = 0
    shared: int = 0
    layers: int = 0


def _experts(config: Mapping[str, Any], layers: int) -> _Experts:
    count = _size(config, "num_local_experts") or _size(config, "n_routed_experts") or 0
    if count < 2:
        return _Experts()
    each = min(_size(config, "num_experts_per_tok") or 1, count)
    step = _size(config, "decoder_sparse_step") or 1
    listed = config.get("mlp_only_layers")
    dense = set(listed) if isinstance(listed, list) and all(map(_whole, listed)) else set()
    first = _size(config, "first_k_dense_replace") or 0
    sparse = max(0, layers // step - sum(1 for i in dense if i < layers and (i + 1) % step == 0))
    shared = _size(config, "shared_expert_intermediate_size") or 0
    inner = _size(config, "moe_intermediate_size") or 0
    return _Experts(count, each, inner, shared, max(0, sparse - first))


def _feed_forward(
    config: Mapping[str, Any],
    kind: str,
    family: Family,
    hidden: int,
    inner: int,
    layers: int,
    experts: _Experts,
) -> tuple[tuple[Linear, ...], int]:
    """Return the linear layers of the feed-forward, and the parameters of the routers."""
    bias = _on(config, kind, family.inner_bias)
    if not family.gated:
        first = Linear(family.inner_name, hidden, inner, bias)
        return (first, Linear(family.names[3], inner, hidden, bias)), 0
    sparse = experts.layers if experts.count else 0
    parts: list[Linear] = []
    if sparse < layers:
        parts += _gated(family, hidden, inner, bias, layers - sparse if sparse else 0)
    if not sparse:
        return tuple(parts), 0
    some, each = (0 if sparse == layers else sparse), experts.inner or inner
    wide = Linear("gate_up_proj", hidden, 2 * each, False, experts.count, some, stacked=True)
    narrow = Linear("down_proj", each, hidden, False, experts.count, some, stacked=True)
    parts += [wide, narrow]
    if experts.shared:
        parts += _gated(family, hidden, experts.shared, bias, some)
        parts.append(Linear("shared_expert_gate", hidden, 1, False, 1, some))
    return tuple(parts), sparse * experts.count * hidden


def _gated(family: Family, hidden: int, inner: int, bias: bool, some: int) -> list[Linear]:
    down = Linear(family.names[3], inner, hidden, bias, 1, some)
    if family.style.fused_inner:
        return [Linear(family.names[2], hidden, 2 * inner, bias, 1, some), down]
    both = [Linear(name, hidden, inner, bias, 1, some) for name in ("gate_proj", "up_proj")]
    return [*both, down]


def _on(config: Mapping[str, Any], kind: str, key: str) -> bool:
    if key in ("", "always"):
        return key == "always"
    said = config.get(key)
    return said if isinstance(said, bool) else (kind, key) in ON_BY_DEFAULT


def _size(config: Mapping[str, Any], key: str) -> int | None:
    for name in (key, *ALIASES.get(key, ())):
        value = config.get(name)
        if isinstance(value, int) and not isinstance(value, bool) and 0 < value < LARGEST:
            return value
    return None


def _whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
