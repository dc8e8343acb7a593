"""config.json of the Hugging Face layout as a TransformerConfig, and back.

A family is one entry of `FAMILIES`: how its fields are read, which configurations it
can express, and what else its file says when one is written. What a file leaves out is
what the family's configuration class in transformers says; what a field asks for and
`TransformerConfig` cannot do is refused by name, never ignored.
"""

import dataclasses
import pathlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from kljax.errors import CheckpointError
from kljax.models.files.defaults import (
    GPT2,
    LLAMA,
    MISTRAL,
    MIXTRAL,
    QWEN2,
    QWEN3,
    QWEN3_MOE,
)
from kljax.models.files.fields import (
    Fields,
    read_rope,
    read_window,
    rope_fields,
    window_fields,
)
from kljax.models.language.configuration import TransformerConfig

__all__ = ["config_fields", "family_of", "read_config"]

WRITTEN = {"silu": "silu", "gelu": "gelu", "gelu_tanh": "gelu_new", "relu": "relu"}


def _llama(fields: Fields, **choices: Any) -> TransformerConfig:
    """What the Llama-shaped families have in common."""
    fields.refuse("partial_rotary_factor", 1)
    options: dict[str, Any] = {
        "vocab_size": fields.whole("vocab_size"),
        "width": fields.whole("hidden_size"),
        "depth": fields.count("num_hidden_layers"),
        "heads": fields.whole("num_attention_heads"),
        "hidden": fields.whole("intermediate_size"),
        "max_length": fields.whole("max_position_embeddings"),
        "norm_eps": fields.number("rms_norm_eps"),
        "activation": fields.activation("hidden_act"),
        "tied": fields.flag("tie_word_embeddings"),
        "rope": read_rope(fields, choices.pop("theta", 1e4)),
        **read_window(fields, choices.pop("layered", False)),
    }
    derived = {"kv_heads": "num_key_value_heads", "head_dim": "head_dim"}
    for ours, name in derived.items():
        if fields.get(name) is not None:
            options[ours] = fields.whole(name)
    return TransformerConfig(**(options | choices))


def _llama_biases(fields: Fields) -> TransformerConfig:
    biased = fields.flag("attention_bias")
    mlp = fields.flag("mlp_bias")
    return _llama(fields, qkv_bias=biased, output_bias=biased, mlp_bias=mlp)


def _qwen2(fields: Fields) -> TransformerConfig:
    return _llama(fields, qkv_bias=True, layered=True)


def _qwen3(fields: Fields, **choices: Any) -> TransformerConfig:
    biased = fields.flag("attention_bias")
    shape = {"qkv_bias": biased, "output_bias": biased, "qk_norm": True}
    return _llama(fields, **({"layered": True} | shape | choices))


def _mixtral(fields: Fields) -> TransformerConfig:
    return _llama(
        fields,
        theta=1e6,
        experts=fields.count("num_local_experts"),
        experts_per_token=fields.whole("num_experts_per_tok"),
    )


def _qwen3_moe(fields: Fields) -> TransformerConfig:
    fields.refuse("mlp_only_layers", [])
    return _qwen3(
        fields,
        layered=False,
        experts=fields.count("num_experts"),
        experts_per_token=fields.whole("num_experts_per_tok"),
        expert_hidden=fields.whole("moe_intermediate_size"),
        expert_sum=fields.flag("norm_topk_prob"),
        moe_layers=fields.whole("decoder_sparse_step"),
    )


def _gpt2(fields: Fields) -> TransformerConfig:
    fields.refuse("scale_attn_weights", True)
    fields.refuse("scale_attn_by_inverse_layer_idx", False)
    fields.refuse("add_cross_attention", False)
    width = fields.whole("n_embd")
    inner = fields.get("n_inner")
    return TransformerConfig(
        vocab_size=fields.whole("vocab_size"),
        width=width,
        depth=fields.count("n_layer"),
        heads=fields.whole("n_head"),
        hidden=4 * width if inner is None else fields.whole("n_inner"),
        max_length=fields.whole("n_positions"),
        norm="layer",
        norm_eps=fields.number("layer_norm_epsilon"),
        mlp="plain",
        activation=fields.activation("activation_function"),
        rope=None,
        qkv_bias=True,
        output_bias=True,
        mlp_bias=True,
        tied=fields.flag("tie_word_embeddings"),
    )


def _llama_fields(config: TransformerConfig) -> dict[str, Any]:
    return {
        "vocab_size": config.vocab_size,
        "hidden_size": config.width,
        "num_hidden_layers": config.depth,
        "num_attention_heads": config.heads,
        "num_key_value_heads": config.kv_heads,
        "head_dim": config.head_dim,
        "intermediate_size": config.hidden,
        "max_position_embeddings": config.max_length,
        "rms_norm_eps": config.norm_eps,
        "hidden_act": WRITTEN[config.activation],
        "attention_bias": config.output_bias,
        "mlp_bias": config.mlp_bias,
        "tie_word_embeddings": config.tied,
        **rope_fields(config),
    }


def _mistral_fields(config: TransformerConfig) -> dict[str, Any]:
    return _llama_fields(config) | {"sliding_window": config.window}


def _qwen_fields(config: TransformerConfig) -> dict[str, Any]:
    return _llama_fields(config) | window_fields(config)


def _mixtral_fields(config: TransformerConfig) -> dict[str, Any]:
    return _mistral_fields(config) | {
        "intermediate_size": config.expert_hidden,
        "num_local_experts": config.experts,
        "num_experts_per_tok": config.experts_per_token,
    }


def _qwen3_moe_fields(config: TransformerConfig) -> dict[str, Any]:
    return _mistral_fields(config) | {
        "use_sliding_window": config.window is not None,
        "moe_intermediate_size": config.expert_hidden,
        "num_experts": config.experts,
        "num_experts_per_tok": config.experts_per_token,
        "decoder_sparse_step": config.moe_layers,
        "norm_topk_prob": config.expert_sum,
        "mlp_only_layers": [],
    }


def _gpt2_fields(config: TransformerConfig) -> dict[str, Any]:
    return {
        "vocab_size": config.vocab_size,
        "n_embd": config.width,
        "n_layer": config.depth,
        "n_head": config.heads,
        "n_inner": config.hidden,
        "n_positions": config.max_length,
        "layer_norm_epsilon": config.norm_eps,
        "activation_function": WRITTEN[config.activation],
        "tie_word_embeddings": config.tied,
    }


@dataclass(frozen=True)
class Family:
    """One `model_type`."""

    read: Callable[[Fields], TransformerConfig]
    defaults: Mapping[str, Any]
    """What its configuration class in transformers says where a file says nothing."""
    architecture: str
    written: Callable[[TransformerConfig], dict[str, Any]]
    choices: Mapping[str, Any]
    """Fields that must have this value for a configuration to be of this family."""
    fixed: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    """Fields that this family does not have, whatever a file says."""
    aliases: Mapping[str, str] = dataclasses.field(default_factory=dict)
    """Other names of fields."""


NO_BIAS = {"qkv_bias": False, "output_bias": False, "mlp_bias": False}
RMS = {"norm": "rms", "mlp": "gated", "expert_sum": True}
DENSE = RMS | {"experts": 0}
SHORT = {"window_layers": None}
ALL_LAYERS = {"max_window_layers": 0}
FAMILIES: dict[str, Family] = {
    "llama": Family(
        _llama_biases,
        LLAMA,
        "LlamaForCausalLM",
        _llama_fields,
        DENSE | {"qk_norm": False, "window": None},
        fixed={"use_sliding_window": False},
    ),
    "mistral": Family(
        _llama,
        MISTRAL,
        "MistralForCausalLM",
        _mistral_fields,
        DENSE | NO_BIAS | SHORT | {"qk_norm": False},
        fixed={"use_sliding_window": True} | ALL_LAYERS,
    ),
    "qwen2": Family(
        _qwen2,
        QWEN2,
        "Qwen2ForCausalLM",
        _qwen_fields,
        DENSE | NO_BIAS | {"qkv_bias": True, "qk_norm": False},
    ),
    "qwen3": Family(
        _qwen3,
        QWEN3,
        "Qwen3ForCausalLM",
        _qwen_fields,
        DENSE | {"qk_norm": True, "mlp_bias": False},
    ),
    "mixtral": Family(
        _mixtral,
        MIXTRAL,
        "MixtralForCausalLM",
        _mixtral_fields,
        RMS | NO_BIAS | SHORT | {"qk_norm": False, "moe_layers": 1},
        fixed={"use_sliding_window": True} | ALL_LAYERS,
        aliases={"num_experts": "num_local_experts"},
    ),
    "qwen3_moe": Family(
        _qwen3_moe,
        QWEN3_MOE,
        "Qwen3MoeForCausalLM",
        _qwen3_moe_fields,
        {"norm": "rms", "mlp": "gated", "qk_norm": True, "mlp_bias": False} | SHORT,
        fixed=ALL_LAYERS,
        aliases={"num_local_experts": "num_experts"},
    ),
    "gpt2": Family(
        _gpt2,
        GPT2,
        "GPT2LMHeadModel",
        _gpt2_fields,
        {"norm": "layer", "mlp": "plain", "qk_norm": False, "experts": 0}
        | {"qkv_bias": True, "output_bias": True, "mlp_bias": True, "window": None},
        aliases={
            "hidden_size": "n_embd",
            "max_position_embeddings": "n_positions",
            "num_attention_heads": "n_head",
            "num_hidden_layers": "n_layer",
        },
    ),
}
"""By `model_type`; the first that fits is the one written."""
KNOWN = {name for family in FAMILIES.values() for name in family.defaults}


def read_config(values: Mapping[str, Any], file: pathlib.Path) -> TransformerConfig:
    """The configuration that a config.json describes.

    Args:
      values: its fields.
      file: where they come from, for the errors.

    Raises:
      CheckpointError: an unknown family, a field missing, or one that asks for what
        `TransformerConfig` cannot do.

    Example:
      >>> import pathlib
      >>> sizes = {"n_embd": 8, "n_layer": 1, "n_head": 2, "n_positions": 16}
      >>> fields = {"model_type": "gpt2", "vocab_size": 11} | sizes
      >>> read_config(fields, pathlib.Path("config.json")).activation
      'gelu_tanh'
    """
    name = Fields(file, values).need("model_type")
    if not isinstance(name, str) or name not in FAMILIES:
        raise CheckpointError(
            f"{file}: model_type is {name!r}; expected one of {', '.join(FAMILIES)}."
        )
    family = FAMILIES[name]
    named = _by_one_name(file, values, family.aliases)
    fields = Fields(file, {**family.defaults, **named, **family.fixed})
    fields.refuse_unknown(KNOWN)
    try:
        return family.read(fields)
    except (ValueError, TypeError, ArithmeticError) as error:
        raise CheckpointError(
            f"{file}: {error}. Remedy: get the model's own config.json."
        ) from error


def _by_one_name(
    file: pathlib.Path, values: Mapping[str, Any], aliases: Mapping[str, str]
) -> dict[str, Any]:
    """The fields by the names that the families use."""
    named = dict(values)
    for other, name in aliases.items():
        if other in values and values[other] != named.setdefault(name, values[other]):
            raise CheckpointError(
                f"{file}: {other} is {values[other]!r} and {name} {values[name]!r}, "
                "which mean the same. Remedy: get the model's own config.json."
            )
    return named


def family_of(config: TransformerConfig) -> str:
    """The `model_type` that a configuration is written as.

    Raises:
      ValueError: no family has this combination.

    Example:
      >>> family_of(TransformerConfig(vocab_size=97, width=32, depth=2, heads=4))
      'llama'
    """
    for name, family in FAMILIES.items():
        if config.soft_cap or config.head_bias:
            continue
        same = all(getattr(config, x) == value for x, value in family.choices.items())
        rotary = config.rope is not None and not config.rope.factors
        plain = config.heads * config.head_dim == config.width
        plain = plain and config.kv_heads == config.heads
        learned = name == "gpt2"
        biases = learned or name == "qwen2" or config.qkv_bias == config.output_bias
        mixture = (config.experts > 0) == ("experts" not in family.choices)
        positions = config.rope is None and plain if learned else rotary
        if same and mixture and biases and positions:
            return name
    raise ValueError(
        f"no family of the Hugging Face layout has the choices of {config}; keep such "
        "a model with kljax.training.checkpoints"
    )


def config_fields(config: TransformerConfig) -> dict[str, Any]:
    """The fields of config.json for a configuration; `read_config` is its inverse.

    Raises:
      ValueError: no family has this combination.

    Example:
      >>> config = TransformerConfig(vocab_size=97, width=32, depth=2, heads=4)
      >>> config_fields(config)["architectures"]
      ['LlamaForCausalLM']
    """
    name = family_of(config)
    family = FAMILIES[name]
    return {
        "architectures": [family.architecture],
        "model_type": name,
        **family.written(config),
    }
