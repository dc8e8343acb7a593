"""Generation with a static cache: all of it at once, or in chunks as it is made.

Caches come in buckets (256, 512, 1024, ... slots): a step reads the cache over its full
length, so a short text should not pay for a long one. Prompts are padded to a few
lengths. So programs are compiled once per batch size, bucket and length of chunk.
Inside a program of the caller's, which is of one size anyway, nothing is padded: a
cache has at most as many slots as there are tokens.
"""

import sys
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from kljax.arguments import whole
from kljax.decoding.decoders import Model
from kljax.decoding.job import Job, checked
from kljax.decoding.lockstep import Block, advance, filled, grow, joined
from kljax.decoding.settings import Decoding
from kljax.typing import Array, ArrayLike, Bool, Int, Key

__all__ = ["Generation", "bucket", "generate", "stream"]

Generation = Block
SMALLEST = 256
ROOM = 64
"""Tokens that a bucket must have room for when it is entered."""


def bucket(tokens: int) -> int:
    """The slots of a cache for so many tokens: 256, 512, 1024, ...

    Example:
      >>> [bucket(n) for n in (1, 256, 257)]
      [256, 256, 512]
    """
    return max(SMALLEST, 1 << (tokens - 1).bit_length())


def generate(
    models: Sequence[Model],
    prompt: Int[ArrayLike, "b t"],
    settings: Decoding,
    *,
    where: Bool[ArrayLike, "b t"] | None = None,
    key: Key[Array, "*k"] | None = None,
    caches: Sequence[Any] | None = None,
) -> Generation:
    """Continues every row of the prompt.

    Token by token: `x_n ~ sample(combine(logits of all models at x_1 .. x_{n-1}))`.
    May stand inside `jax.jit`.

    Args:
      models: pairs of a decoder and its parameters, from `transformer` or
        `from_pretrained` (in either layout of the layers), or anything with
        `init_cache` and `step`: `kljax.decoding.decoders.Decoder`. All read the same
        tokens; for fusion the large model, the small base, the experts.
      prompt: token ids, rows of different lengths padded on the left.
      settings: how much, from which law, and where it ends.
      where: which tokens of the prompt count; None: all. The last of a row must. The
        others may hold anything.
      key: one random key, or one per row; None if the sampling is greedy. From one
        key rows get keys of their own, so that a row does not depend on the others.
      caches: what every model has read before the prompt (an encoder's output as
        `memory`, embeddings by `step`, an earlier text), None for a model that starts
        empty; not changed. All slots of such a cache count as taken.

    Returns:
      `tokens` and `log_probabilities` `[b, max_new_tokens]`, `lengths` `[b]`,
      `diagnostics`, each `[b, max_new_tokens, ...]`. A row whose traced prompt holds an
      id outside the vocabulary is pad tokens with log-probabilities NaN; one whose
      logits hold a NaN or +inf ends there with a token of -1, as in `Block`.

    Raises:
      TypeError: a model that is no decoder, or no integers for tokens.
      ValueError: an empty prompt, a prompt longer than a model's context, a row that
        ends with padding, prompt or stop tokens outside the vocabulary, differing
        vocabularies, several models without `combine`, no key.

    Example:
      >>> from kljax.models.language.transformer import TransformerConfig, transformer
      >>> config = TransformerConfig(vocab_size=97, width=32, depth=1, heads=4)
      >>> apply, initial = transformer(config)
      >>> model = apply, initial(jax.random.key(0))
      >>> prompt, key = jnp.array([[5, 2, 3]]), jax.random.key(1)
      >>> text = generate([model], prompt, Decoding(max_new_tokens=4), key=key)
      >>> text.tokens.shape, text.lengths.tolist()
      ((1, 4), [4])
    """
    job = checked(models, prompt, settings, where, key, caches)
    return joined(list(_blocks(job, job.total)), job.total, job.values.pad_id)


def stream(
    models: Sequence[Model],
    prompt: Int[ArrayLike, "b t"],
    settings: Decoding,
    *,
    chunk: int = 8,
    where: Bool[ArrayLike, "b t"] | None = None,
    key: Key[Array, "*k"] | None = None,
    caches: Sequence[Any] | None = None,
) -> Iterator[Generation]:
    """`generate`, a few tokens at a time; the same tokens.

    Args:
      models, prompt, settings, where, key, caches: as for `generate`.
      chunk: tokens per call of the program, at least 1; a call costs less than a
        millisecond.

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
      >>> key = jax.random.key(0)
      >>> settings = Decoding(max_new_tokens=9)
      >>> models, prompt = [(apply, initial(key))], jnp.array([[5, 2, 3]])
      >>> parts = stream(models, prompt, settings, chunk=4, key=key)
      >>> [part.tokens.shape for part in parts]
      [(1, 4), (1, 4), (1, 1)]
    """
    whole("chunk", chunk)
    return _blocks(checked(models, prompt, settings, where, key, caches), chunk)


def _blocks(job: Job, chunk: int) -> Iterator[Block]:
    """Blocks of up to `chunk` tokens until all rows stop or all are made."""
    size = -(-min(chunk, job.total) // 16) * 16 if chunk >= 16 else chunk
    read, made = job.read, 0
    most = read + job.total if job.fixed else sys.maxsize
    slots = min(bucket(read + min(job.total, ROOM)), most)
    state = job.begun(slots)
    while made < job.total:
        left = job.total - made
        needed = min(bucket(read + made + min(left, chunk, ROOM)), most)
        if needed > slots:
            slots, state = needed, grow(state, needed)
        limit = min(chunk, left, slots - read - made)
        count = jnp.asarray(limit, jnp.int32)
        state, block = advance(job.plan, job.values, state, count, size=size)
        yield job.marked(
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
