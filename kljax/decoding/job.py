"""The arguments of a generation, checked before anything runs."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from kljax.arguments import checked_ids, traced
from kljax.decoding.decoders import Combine, Model, Reader, opened
from kljax.decoding.lockstep import Block, Plan, Readers, Values, begin, planned
from kljax.decoding.settings import Decoding
from kljax.typing import Array

__all__ = ["Job", "checked", "padded_length"]


@dataclasses.dataclass(frozen=True)
class Job:
    """What is left to do, with nothing left to check."""

    plan: Plan
    values: Values
    prompt: Array
    where: Array
    broken: Array | None
    """Rows whose traced prompt holds ids outside the vocabulary; None if it is known:
    then there are none."""
    keys: Array
    caches: tuple[Any, ...]
    total: int

    @property
    def fixed(self) -> bool:
        """Whether it stands inside a traced program, which is of these sizes alone."""
        return traced((self.values, self.prompt, self.keys))

    @property
    def read(self) -> int:
        """Slots that are taken when the first token is made."""
        taken = [cache.slots for cache in self.caches if cache is not None]
        return max(taken, default=0) + self.prompt.shape[1] - 1

    def begun(self, slots: int) -> Readers:
        """The prompt read, but for its last token."""
        return begin(
            self.plan.readers,
            self.values.params,
            self.caches,
            self.prompt,
            self.where,
            self.keys,
            slots=slots,
            track=self.plan.sampling.penalizes,
        )

    def marked(self, block: Block) -> Block:
        """No text in the rows that are broken."""
        if self.broken is None:
            return block
        return dataclasses.replace(
            block,
            tokens=jnp.where(self.broken, self.values.pad_id, block.tokens),
            log_probabilities=jnp.where(self.broken, jnp.nan, block.log_probabilities),
        )


def checked(
    models: Sequence[Model],
    prompt: Any,
    settings: Decoding,
    where: Any,
    key: Any,
    caches: Sequence[Any] | None,
) -> Job:
    """What can be said about the arguments before anything runs."""
    if not isinstance(settings, Decoding):
        raise TypeError(
            f"settings is a {type(settings).__name__}; expected a "
            "kljax.decoding.Decoding, as Decoding(max_new_tokens=64)"
        )
    ids, prompt, where = prompt, *_prompt(prompt, where)
    total, combine = settings.max_new_tokens, settings.combine
    readers, params = opened(models, caches, prompt, total, settings.cache_dtype)
    vocabulary = _vocabulary(readers, combine)
    prompt = checked_ids("prompt", ids, vocabulary, where)
    ends = np.asarray(settings.stop_tokens, np.int64)
    ends = checked_ids("stop_tokens", ends, vocabulary)
    outside = where & ((prompt < 0) | (prompt >= vocabulary))
    prompt = jnp.where(where & ~outside, prompt, 0)
    broken = jnp.any(outside, axis=1, keepdims=True)
    key = jax.random.key(0) if settings.sampling.greedy else key
    pad = jnp.asarray(settings.pad_id, jnp.int32)
    plan, values = planned(readers, params, combine, settings.sampling, (ends, pad))
    job = Job(
        plan=plan,
        values=values,
        prompt=prompt,
        where=where,
        broken=broken if traced(broken) else None,
        keys=_row_keys(key, len(prompt)),
        caches=(None,) * len(readers) if caches is None else tuple(caches),
        total=total,
    )
    if job.fixed:
        return job
    extra = padded_length(prompt.shape[1] - 1) + 1 - prompt.shape[1]
    return dataclasses.replace(
        job,
        prompt=jnp.pad(prompt, ((0, 0), (extra, 0))),
        where=jnp.pad(where, ((0, 0), (extra, 0))),
    )


def padded_length(tokens: int) -> int:
    """A prompt's length, rounded up by a quarter at most (to 16 at least)."""
    grain = max(16, (1 << (tokens - 1).bit_length()) // 8) if tokens > 1 else 1
    return -(-tokens // grain) * grain


def _prompt(prompt: Any, where: Any) -> tuple[Array, Array]:
    """Shapes and types of the prompt and of what counts in it."""
    prompt = jnp.asarray(prompt)
    if prompt.ndim != 2 or 0 in prompt.shape:
        raise ValueError(
            f"prompt has shape {prompt.shape}; expected [b, t] with at least one row "
            "and one token (start an empty text with the tokenizer's first token)"
        )
    if not jnp.issubdtype(prompt.dtype, jnp.integer):
        raise TypeError(f"prompt has dtype {prompt.dtype}; expected integers")
    where = jnp.ones(prompt.shape, bool) if where is None else jnp.asarray(where)
    if where.shape != prompt.shape or where.dtype != jnp.bool_:
        raise ValueError(
            f"where has shape {where.shape} and dtype {where.dtype}; expected booleans "
            f"of shape {prompt.shape}"
        )
    if not isinstance(where, jax.core.Tracer) and not np.all(np.asarray(where)[:, -1]):
        rows = np.flatnonzero(~np.asarray(where)[:, -1]).tolist()
        raise ValueError(
            f"where ends with False in rows {rows}; pad prompts on the left, and give "
            "every row a token"
        )
    return prompt, where


def _vocabulary(readers: Sequence[Reader], combine: Combine | None) -> int:
    """How many tokens the text may be of; the models must agree on them."""
    sizes = [reader.vocabulary for reader in readers]
    if len(set(sizes)) > 1 and not getattr(combine, "pad_vocab", False):
        raise ValueError(
            f"the models have vocabularies of {sizes} tokens; they must share one "
            "tokenizer (combine.pad_vocab = True takes missing tokens for impossible)"
        )
    if len(sizes) > 1 and combine is None:
        raise ValueError(
            f"there are {len(sizes)} models and no combine, which makes one row of "
            "logits out of theirs; give for instance kljax.decoding.Fusion()"
        )
    return max(sizes)


def _row_keys(key: Any, rows: int) -> Array:
    """One key per row."""
    if key is None:
        raise ValueError(
            "key is None; give a jax.random.key, or Sampling(temperature=0) for the "
            "likeliest tokens"
        )
    if not jnp.issubdtype(key.dtype, jax.dtypes.prng_key) or key.shape not in (
        (),
        (rows,),
    ):
        raise ValueError(
            f"key has shape {key.shape} and dtype {key.dtype}; expected one typed key, "
            f"or one for each of {rows} rows"
        )
    if key.shape == (rows,):
        return key
    return jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.arange(rows))
