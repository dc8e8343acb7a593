"""What decoding asks of a model, an empty cache and a step, and what it finds out.

Any model that has these two decodes through the same loop: a language model, an
encoder-decoder, one that reads pictures or sounds. What is read before the text (an
encoder's output for cross-attention, embeddings of a picture, an earlier text) is in
the cache that the loop starts from.
"""

import dataclasses
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp

from kljax.arguments import concrete
from kljax.models.language.stacking import unstack_layers
from kljax.typing import Array, PyTree

__all__ = ["Combine", "Decoder", "Model", "Reader", "opened"]


@runtime_checkable
class Decoder(Protocol):
    """A model that reads on from what it has read; it hashes.

    `PureTransformer` is one. A cache is a `kljax.models.language.cache.Cache` or has of
    it `slots` and `grow`, for `speculate` also `cursor`, `keep` and `packed`, and
    `limit` and `next_position` where the model has a context that must not be left.
    """

    def init_cache(self, batch: int, slots: int, dtype: Any) -> Any:
        """An empty cache for so many rows and inputs."""
        ...

    def step(
        self, params: PyTree, inputs: Array, cache: Any, *, where: Array | None = None
    ) -> tuple[Array, Any]:
        """Logits `[b, t, v]` behind every input, and the cache with the block in it.

        `inputs` are ids `[b, t]` (the loop's own) or embeddings `[b, t, d]`; `where`
        says which of them count, None: all.
        """
        ...


Model = tuple[Decoder, PyTree]
"""A decoder and its parameters."""
Combine = Callable[[tuple[Array, ...]], tuple[Array, dict[str, Array]]]
"""The models' logits, each `[b, v]`, to one `[b, v]` and diagnostics `[b, ...]`."""


@dataclasses.dataclass(frozen=True)
class Reader:
    """A decoder, how many tokens it knows, and the type of its cache."""

    decoder: Decoder
    vocabulary: int
    dtype: Any

    def empty(self, batch: int, slots: int) -> Any:
        """An empty cache."""
        return self.decoder.init_cache(batch, slots, self.dtype)

    def read(
        self, params: PyTree, tokens: Array, cache: Any, where: Array | None = None
    ) -> tuple[Array, Any]:
        """A step on ids.

        Ids above the model's own vocabulary are read as its last one. A pad token may
        be any number, also below 0.
        """
        ids = jnp.clip(tokens, 0, self.vocabulary - 1)
        return self.decoder.step(params, ids, cache, where=where)


@partial(jax.jit, static_argnames="decoder")
def _step(decoder: Decoder, params: PyTree, cache: Any, tokens: Array) -> Array:
    return decoder.step(params, tokens, cache, where=tokens == 0)[0]


def opened(
    models: Sequence[Model],
    caches: Sequence[Any] | None,
    prompt: Array,
    total: int,
    dtype: Any,
) -> tuple[tuple[Reader, ...], tuple[PyTree, ...]]:
    """The models as readers, and their parameters as the loop takes them.

    A step that is traced, not run, says how many tokens a model knows.

    Raises:
      TypeError: a model that is no pair of a decoder and its parameters.
      ValueError: no models, caches of another number, no room in a model's context.
    """
    if caches is not None and len(caches) != len(models):
        raise ValueError(
            f"caches has {len(caches)} entries for {len(models)} models; expected one "
            "per model, None where a model starts empty"
        )
    readers, every = [], []
    for number, model in enumerate(models):
        decoder, params = _pair(number, model)
        kind = _head_dtype(params) if dtype is None else dtype
        cache, rows = (caches or [None] * len(models))[number], len(prompt)
        if cache is None:
            cache, rows = jax.eval_shape(partial(decoder.init_cache, 1, 1, kind)), 1
        _check_room(number, cache, prompt.shape[1], total)
        params = _listed(params)
        block = jax.ShapeDtypeStruct((rows, 1), jnp.int32)
        logits = _step.eval_shape(decoder, params, cache, block)
        readers.append(Reader(decoder, logits.shape[-1], jnp.dtype(kind)))
        every.append(params)
    if not readers:
        raise ValueError("models is empty; expected pairs (decoder, params)")
    return tuple(readers), tuple(every)


def _pair(number: int, model: Any) -> Model:
    if not isinstance(model, tuple | list) or len(model) != 2:
        raise TypeError(
            f"model {number} is a {type(model).__name__}; expected a pair (decoder, "
            "params), and models a list of these"
        )
    decoder, params = model
    for name in ("init_cache", "step"):
        if not callable(getattr(decoder, name, None)):
            raise TypeError(
                f"model {number} is a {type(decoder).__name__} without {name}; expected"
                " a decoder, as kljax.models.language.transformer.transformer makes it"
            )
    return decoder, params


def _check_room(number: int, cache: Any, tokens: int, total: int) -> None:
    """Whether what was read, the prompt and the new text fit the context."""
    limit = getattr(cache, "limit", None)
    read = getattr(cache, "next_position", None)
    if isinstance(read, jax.Array) and concrete(read) is not None:
        tokens += int(jnp.max(read))
    if limit is not None and tokens + total > limit:
        raise ValueError(
            f"prompt has {tokens} tokens and max_new_tokens is {total}; model {number} "
            f"has a context of {limit}, so shorten either"
        )


def _listed(params: PyTree) -> PyTree:
    """Layers as a list: a loop would cut them out of a stack at every step."""
    layers = params.get("layers") if isinstance(params, dict) else None
    stacked = isinstance(layers, dict) and "stacked" in layers
    return unstack_layers(params) if stacked else params


def _head_dtype(params: PyTree) -> Any:
    """What the model computes in."""
    head = params.get("head") if isinstance(params, dict) else None
    if isinstance(head, dict) and "kernel" in head:
        return head["kernel"].dtype
    return jnp.result_type(*jax.tree.leaves(params))
