"""Counts the parameters of a decoder from its architecture config."""

from collections.abc import Mapping
from typing import Any

# A full checkpoint under ZeRO, bytes per parameter in 16-bit training: weights twice (once for
# people, once for DeepSpeed) and fp32 master, exp_avg and exp_avg_sq.
CHECKPOINT_BYTES_PER_PARAMETER = 2 + 2 + 12


def parameters(config: Mapping[str, Any]) -> int | None:
    """Return the parameters of a Llama-like decoder, or None for a config that is not one.

    Counts embeddings, attention with grouped queries, a gated feed-forward and norms.
    """

    def size(key: str, default: int | None = None) -> int | None:
        value = config.get(key, default)
        return value if isinstance(value, int) and value > 0 else None

    hidden, layers = size("hidden_size"), size("num_hidden_layers")
    vocab, inner = size("vocab_size"), size("intermediate_size")
    heads = size("num_attention_heads")
    if hidden is None or layers is None or vocab is None or inner is None or heads is None:
        return None
    head = size("head_dim") or hidden // heads
    groups = size("num_key_value_heads") or heads
    attention = 2 * hidden * heads * head + 2 * hidden * groups * head
    experts = size("num_local_experts") or size("num_experts") or 1
    per_layer = attention + 3 * hidden * inner * experts + 2 * hidden
    embeddings = vocab * hidden * (1 if config.get("tie_word_embeddings") else 2)
    return embeddings + layers * per_layer + hidden
