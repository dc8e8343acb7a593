"""config.json of the Hugging Face layout as a TransformerConfig, and back.

A family is one row of families.toml: what its fields are called, what it has whatever
a file says, and which configurations it can express. What a file leaves out is what the
family's configuration class in transformers says; what a field asks for and
`TransformerConfig` cannot do is refused by name, never ignored.
"""

import dataclasses
import pathlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from kljax.errors import CheckpointError
from kljax.models.files.facts import facts
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
READ = {
    "depth": Fields.count,
    "experts": Fields.count,
    "norm_eps": Fields.number,
    "activation": Fields.activation,
    **dict.fromkeys(
        ("tied", "qkv_bias", "output_bias", "mlp_bias", "expert_sum"), Fields.flag
    ),
}
"""How a field of ours is read; every other is a whole number."""
OPTIONAL = ("num_key_value_heads", "head_dim", "n_inner")
"""Fields that follow from others where they are null."""


@dataclass(frozen=True)
class Family:
    """One `model_type`."""

    architecture: str
    defaults: Mapping[str, Any]
    """What its configuration class in transformers says where a file says nothing."""
    choices: Mapping[str, Any]
    """What all of its configurations have."""
    names: Mapping[str, str]
    """What it calls the other fields."""
    theta: float | None = 1e4
    """The base of rotary positions where a file has none; None: learned positions."""
    layered: bool = False
    """Layers may differ in their windows."""
    plain: Mapping[str, Any] = dataclasses.field(
        default_factory=lambda: {"partial_rotary_factor": 1}
    )
    """Fields that may have this value alone."""
    fixed: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    """Fields that this family does not have, whatever a file says."""
    aliases: Mapping[str, str] = dataclasses.field(default_factory=dict)
    """Other names of fields."""


FAMILIES = {
    name: Family(**row)
    for name, row in facts("families.toml").items()
    if "architecture" in row
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
        return _read(family, fields)
    except (ValueError, TypeError, ArithmeticError) as error:
        raise CheckpointError(
            f"{file}: {error}. Remedy: get the model's own config.json."
        ) from error


def _read(family: Family, fields: Fields) -> TransformerConfig:
    for name, value in family.plain.items():
        fields.refuse(name, value)
    options = dict(family.choices)
    for ours, name in family.names.items():
        if name not in OPTIONAL or fields.get(name) is not None:
            options[ours] = READ.get(ours, Fields.whole)(fields, name)
    if family.theta is not None:
        options["rope"] = read_rope(fields, family.theta)
        options |= read_window(fields, family.layered)
    return TransformerConfig(**options)


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
        if family.theta is None:
            square = config.heads * config.head_dim == config.width
            positions = square and config.kv_heads == config.heads
        else:
            positions = config.rope is not None and not config.rope.factors
        # One field of the file says both.
        biases = "qkv_bias" not in family.names or config.qkv_bias == config.output_bias
        mixture = (config.experts > 0) == ("experts" not in family.choices)
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
    model_type = family_of(config)
    family = FAMILIES[model_type]
    values = dataclasses.asdict(config) | {"activation": WRITTEN[config.activation]}
    fields = {name: values[ours] for ours, name in family.names.items()}
    if family.theta is not None:
        fields |= rope_fields(config)
    if "window" not in family.choices:
        fields["sliding_window"] = config.window
    if "use_sliding_window" not in family.fixed:
        fields |= window_fields(config)
    return {"architectures": [family.architecture], "model_type": model_type, **fields}
