"""Generation with a static cache: all of it at once, or in chunks as it is made.

Caches come in buckets (256, 512, 1024, ... slots): a step reads the cache over its full
length, so a short text should not pay for a long one. Prompts are padded to a few
lengths. So programs are compiled once per batch size, bucket and length of chunk.
"""

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from kljax.arguments import checked_ids, traced
from kljax.decoding.lockstep import (
    Block,
    Combine,
    Model,
    advance,
    begin,
    filled,
    grow,
    joined,
    traced_fields,
)
from kljax.decoding.sampling import Sampling
from kljax.models.language.configuration import TransformerConfig
from kljax.models.language.stacking import unstack_layers
from kljax.models.language.transformer import PureTransformer
from kljax.typing import Array, Bool, Int, Key, PyTree

__all__ = ["Generation", "bucket", "generate", "stream"]

Generation = Block
SMALLEST = 256
ROOM = 64
"""Tokens that a bucket must have room for when it is entered."""
PLAIN = Sampling()


def bucket(tokens: int) -> int:
    """The slots of a cache for so many tokens: 256, 512, 1024, ...

    Example:
      >>> [bucket(n) for n in (1, 256, 257)]
      [256, 256, 512]
    """
    return max(SMALLEST, 1 << (tokens - 1).bit_length())


def padded_length(tokens: int) -> int:
    """A prompt's length, rounded up by a quarter at most (to 16 at least)."""
    grain = max(16, (1 << (tokens - 1).bit_length()) // 8) if tokens > 1 else 1
    return -(-tokens // grain) * grain


@dataclasses.dataclass(frozen=True)
class Job:
    """The checked arguments of a generation."""

    applies: tuple[Any, ...]
    params: tuple[PyTree, ...]
    prompt: Array
    where: Array
    broken: Array | None
    """Rows whose traced prompt holds ids outside the vocabulary; None if it is known:
    then there are none."""
    keys: Array
    sampling: Sampling
    stop_tokens: Array
    pad_id: Array
    combine: Combine | None
    dtypes: tuple[Any, ...]
    total: int

    def blocks(self, chunk: int) -> Iterator[Block]:
        """Blocks of up to `chunk` tokens until all rows stop or `total` are made."""
        size = -(-min(chunk, self.total) // 16) * 16 if chunk >= 16 else chunk
        read, made = self.prompt.shape[1] - 1, 0
        sampling, traced = traced_fields(self.sampling)
        slots = bucket(read + min(self.total, ROOM))
        state = begin(
            self.applies,
            self.params,
            self.prompt,
            self.where,
            self.keys,
            slots=slots,
            dtypes=self.dtypes,
            track=not _is_one(self.sampling.repetition_penalty),
        )
        while made < self.total:
            left = self.total - made
            needed = bucket(read + made + min(left, chunk, ROOM))
            if needed > slots:
                slots, state = needed, grow(state, needed)
            limit = min(chunk, left, slots - read - made)
            state, block = advance(
                self.applies,
                self.combine,
                sampling,
                self.params,
                state,
                traced,
                self.stop_tokens,
                self.pad_id,
                jnp.asarray(limit, jnp.int32),
                size=size,
            )
            yield self.marked(
                Block(
                    filled(block.tokens, limit),
                    filled(block.log_probabilities, limit),
                    block.lengths,
                    {name: filled(x, limit) for name, x in block.diagnostics.items()},
                )
            )
            made += limit
            done = state.done
            if not isinstance(done, jax.core.Tracer) and bool(np.all(done)):
                return

    def marked(self, block: Block) -> Block:
        """No text in the rows that are broken."""
        if self.broken is None:
            return block
        return dataclasses.replace(
            block,
            tokens=jnp.where(self.broken, self.pad_id, block.tokens),
            log_probabilities=jnp.where(self.broken, jnp.nan, block.log_probabilities),
        )


def _is_one(value: Any) -> bool:
    return isinstance(value, int | float) and value == 1


def generate(
    apply: Model,
    params: PyTree,
    prompt: Int[Array, "b t"],
    *,
    max_new_tokens: int,
    where: Bool[Array, "b t"] | None = None,
    sampling: Sampling = PLAIN,
    key: Key[Array, "*k"] | None = None,
    stop_tokens: Sequence[int] = (),
    pad_id: int = 0,
    others: Sequence[tuple[Model, PyTree]] = (),
    combine: Combine | None = None,
    cache_dtype: Any = None,
) -> Generation:
    """Continues every row of the prompt.

    Token by token: `x_n ~ sample(combine(logits of all models at x_1 .. x_{n-1}))`.
    May stand inside `jax.jit` (with `max_new_tokens` static).

    Args:
      apply: the model, from `transformer` or `from_pretrained`.
      params: its parameters, in either layout of the layers.
      prompt: token ids, rows of different lengths padded on the left.
      max_new_tokens: how many tokens to make at most; with the prompt they must fit
        the context.
      where: which tokens of the prompt count; None: all. The last of a row must. The
        others may hold anything.
      sampling: temperature, filters and penalty.
      key: one random key, or one per row; None if the sampling is greedy. From one
        key rows get keys of their own, so that a row does not depend on the others.
      stop_tokens: a row ends with any of these, which is part of it.
      pad_id: what a row is filled with after its end.
      others: further models `(apply, params)` that read the same tokens.
      combine: turns the tuple of all models' logits, each `[b, v]`, into one
        `[b, v]` and a dict of diagnostics `[b, ...]`; hashable.
      cache_dtype: of keys and values; None: that of each model's head.

    Returns:
      `tokens` and `log_probabilities` `[b, max_new_tokens]`, `lengths` `[b]`,
      `diagnostics`, each `[b, max_new_tokens, ...]`. A row whose traced prompt holds an
      id outside the vocabulary is pad tokens with log-probabilities NaN.

    Raises:
      TypeError: a model without a config, or no integers for tokens.
      ValueError: an empty prompt, a prompt longer than a model's context, a row that
        ends with padding, prompt or stop tokens outside the vocabulary, differing
        vocabularies, several models without `combine`, no key.

    Example:
      >>> from kljax.models.language.transformer import TransformerConfig, transformer
      >>> config = TransformerConfig(vocab_size=97, width=32, depth=1, heads=4)
      >>> apply, initial = transformer(config)
      >>> params = initial(jax.random.key(0))
      >>> prompt, key = jnp.array([[5, 2, 3]]), jax.random.key(1)
      >>> text = generate(apply, params, prompt, max_new_tokens=4, key=key)
      >>> text.tokens.shape, text.lengths.tolist()
      ((1, 4), [4])
    """
    job = checked(
        [(apply, params), *others],
        prompt,
        where,
        max_new_tokens,
        sampling,
        key,
        stop_tokens,
        pad_id,
        combine,
        cache_dtype,
    )
    return joined(list(job.blocks(max_new_tokens)), max_new_tokens, job.pad_id)


def stream(
    apply: Model,
    params: PyTree,
    prompt: Int[Array, "b t"],
    *,
    max_new_tokens: int,
    chunk: int = 8,
    where: Bool[Array, "b t"] | None = None,
    sampling: Sampling = PLAIN,
    key: Key[Array, "*k"] | None = None,
    stop_tokens: Sequence[int] = (),
    pad_id: int = 0,
    others: Sequence[tuple[Model, PyTree]] = (),
    combine: Combine | None = None,
    cache_dtype: Any = None,
) -> Iterator[Generation]:
    """`generate`, a few tokens at a time; the same tokens.

    Args:
      chunk: tokens per call of the program, at least 1; a call costs less than a
        millisecond. The other arguments are those of `generate`.

    Yields:
      One `Generation` per chunk; `lengths` counts the tokens in the chunk. Ends when
      all rows have stopped.

    Raises:
      ValueError: as `generate`, and for `chunk` below 1; at the call, not at the first
        chunk.

    Example:
      >>> from kljax.models.language.transformer import TransformerConfig, transformer
      >>> config = TransformerConfig(vocab_size=97, width=32, depth=1, heads=4)
      >>> apply, initial = transformer(config)
      >>> prompt, key = jnp.array([[5, 2, 3]]), jax.random.key(0)
      >>> model = apply, initial(key)
      >>> parts = stream(*model, prompt, max_new_tokens=9, chunk=4, key=key)
      >>> [part.tokens.shape for part in parts]
      [(1, 4), (1, 4), (1, 1)]
    """
    if chunk < 1:
        raise ValueError(f"chunk is {chunk}; expected 1 or more tokens")
    job = checked(
        [(apply, params), *others],
        prompt,
        where,
        max_new_tokens,
        sampling,
        key,
        stop_tokens,
        pad_id,
        combine,
        cache_dtype,
    )
    return job.blocks(chunk)


def checked(
    models: Sequence[tuple[Model, PyTree]],
    prompt: Any,
    where: Any,
    total: int,
    sampling: Sampling,
    key: Any,
    stop_tokens: Sequence[int],
    pad_id: int,
    combine: Combine | None,
    cache_dtype: Any,
) -> Job:
    """What can be said about the arguments before anything runs."""
    ids, prompt = prompt, jnp.asarray(prompt)
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
    if total < 1:
        raise ValueError(f"max_new_tokens is {total}; expected 1 or more")
    vocabulary = _check_models(models, prompt.shape[1], total, combine)
    prompt = checked_ids("prompt", ids, vocabulary, where)
    ends = np.asarray(tuple(stop_tokens), np.int64)
    ends = checked_ids("stop_tokens", ends, vocabulary)
    outside = where & ((prompt < 0) | (prompt >= vocabulary))
    prompt = jnp.where(where & ~outside, prompt, 0)
    broken = jnp.any(outside, axis=1, keepdims=True)
    if sampling.greedy:
        key = jax.random.key(0)
    extra = padded_length(prompt.shape[1] - 1) + 1 - prompt.shape[1]
    return Job(
        applies=tuple(apply for apply, _ in models),
        params=tuple(
            unstack_layers(params) if isinstance(apply, PureTransformer) else params
            for apply, params in models
        ),
        prompt=jnp.pad(prompt, ((0, 0), (extra, 0))),
        where=jnp.pad(where, ((0, 0), (extra, 0))),
        broken=broken if traced(broken) else None,
        keys=_row_keys(key, len(prompt)),
        sampling=sampling,
        stop_tokens=ends,
        pad_id=jnp.asarray(pad_id, jnp.int32),
        combine=combine,
        dtypes=tuple(
            _head_dtype(params) if cache_dtype is None else cache_dtype
            for _, params in models
        ),
        total=total,
    )


def _check_models(
    models: Sequence[tuple[Model, PyTree]],
    tokens: int,
    total: int,
    combine: Combine | None,
) -> int:
    """Each model has a config, room for the text, and the vocabulary returned."""
    sizes = []
    for number, (apply, _) in enumerate(models):
        config = getattr(apply, "config", None)
        if not isinstance(config, TransformerConfig):
            raise TypeError(
                f"model {number} is a {type(apply).__name__} without a config; "
                "expected the function that "
                "kljax.models.language.transformer.transformer returns"
            )
        sizes.append(config.vocab_size)
        length = config.max_length
        if tokens + total > length:
            raise ValueError(
                f"prompt has {tokens} tokens and max_new_tokens is {total}; model "
                f"{number} has a context of {length}, so shorten either"
            )
    if len(set(sizes)) > 1 and not getattr(combine, "pad_vocab", False):
        raise ValueError(
            f"the models have vocabularies of {sizes} tokens; they must share one "
            "tokenizer (combine.pad_vocab = True takes missing tokens for impossible)"
        )
    if len(models) > 1 and combine is None:
        raise ValueError(
            f"there are {len(models)} models and no combine, which makes one row of "
            "logits out of theirs; give for instance kljax.decoding.Fusion()"
        )
    return max(sizes)


def _head_dtype(params: PyTree) -> Any:
    """What the model computes in."""
    if "head" in params:
        return params["head"]["kernel"].dtype
    return jnp.result_type(*jax.tree.leaves(params))


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
