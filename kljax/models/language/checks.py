"""What a call of the language model is checked for, before anything is computed."""

from typing import Any

import jax.numpy as jnp
import numpy as np

from kljax.arguments import concrete
from kljax.models.language.cache import Cache
from kljax.models.language.configuration import TransformerConfig
from kljax.typing import Array

__all__ = ["check_call", "check_ids"]


def check_call(
    config: TransformerConfig,
    tokens: Array,
    where: Array | None,
    positions: Array | None,
    cache: Cache | None,
) -> None:
    """Shapes and dtypes of a call."""
    for name, given in (("tokens", tokens), ("where", where), ("positions", positions)):
        if given is not None and not hasattr(given, "ndim"):
            raise TypeError(
                f"{name} is a {type(given).__name__}; expected an array of shape [b, "
                "t], as jnp.asarray makes of it"
            )
    embedded = jnp.issubdtype(tokens.dtype, jnp.floating)
    if embedded and tokens.ndim == 3 and tokens.shape[2] == config.width:
        pass
    elif tokens.ndim != 2 or not jnp.issubdtype(tokens.dtype, jnp.integer):
        raise ValueError(
            f"tokens has shape {tokens.shape} and dtype {tokens.dtype}; expected "
            "integers of shape [b, t], or embeddings, floats of shape [b, t, "
            f"{config.width}]"
        )
    shape = tokens.shape[:2]
    if tokens.shape[1] < 1:
        raise ValueError(f"tokens has shape {tokens.shape}; expected a token per row")
    if where is not None and (where.shape != shape or where.dtype != jnp.bool_):
        raise ValueError(
            f"where has shape {where.shape} and dtype {where.dtype}; expected "
            f"booleans of shape {shape}"
        )
    if positions is not None and positions.shape != shape:
        raise ValueError(f"positions has shape {positions.shape}; expected {shape}")
    if cache is None and positions is None and tokens.shape[1] > config.max_length:
        raise ValueError(
            f"tokens has shape {tokens.shape}, longer than the context of "
            f"{config.max_length} tokens; cut it"
        )
    if cache is not None and len(cache.keys) != config.depth:
        raise ValueError(
            f"cache has {len(cache.keys)} layers and the model {config.depth}; make it "
            "by the model's own init_cache"
        )


def check_ids(
    config: TransformerConfig, tokens: Array, where: Array | None, positions: Any
) -> None:
    """That ids that count are in the vocabulary and in the table of positions.

    Values are only there outside of a traced program, and there they are looked at.
    """
    counted = np.True_ if where is None else concrete(where)
    ids = {}
    if tokens.ndim == 2:
        ids["tokens"] = (tokens, config.vocab_size, "the vocabulary")
    if config.rope is None and positions is not None:
        ids["positions"] = (positions, config.max_length, "the table of positions")
    for name, (values, size, what) in ids.items():
        values = concrete(values)
        if values is None or counted is None:
            continue
        wrong = counted & ((values < 0) | (values >= size))
        if wrong.any():
            row, place = np.argwhere(wrong)[0]
            raise ValueError(
                f"{name}[{row}, {place}] is {values[row, place]}, and {what} has "
                f"{size}; tokenize with the model's own tokenizer, and mask padding "
                "with where"
            )
