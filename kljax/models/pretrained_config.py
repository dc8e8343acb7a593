"""config.json of the Hugging Face layout as a TransformerConfig, and back.

A family is one entry of `FAMILIES`: how its fields are read, which configurations it
can express, and what else its file says when one is written. What a field asks for and
`TransformerConfig` cannot do is refused by name, never ignored.
"""

import dataclasses
import pathlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from kljax.errors import CheckpointError
from kljax.models.configuration import TransformerConfig
from kljax.models.rope import Rope

__all__ = ["config_fields", "family_of", "read_config"]

ACTIVATIONS = {
    "silu": "silu",
    "swish": "silu",
    "gelu": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "relu": "relu",
}
WRITTEN = {"silu": "silu", "gelu": "gelu", "gelu_tanh": "gelu_new", "relu": "relu"}


@dataclass(frozen=True)
class Fields:
    """The fields of one file, and its name for the errors."""

    file: pathlib.Path
    values: Mapping[str, Any]

    def need(self, name: str) -> Any:
        """A field that has no default."""
        if self.values.get(name) is None:
            raise CheckpointError(
                f"{self.file}: no {name}. Remedy: get the model's own config.json."
            )
        return self.values[name]

    def get(self, name: str, default: Any) -> Any:
        """A field, or the default where it is absent or null."""
        value = self.values.get(name)
        return default if value is None else value

    def refuse(self, name: str, *plain: Any) -> None:
        """Raises unless the field is absent, null or one of `plain`."""
        value = self.values.get(name)
        if value is not None and value not in plain:
            raise CheckpointError(
                f"{self.file}: {name} is {value!r}, which this transformer cannot do "
                f"(it can: {', '.join(map(repr, plain)) or 'absent'})."
            )

    def activation(self, name: str, default: str) -> str:
        """An activation by its name there."""
        value = self.get(name, default)
        self.refuse(name, *ACTIVATIONS)
        return ACTIVATIONS[value]


def _rope(fields: Fields, theta: float = 1e4) -> Rope:
    """Of `rope_parameters`, or of the older `rope_theta` and `rope_scaling`."""
    found = dict(fields.get("rope_parameters", {}))
    base = found.pop("rope_theta", fields.get("rope_theta", theta))
    found = found or dict(fields.get("rope_scaling", {}))
    kind = found.pop("rope_type", found.pop("type", "default"))
    found.pop("type", None)
    if kind == "default":
        return Rope(base=float(base))
    inside = Fields(fields.file, found | {"rope_type": kind})
    inside.refuse("rope_type", "linear", "llama3", "yarn")
    inside.refuse("truncate", True)
    for name in ("mscale", "mscale_all_dim"):
        inside.refuse(name)
    length = inside.get(
        "original_max_position_embeddings", fields.need("max_position_embeddings")
    )
    plain = Rope()
    return Rope(
        base=float(base),
        scaling=kind,
        factor=float(inside.need("factor")),
        original_length=int(length),
        low_frequency_factor=inside.get("low_freq_factor", plain.low_frequency_factor),
        high_frequency_factor=inside.get(
            "high_freq_factor", plain.high_frequency_factor
        ),
        beta_fast=inside.get("beta_fast", plain.beta_fast),
        beta_slow=inside.get("beta_slow", plain.beta_slow),
        attention_factor=inside.get("attention_factor", None),
    )


def _rope_fields(config: TransformerConfig) -> dict[str, Any]:
    """Both spellings, for readers of either."""
    rope = config.rope
    assert rope is not None
    scaling: dict[str, Any] | None = None
    if rope.scaling is not None:
        scaling = {"rope_type": rope.scaling, "factor": rope.factor}
        if rope.scaling != "linear":
            scaling["original_max_position_embeddings"] = rope.original_length
        if rope.scaling == "llama3":
            scaling["low_freq_factor"] = rope.low_frequency_factor
            scaling["high_freq_factor"] = rope.high_frequency_factor
        if rope.scaling == "yarn":
            scaling |= {"beta_fast": rope.beta_fast, "beta_slow": rope.beta_slow}
            if rope.attention_factor is not None:
                scaling["attention_factor"] = rope.attention_factor
    parameters = {"rope_theta": rope.base, **(scaling or {"rope_type": "default"})}
    return {
        "rope_theta": rope.base,
        "rope_scaling": scaling,
        "rope_parameters": parameters,
    }


def _llama(fields: Fields, **choices: Any) -> TransformerConfig:
    """What the Llama-shaped families have in common."""
    for name in ("final_logit_softcapping", "attn_logit_softcapping"):
        fields.refuse(name)
    fields.refuse("partial_rotary_factor", 1, 1.0)
    length = int(fields.need("max_position_embeddings"))
    # Within the window, attention over a window is attention over everything.
    if fields.get("use_sliding_window", True) and fields.get("sliding_window", 0):
        length = min(length, int(fields.need("sliding_window")))
    hidden = int(fields.need("intermediate_size"))
    options: dict[str, Any] = {
        "vocab_size": int(fields.need("vocab_size")),
        "width": int(fields.need("hidden_size")),
        "depth": int(fields.need("num_hidden_layers")),
        "heads": int(fields.need("num_attention_heads")),
        "kv_heads": fields.get("num_key_value_heads", None),
        "head_dim": fields.get("head_dim", None),
        "hidden": hidden,
        "max_length": length,
        "norm_eps": float(fields.get("rms_norm_eps", 1e-6)),
        "activation": fields.activation("hidden_act", "silu"),
        "tied": bool(fields.get("tie_word_embeddings", False)),
        "rope": _rope(fields, choices.pop("theta", 1e4)),
    }
    return TransformerConfig(**(options | choices))


def _llama_biases(fields: Fields) -> TransformerConfig:
    biased = bool(fields.get("attention_bias", False))
    return _llama(
        fields,
        qkv_bias=biased,
        output_bias=biased,
        mlp_bias=bool(fields.get("mlp_bias", False)),
    )


def _qwen3(fields: Fields, **choices: Any) -> TransformerConfig:
    biased = bool(fields.get("attention_bias", False))
    return _llama(fields, qkv_bias=biased, output_bias=biased, qk_norm=True, **choices)


def _mixtral(fields: Fields) -> TransformerConfig:
    return _llama(
        fields,
        theta=1e6,
        experts=int(fields.need("num_local_experts")),
        experts_per_token=int(fields.need("num_experts_per_tok")),
    )


def _qwen3_moe(fields: Fields) -> TransformerConfig:
    # Weights of the chosen experts that do not sum to 1 are another model.
    if fields.values.get("norm_topk_prob") is not True:
        raise CheckpointError(
            f"{fields.file}: norm_topk_prob is not true, which this transformer cannot "
            "do (the weights of the chosen experts sum to 1)."
        )
    fields.refuse("mlp_only_layers", [])
    experts = fields.get("num_experts", fields.values.get("num_local_experts"))
    return _qwen3(
        fields,
        experts=int(fields.need("num_experts") if experts is None else experts),
        experts_per_token=int(fields.need("num_experts_per_tok")),
        expert_hidden=int(fields.need("moe_intermediate_size")),
        moe_layers=int(fields.get("decoder_sparse_step", 1)),
    )


def _gpt2(fields: Fields) -> TransformerConfig:
    fields.refuse("scale_attn_weights", True)
    fields.refuse("scale_attn_by_inverse_layer_idx", False)
    fields.refuse("add_cross_attention", False)
    width = int(fields.need("n_embd"))
    return TransformerConfig(
        vocab_size=int(fields.need("vocab_size")),
        width=width,
        depth=int(fields.need("n_layer")),
        heads=int(fields.need("n_head")),
        hidden=int(fields.get("n_inner", 4 * width)),
        max_length=int(fields.need("n_positions")),
        norm="layer",
        norm_eps=float(fields.get("layer_norm_epsilon", 1e-5)),
        mlp="plain",
        activation=fields.activation("activation_function", "gelu_new"),
        rope=None,
        qkv_bias=True,
        output_bias=True,
        mlp_bias=True,
        tied=bool(fields.get("tie_word_embeddings", True)),
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
        **_rope_fields(config),
    }


def _mixtral_fields(config: TransformerConfig) -> dict[str, Any]:
    return _llama_fields(config) | {
        "intermediate_size": config.expert_hidden,
        "num_local_experts": config.experts,
        "num_experts_per_tok": config.experts_per_token,
        "sliding_window": None,
    }


def _qwen3_moe_fields(config: TransformerConfig) -> dict[str, Any]:
    return _llama_fields(config) | {
        "moe_intermediate_size": config.expert_hidden,
        "num_experts": config.experts,
        "num_experts_per_tok": config.experts_per_token,
        "decoder_sparse_step": config.moe_layers,
        "norm_topk_prob": True,
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
    architecture: str = ""
    written: Callable[[TransformerConfig], dict[str, Any]] = _llama_fields
    choices: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    """Fields that must have this value for a configuration to be of this family."""


NO_BIAS = {"qkv_bias": False, "output_bias": False, "mlp_bias": False}
DENSE = {"experts": 0, "norm": "rms", "mlp": "gated"}
FAMILIES: dict[str, Family] = {
    "llama": Family(
        _llama_biases, "LlamaForCausalLM", choices=DENSE | {"qk_norm": False}
    ),
    "mistral": Family(_llama),
    "qwen2": Family(
        lambda fields: _llama(fields, qkv_bias=True),
        "Qwen2ForCausalLM",
        choices=DENSE
        | {"qkv_bias": True, "output_bias": False, "mlp_bias": False, "qk_norm": False},
    ),
    "qwen3": Family(
        _qwen3,
        "Qwen3ForCausalLM",
        choices=DENSE | {"qk_norm": True, "mlp_bias": False},
    ),
    "mixtral": Family(
        _mixtral,
        "MixtralForCausalLM",
        _mixtral_fields,
        {"norm": "rms", "mlp": "gated", "qk_norm": False, "moe_layers": 1} | NO_BIAS,
    ),
    "qwen3_moe": Family(
        _qwen3_moe,
        "Qwen3MoeForCausalLM",
        _qwen3_moe_fields,
        {"norm": "rms", "mlp": "gated", "qk_norm": True, "mlp_bias": False},
    ),
    "gpt2": Family(
        _gpt2,
        "GPT2LMHeadModel",
        _gpt2_fields,
        {"norm": "layer", "mlp": "plain", "qk_norm": False, "experts": 0}
        | {"qkv_bias": True, "output_bias": True, "mlp_bias": True},
    ),
}
"""By `model_type`; the first that fits is the one written."""


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
    fields = Fields(file, values)
    family = fields.need("model_type")
    if family not in FAMILIES:
        raise CheckpointError(
            f"{file}: model_type is {family!r}; expected one of {', '.join(FAMILIES)}."
        )
    try:
        return FAMILIES[family].read(fields)
    except (ValueError, TypeError) as error:
        raise CheckpointError(f"{file}: {error}.") from error


def family_of(config: TransformerConfig) -> str:
    """The `model_type` that a configuration is written as.

    Raises:
      ValueError: no family has this combination.

    Example:
      >>> family_of(TransformerConfig(vocab_size=97, width=32, depth=2, heads=4))
      'llama'
    """
    for name, family in FAMILIES.items():
        if not family.architecture or config.soft_cap or config.head_bias:
            continue
        same = all(getattr(config, x) == value for x, value in family.choices.items())
        rotary = config.rope is not None
        plain = config.heads * config.head_dim == config.width
        plain = plain and config.kv_heads == config.heads
        learned = name == "gpt2"
        biases = learned or name == "qwen2" or config.qkv_bias == config.output_bias
        mixture = (config.experts > 0) == ("experts" not in family.choices)
        if same and mixture and biases and rotary != learned and (rotary or plain):
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
