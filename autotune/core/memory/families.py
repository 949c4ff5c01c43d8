"""What the families of decoders call the sizes of their configs, and how their blocks compute."""

from dataclasses import dataclass, replace

from autotune.core.memory.shape import Style


@dataclass(frozen=True)
class Family:
    """What the configs and the modules of one family are called, and how its blocks compute."""

    style: Style
    bias: str = ""  # of queries, keys and values: the key that says so, or "always"
    output_bias: str = ""
    inner_bias: str = ""
    tied: bool = False  # when the config does not say
    head_dim: int = 0  # when the config does not say; 0: hidden over heads
    gated: bool = True
    head_bias: bool = False
    names: tuple[str, str, str, str] = ("qkv_proj", "o_proj", "gate_up_proj", "down_proj")
    inner_name: str = ""  # of the first projection of a feed-forward that is not gated
    positions: bool = False  # learned, one row for each


GEMMA = Style(norm="rms_plus_one", activation="gelu")
OLD_GLM = ("query_key_value", "dense", "dense_h_to_4h", "dense_4h_to_h")
FAMILIES: dict[str, Family] = {
    "llama": Family(Style(), "attention_bias", "attention_bias", "mlp_bias"),
    "mistral": Family(Style()),
    "qwen2": Family(Style(), bias="always"),
    "qwen3": Family(Style(normed_heads=True), "attention_bias", "attention_bias", head_dim=128),
    "gemma": Family(GEMMA, "attention_bias", "attention_bias", tied=True, head_dim=256),
    "gemma2": Family(
        replace(GEMMA, norms=4, capped_scores=True, capped_logits=True),
        "attention_bias",
        "attention_bias",
        tied=True,
        head_dim=256,
    ),
    "gemma3_text": Family(
        replace(GEMMA, norms=4, normed_heads=True),
        "attention_bias",
        "attention_bias",
        tied=True,
        head_dim=256,
    ),
    "glm": Family(Style(fused_inner=True, joined_rotary=True), bias="attention_bias", head_dim=128),
    "glm4": Family(
        Style(fused_inner=True, joined_rotary=True, norms=4), bias="attention_bias", head_dim=128
    ),
    "chatglm": Family(
        Style(fused_attention=True, fused_inner=True, joined_rotary=True),
        "add_qkv_bias",
        "add_bias_linear",
        "add_bias_linear",
        names=OLD_GLM,
    ),
    "phi": Family(
        Style(norm="layer", norms=1, activation="gelu_written_out", joined_rotary=True),
        "always",
        "always",
        "always",
        gated=False,
        head_bias=True,
        names=("", "dense", "", "fc2"),
        inner_name="fc1",
    ),
    "phi3": Family(Style(fused_attention=True, fused_inner=True, joined_rotary=True)),
    "gpt_neox": Family(
        Style(norm="layer", activation="gelu", fused_attention=True, joined_rotary=True),
        "attention_bias",
        "attention_bias",
        "always",
        gated=False,
        names=OLD_GLM,
        inner_name="dense_h_to_4h",
    ),
    "gpt2": Family(
        Style(norm="layer", activation="gelu_written_out", fused_attention=True),
        "always",
        "always",
        "always",
        tied=True,
        gated=False,
        names=("c_attn", "c_proj", "", "c_proj"),
        inner_name="c_fc",
        positions=True,
    ),
    "mixtral": Family(Style()),
    "qwen2_moe": Family(Style(), bias="qkv_bias"),
    "qwen3_moe": Family(Style(normed_heads=True), "attention_bias", "attention_bias"),
}
ON_BY_DEFAULT = {("glm", "attention_bias"), ("glm4", "attention_bias")}
ON_BY_DEFAULT |= {("gpt_neox", "attention_bias"), ("qwen2_moe", "qkv_bias")}
