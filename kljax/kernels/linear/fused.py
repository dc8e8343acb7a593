"""Losses of linear heads over chunks of tokens: no ``[tokens, vocab]`` array, ever.

A chunk of C tokens makes its logits (float32, whatever the heads are) and its values;
only what leaves the function is kept. `weighted_sum` forms the gradient together with
the value: three products of the model's size and one of the target's, and its residuals
are the gradients themselves. Over a mesh it runs on every device's share, as
`Plan.layout` says.

A tree with holes (``None``) is a part of such a tree: the tokens' share of it, or the
operands that are differentiated.
"""

import operator
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.custom_derivatives import SymbolicZero

from kljax.kernels.linear.operands import Operands, Side
from kljax.kernels.linear.products import dots, finish, possible, slope_dots
from kljax.kernels.linear.rows import token_values
from kljax.kernels.logits import own_divergence, row_divergence
from kljax.kernels.weights import settled, slope_in_weight, weigh
from kljax.typing import Array, Float


class Pair(NamedTuple):
    """Something of each side that has a head; None otherwise."""

    p: Any
    q: Any

    @classmethod
    def of(cls, operands: Operands) -> "Pair":
        """The sides with heads."""
        return cls(operands.p if isinstance(operands.p, Side) else None, operands.q)

    def each(self, function: Callable, *others: "Pair") -> "Pair":
        """`function` of both; None where any of its arguments is."""
        rows = zip(self, *others)
        found = (None if any(x is None for x in r) else function(*r) for r in rows)
        return Pair(*found)

    def put(self, operands: Operands, field: str) -> Operands:
        """The operands with these as a field of their sides."""
        p, q = operands.p, operands.q._replace(**{field: self.q})
        if isinstance(p, Side):
            p = p._replace(**{field: self.p})
        return operands._replace(p=p, q=q)


def keep(mask: Any, tree: Any) -> Any:
    """The tree with holes where a mask of its shape is False."""
    return jax.tree.map(lambda kept, x: x if kept else None, mask, tree)


def combine(first: Any, *others: Any) -> Any:
    """Trees of one shape laid over each other: the last that is no hole counts."""

    def last(*found):
        there = [x for x in found if x is not None]
        return there[-1] if there else None

    return jax.tree.map(last, first, *others, is_leaf=lambda x: x is None)


def token_wise(operands: Operands) -> Operands:
    """Which operands have the tokens as their first axis."""
    mask = jax.tree.map(lambda _: False, operands)
    mask = Pair.of(mask).each(lambda _: True).put(mask, "states")
    if not isinstance(operands.p, Side):
        mask = mask._replace(p=jax.tree.map(lambda _: True, operands.p))
    labelled = None if operands.labels is None else True
    return mask._replace(weights=True, labels=labelled)


def accumulator(operands: Operands) -> Any:
    """The type of sums over tokens: float32, or the widest of the operands'."""
    leaves = jax.tree.leaves(operands)
    floats = (x for x in leaves if jnp.issubdtype(x.dtype, jnp.floating))
    return jnp.result_type(jnp.float32, *floats)


def part(mask: Any, tree: Any) -> tuple[Any, Any]:
    """The tree in two: what the mask keeps, and the rest."""
    return keep(mask, tree), keep(jax.tree.map(operator.not_, mask), tree)


class Plan(NamedTuple):
    """What is fixed when a loss is traced."""

    structure: Any
    """The divergence without its leaves; None if the loss has none."""
    chunk: int
    block: int
    """Tokens whose logits are worked on at a time on a CPU; divides `chunk`."""
    masked: bool
    """Whether weights may be 0: what such tokens hold may be anything."""
    layout: Any = None
    """How the operands lie on a mesh; None on one device."""
    skipping: bool = True
    """Whether such tokens are put last, and their chunks left out."""
    axis: str | None = None
    """Inside `jax.shard_map`, the mesh's axis over which outcomes are split."""


def planned(
    structure: Any, operands: Operands, chunk: int | None, layout: Any = None
) -> tuple[Plan, Operands]:
    """How to run a loss, and its operands as that wants them.

    Weights become as wide as sums are, ones if there are none. Blocks stay in a core's
    cache: at least 8 rows, about 2^19 logits; the chunk becomes a multiple of them,
    larger by less than one token per block. Over a mesh, tokens of weight 0 and
    impossible outcomes are added until it divides both, and a chunk is one block, which
    exchanges once.
    """
    masked, count = operands.weights is not None, operands.q.states.shape[0]
    w = wide_weights(operands.weights, (count,), accumulator(operands))
    operands = operands._replace(weights=w)
    tokens, vocab = count, operands.q.head.shape[1]
    if layout is not None:
        operands = layout.padded(operands)
        tokens = operands.weights.shape[0] // layout.size(layout.tokens)
        vocab = operands.q.head.shape[1] // layout.size(layout.vocab)
    chunk = default_chunk(tokens, vocab) if chunk is None else min(chunk, tokens)
    chunk = max(chunk, 1)
    blocks = 1 if layout else -(-chunk // max(8, 2**19 // vocab))
    block = -(-chunk // blocks)
    return Plan(structure, block * blocks, block, masked, layout), operands


def wide_weights(weights: Array | None, shape: tuple[int, ...], dtype: Any) -> Array:
    """In `dtype` or wider; ones for None."""
    w = jnp.ones(shape, dtype) if weights is None else weights
    return w.astype(jnp.promote_types(w.dtype, dtype))


def default_chunk(tokens: int, vocab: int) -> int:
    """Tokens per chunk, so that three float32 arrays of its logits fill a budget.

    The largest power of two within 128 MiB (CPU) or 2 GiB (elsewhere), at least 128 or
    1024, and at most the number of tokens.
    """
    cpu = jax.default_backend() == "cpu"
    budget, least = (2**27, 128) if cpu else (2**31, 1024)
    fits = max(budget // (12 * vocab), 1)
    return max(min(max(1 << (fits.bit_length() - 1), least), tokens), 1)


def chunk_values(plan: Plan, raw: Pair, local: Operands, rows: Callable) -> Array:
    """The chunk's values from its products; `rows` is the divergence of logits."""

    def logits_of(z: Array, side: Side) -> Array:
        z = settled(local.weights, z) if plan.masked else z
        plain = side.bias is None and side.soft_cap is None
        return z if plain else finish(z, side.bias, side.soft_cap)

    logits = raw.each(logits_of, Pair.of(local))
    divergence = None
    if plan.structure is not None:
        divergence = plan.structure.unflatten(local.parameters)
    return token_values(divergence, *logits, local, rows)


def in_blocks(plan: Plan, function: Callable, start: Any, rows: Any) -> Any:
    """``function(start, rows)`` on all rows at once, or on a CPU block by block.

    `function` returns what it adds to `start`, and results by row.
    """

    def blocked(start, rows):
        split = jax.tree.map(lambda x: x.reshape(-1, plan.block, *x.shape[1:]), rows)
        # A block keeps its inputs alone, which are there anyway.
        step = jax.checkpoint(function, prevent_cse=False)
        total, found = lax.scan(step, start, split)
        return total, jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), found)

    if plan.block == plan.chunk:
        return function(start, rows)
    return lax.platform_dependent(start, rows, cpu=blocked, default=function)


def _head(side: Side) -> Array:
    return side.head if side.bias is None else possible(side.head, side.bias)


def chunked(
    plan: Plan, operands: Operands
) -> tuple[Operands, Operands, Callable[[Array], Array]]:
    """Per-token operands as ``[chunks, C, ...]``, the others, and the way back.

    The last chunk is filled up with tokens of weight 0; the chunk is never shrunk.
    """
    heads = Pair.of(operands).each(_head)
    operands, weights = heads.put(operands, "head"), operands.weights
    n, c = weights.shape[0], plan.chunk
    packed = plan.masked and plan.skipping and n > c
    order = jnp.argsort(weights == 0, stable=True) if packed else None

    def split(x: Array) -> Array:
        x = x if order is None else x[order]
        x = jnp.pad(x, [(0, -n % c)] + [(0, 0)] * (x.ndim - 1))
        return x.reshape(-1, c, *x.shape[1:])

    def join(x: Array) -> Array:
        flat = x.reshape(-1, *x.shape[2:])[:n]
        return flat if order is None else flat[jnp.argsort(order)]

    tokens, shared = part(token_wise(operands), operands)
    return jax.tree.map(split, tokens), shared, join


def scan(plan: Plan, live: Callable, start: Any, chunks: Operands) -> Any:
    """`lax.scan` that leaves out the chunks in which no token has weight."""

    def dead(carry, chunk):
        rows = jax.eval_shape(live, carry, chunk)[1]
        return carry, jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), rows)

    def body(carry, chunk):
        some = jnp.any(chunk.weights != 0)
        return lax.cond(some, live, dead, carry, chunk)

    return lax.scan(body if plan.masked and plan.skipping else live, start, chunks)


def settled_states(plan: Plan, chunk: Operands) -> tuple[Operands, Pair]:
    """The chunk without hidden states; these, finite where the weight is 0."""
    states = Pair.of(chunk).each(lambda side: side.states)
    if plan.masked:
        states = states.each(lambda x: settled(chunk.weights, x))
    return Pair(None, None).put(chunk, "states"), states


def wanted_of(operands: Operands, tangents: Operands) -> Operands:
    """Which operands are differentiated."""

    def moves(x, tangent):
        floating = jnp.issubdtype(x.dtype, jnp.floating)
        return floating and not isinstance(tangent, SymbolicZero)

    return jax.tree.map(moves, operands, tangents)


def unskipped(plan: Plan, wanted: Operands) -> Plan:
    """The derivative in the weight of a masked token is its value: no skipping then."""
    return plan._replace(skipping=False) if wanted.weights else plan


# ------------------------------------------------- gradient in the forward pass
@partial(jax.custom_jvp, nondiff_argnums=(0,))
def weighted_sum(plan: Plan, operands: Operands) -> Float[Array, ""]:
    """``Σ w · value`` over the tokens; 0 if there are none.

    Without differentiation no gradient is formed; with it, the products of operands
    that are not differentiated are left out.
    """
    return _sum(plan, jax.tree.map(lambda _: False, operands), operands)[0]


@partial(weighted_sum.defjvp, symbolic_zeros=True)
def _weighted_sum_jvp(plan, primals, tangents):
    wanted = wanted_of(primals[0], tangents[0])
    total, gradient = _sum(plan, wanted, primals[0])
    # Linear in the tangents: the gradient is all that a backward pass has to keep.
    tangent = jnp.zeros_like(total)
    changes = jax.tree.leaves(keep(wanted, tangents[0]))
    for slope, change in zip(jax.tree.leaves(gradient), changes, strict=True):
        tangent += jnp.sum(slope.astype(total.dtype) * change.astype(total.dtype))
    return total, tangent


@partial(jax.jit, static_argnums=(0, 1))
def _sum(plan: Plan, wanted: Operands, operands: Operands) -> tuple[Array, Operands]:
    if plan.layout is None:
        return sum_and_gradient(plan, wanted, operands)
    return plan.layout.sum(sum_and_gradient, plan, wanted, operands)


def sum_and_gradient(
    plan: Plan, wanted: Operands, operands: Operands
) -> tuple[Float[Array, ""], Operands]:
    """`weighted_sum` and its gradient, with holes where `wanted` is False.

    Over an axis of a mesh, this device's part of the gradient: those parts sum to it.
    """
    plan, dtype = unskipped(plan, wanted), accumulator(operands)
    rows = row_divergence
    if plan.axis is not None:
        rows = partial(own_divergence, axis=plan.axis)
    by_token = token_wise(operands)
    chunks, shared, join = chunked(plan, operands)
    of_states = Pair.of(wanted).each(lambda side: side.states)
    of_head = Pair.of(wanted).each(lambda side: side.head)
    sloped = of_states.each(lambda states, head: states or head, of_head)
    direct = sloped.each(lambda _: False).put(wanted, "states")
    direct = sloped.each(lambda _: False).put(direct, "head")._replace(weights=False)
    zeros = partial(jax.tree.map, lambda x: jnp.zeros(x.shape, dtype))

    def block(summed, rows_of):
        """Values and the gradient in what comes after the products."""
        raw, tokens = rows_of
        local = combine(shared, tokens)

        def values_of(moved_raw, moved):
            return chunk_values(
                plan, combine(raw, moved_raw), combine(local, moved), rows
            )

        # Wide, so that what a narrow bias gets from each block is not rounded.
        wide = jax.tree.map(widened, keep(direct, local))
        values, pull = jax.vjp(values_of, keep(sloped, raw), wide)
        slopes, found = pull(tokens.weights.astype(values.dtype))
        found, added = part(by_token, found)
        added = jax.tree.map(lambda x, more: x + more.astype(dtype), summed, added)
        return added, (values, slopes, found)

    # Should this be differentiated again, a chunk keeps its inputs alone.
    @partial(jax.checkpoint, prevent_cse=False)
    def live(carry, chunk):
        total, heads, summed = carry
        chunk, states = settled_states(plan, chunk)
        head = Pair.of(shared).each(lambda side: side.head)
        raw = Pair(*dots(states, head))
        summed, out = in_blocks(plan, block, summed, (raw, chunk))
        values, slopes, found = out

        in_states, in_heads = slope_dots(slopes, states, head, of_states, of_head)
        found = Pair(*in_states).put(found, "states")
        heads = jax.tree.map(jnp.add, heads, Pair(*in_heads))
        if wanted.weights:
            found = found._replace(weights=slope_in_weight(chunk.weights, values))
        total += jnp.sum(weigh(chunk.weights, values))
        return (total, heads, summed), found

    heads = zeros(keep(of_head, Pair.of(shared).each(lambda side: side.head)))
    start = jnp.zeros((), dtype), heads, zeros(part(by_token, keep(direct, shared))[1])
    (total, heads, summed), found = scan(plan, live, start, chunks)
    return total, heads.put(combine(summed, jax.tree.map(join, found)), "head")


def widened(x: Array) -> Array:
    """In float32 or wider."""
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))
