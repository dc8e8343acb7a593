"""Several models reading the same tokens: the two jitted programs of generation.

`begin` reads all of the prompt but its last token; `advance` makes a block of tokens in
one `while_loop`, the first of them from the prompt's last. So no token is chosen
anywhere but in `advance`, and a prompt costs no logits: the compiler leaves out what
nobody asks for.
"""

import dataclasses
from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from kljax.decoding.decoders import Combine, Reader
from kljax.decoding.sampling import Sampling, sample
from kljax.typing import Array, Bool, Float, Int, Key, PyTree

__all__ = ["Block", "Plan", "Readers", "Values", "advance", "begin", "grow", "planned"]


@dataclasses.dataclass(frozen=True)
class Plan:
    """What the programs are compiled for; it hashes."""

    readers: tuple[Reader, ...]
    combine: Combine | None
    sampling: Sampling
    """With None in the place of what is an array."""


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Values:
    """What the programs are given.

    Attributes:
      params: of every model.
      sampling: its fields that are arrays.
      stop_tokens: a row ends with any of these.
      pad_id: what a row is filled with after its end.
    """

    params: tuple[PyTree, ...]
    sampling: dict[str, Any]
    stop_tokens: Int[Array, " k"]
    pad_id: Int[Array, ""]

    def sampled(self, plan: Plan) -> Sampling:
        """The plan's sampling with its arrays."""
        return dataclasses.replace(plan.sampling, **self.sampling)


def planned(
    readers: tuple[Reader, ...],
    params: tuple[PyTree, ...],
    combine: Combine | None,
    sampling: Sampling,
    ends: tuple[Array, Array],
) -> tuple[Plan, Values]:
    """What is compiled for and what is given; `ends` are stop tokens and the pad."""
    fields = {f.name: getattr(sampling, f.name) for f in dataclasses.fields(sampling)}
    arrays = {k: jnp.asarray(v) for k, v in fields.items() if hasattr(v, "dtype")}
    static = dataclasses.replace(sampling, **dict.fromkeys(arrays))
    return Plan(readers, combine, static), Values(params, arrays, *ends)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Readers:
    """What goes from one block to the next; donated, so that caches stay in place.

    Attributes:
      caches: one per model.
      token: the last token of every row, which no model has read yet.
      done: rows that have stopped.
      seen: which tokens a row has had, `[b, v]`; None where nobody asks.
      keys: one per row.
      made: how many tokens were made before.
    """

    caches: tuple[Any, ...]
    token: Int[Array, " b"]
    done: Bool[Array, " b"]
    seen: Bool[Array, "b v"] | None
    keys: Key[Array, " b"]
    made: Int[Array, ""]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Block:
    """Tokens of all rows.

    Attributes:
      tokens: what was chosen; the pad token after a row's end. A row whose logits hold
        a NaN or +inf ends there with -1.
      log_probabilities: of the tokens, in nats, under the law they were drawn from;
        0 after the end, NaN at a token of -1.
      lengths: tokens of every row, its stop token included.
      diagnostics: what `combine` returned for every token, 0 after all rows' end.
    """

    tokens: Int[Array, "b n"]
    log_probabilities: Float[Array, "b n"]
    lengths: Int[Array, " b"]
    diagnostics: dict[str, Float[Array, "b n *d"]]


@partial(jax.jit, static_argnames=("readers", "slots", "track"))
def begin(
    readers: tuple[Reader, ...],
    params: tuple[PyTree, ...],
    caches: tuple[Any, ...],
    prompt: Int[Array, "b t"],
    where: Bool[Array, "b t"],
    keys: Key[Array, " b"],
    *,
    slots: int,
    track: bool,
) -> Readers:
    """Reads the prompt, but for its last token.

    Args:
      readers: the models; params: their parameters.
      caches: what every model has read before, None for nothing.
      prompt: tokens, left padded.
      where: which of them count; the last of every row does.
      keys: one per row.
      slots: of the caches, at least `t` more than are taken.
      track: note which tokens a row has had.
    """
    b, t = prompt.shape
    begun = []
    for reader, values, given in zip(readers, params, caches, strict=True):
        # Only as many slots as there are tokens: attention reads them all.
        if given is None:
            cache = reader.empty(b, max(t - 1, 1))
        else:  # what goes on is donated, and the caller's own must not be
            cache = jax.tree.map(jnp.copy, given)
            cache = cache.grow(cache.slots + t - 1)
        if t > 1:
            _, cache = reader.read(values, prompt[:, :-1], cache, where[:, :-1])
        begun.append(cache.grow(slots))
    seen = None
    if track:
        rows = jnp.arange(b)[:, None]
        vocabulary = max(reader.vocabulary for reader in readers)
        seen = jnp.zeros((b, vocabulary), bool)
        seen = seen.at[rows, prompt].max(where)
    return Readers(
        caches=tuple(begun),
        token=prompt[:, -1].astype(jnp.int32),
        done=jnp.zeros(b, bool),
        seen=seen,
        keys=keys,
        made=jnp.zeros((), jnp.int32),
    )


@partial(jax.jit, static_argnames="slots")
def grow(state: Readers, slots: int) -> Readers:
    """The same with larger caches."""
    caches = tuple(cache.grow(slots) for cache in state.caches)
    return dataclasses.replace(state, caches=caches)


@partial(jax.jit, static_argnames=("plan", "size"), donate_argnames="state")
def advance(
    plan: Plan, values: Values, state: Readers, limit: Int[Array, ""], *, size: int
) -> tuple[Readers, Block]:
    """Makes up to `limit` tokens, fewer if all rows stop.

    Args:
      plan, values: what is compiled for, and what is given.
      state: from `begin` or from the block before; donated.
      limit: tokens to make, at most `size`.
      size: columns of the block.
    """
    sampling = values.sampled(plan)

    def step(state: Readers) -> tuple[Readers, tuple[Array, Array, dict]]:
        logits, caches = [], []
        for reader, params, cache in zip(
            plan.readers, values.params, state.caches, strict=True
        ):
            found, cache = reader.read(params, state.token[:, None], cache)
            logits.append(found[:, 0])
            caches.append(cache)
        fused, noted = plan.combine(tuple(logits)) if plan.combine else (logits[0], {})
        keys = jax.vmap(jax.random.fold_in, (0, None))(state.keys, state.made)
        token, log_p = sample(keys, fused, sampling, seen=state.seen)
        lost = ~state.done & (token < 0)  # a row without a law ends: no text is made up
        token = jnp.where(state.done, values.pad_id, token)
        log_p = jnp.where(state.done, 0.0, log_p)
        seen = state.seen
        if seen is not None:
            seen = seen.at[jnp.arange(len(token)), token].max(~state.done & ~lost)
        stopped = lost | jnp.any(token[:, None] == values.stop_tokens, axis=1)
        after = Readers(
            caches=tuple(caches),
            token=jnp.where(lost, values.pad_id, token),
            done=state.done | stopped,
            seen=seen,
            keys=state.keys,
            made=state.made + 1,
        )
        return after, (token, log_p, noted)

    def body(carry: tuple) -> tuple:
        i, state, out, lengths = carry
        lengths = lengths + ~state.done
        state, column = step(state)
        out = jax.tree.map(
            lambda whole, part: jax.lax.dynamic_update_slice_in_dim(
                whole, part[:, None].astype(whole.dtype), i, 1
            ),
            out,
            column,
        )
        return i + 1, state, out, lengths

    shapes = jax.eval_shape(step, state)[1]
    rows = len(state.token)
    for name, leaf in shapes[2].items():
        if leaf.shape[:1] != (rows,):
            raise ValueError(
                f"combine returned {name!r} of shape {leaf.shape}; a diagnostic has a "
                f"first axis of {rows} rows"
            )
    empty = jax.tree.map(
        lambda leaf: jnp.zeros((rows, size, *leaf.shape[1:]), leaf.dtype), shapes
    )
    empty = (jnp.full((rows, size), values.pad_id, jnp.int32), *empty[1:])
    carry = (jnp.zeros((), jnp.int32), state, empty, jnp.zeros(rows, jnp.int32))
    _, state, out, lengths = jax.lax.while_loop(
        lambda carry: (carry[0] < limit) & ~jnp.all(carry[1].done), body, carry
    )
    return state, Block(out[0], out[1], lengths, out[2])


def joined(blocks: Sequence[Block], columns: int, pad_id: Array) -> Block:
    """Blocks one after the other, filled up to so many columns."""
    lengths = sum((block.lengths for block in blocks[1:]), start=blocks[0].lengths)
    made = [(b.tokens, b.log_probabilities, b.diagnostics) for b in blocks]
    whole = jax.tree.map(lambda *parts: jnp.concatenate(parts, axis=1), *made)
    tokens, log_probabilities, diagnostics = jax.tree.map(
        lambda leaf: filled(leaf, columns), whole
    )
    tokens = jnp.where(jnp.arange(columns) < whole[0].shape[1], tokens, pad_id)
    return Block(tokens, log_probabilities, lengths, diagnostics)


def filled(leaf: Array, columns: int) -> Array:
    """Zeros behind, or the first columns alone."""
    more = max(columns - leaf.shape[1], 0)
    return jnp.pad(leaf, ((0, 0), (0, more)) + ((0, 0),) * (leaf.ndim - 2))[:, :columns]
