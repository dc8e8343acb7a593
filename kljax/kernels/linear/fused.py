"""Losses of linear heads over chunks of tokens: no ``[tokens, vocab]`` array, ever.

A chunk of C tokens makes its logits (float32, whatever the heads are) and its values;
only what leaves the function is kept. There are two schemes. `weighted_sum` forms the
gradient together with the value: three products of the model's size and one of the
target's, and its residuals are the gradients themselves. `weighted_rows` makes the
logits a second time in the backward pass, and so serves cotangents that are not known
before. Over a mesh both run on every device's share: `Plan.layout`.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.custom_derivatives import SymbolicZero

from kljax.kernels.linear.operands import (
    Operands,
    Pair,
    accumulator,
    combine,
    keep,
    part,
    token_wise,
)
from kljax.kernels.linear.products import (
    dot,
    finish,
    possible,
    slope_dot,
    wide_product,
)
from kljax.kernels.linear.rows import token_values
from kljax.kernels.logits import own_divergence, row_divergence
from kljax.kernels.weights import settled, slope_in_weight, weigh
from kljax.typing import Array, Float

__all__ = [
    "Plan",
    "default_chunk",
    "make_plan",
    "sum_and_gradient",
    "weighted_rows",
    "weighted_sum",
]


class Plan(NamedTuple):
    """What is fixed when a loss is traced."""

    structure: Any
    """The divergence without its leaves; None if the loss has none."""
    chunk: int
    block: int
    """Tokens whose logits are worked on at a time on a CPU; divides `chunk`."""
    masked: bool
    """Whether weights may be 0: such tokens are put last and their chunks skipped."""
    weighted: bool
    """Whether there are weights: what those of 0 take away may hold anything."""
    layout: Any = None
    """How the operands lie on a mesh; None on one device."""
    axis: str | None = None
    """Inside `jax.shard_map`, the mesh's axis over which outcomes are split."""


def make_plan(
    structure: Any, chunk: int, vocab: int, masked: bool, layout: Any = None
) -> Plan:
    """A plan whose blocks stay in a core's cache: at least 8 rows, about 2^19 logits.

    The chunk becomes a multiple of the block: larger by less than one token per block.
    Over a mesh a chunk is one block, and exchanges once.
    """
    blocks = 1 if layout else -(-chunk // max(8, 2**19 // vocab))
    block = -(-chunk // blocks)
    return Plan(structure, block * blocks, block, masked, masked, layout)


def default_chunk(tokens: int, vocab: int) -> int:
    """Tokens per chunk, so that three float32 arrays of its logits fill a budget.

    The largest power of two within 128 MiB (CPU) or 2 GiB (elsewhere), at least 128 or
    1024, and at most the number of tokens.
    """
    cpu = jax.default_backend() == "cpu"
    budget, least = (2**27, 128) if cpu else (2**31, 1024)
    fits = max(budget // (12 * vocab), 1)
    return max(min(max(1 << (fits.bit_length() - 1), least), tokens), 1)


def _values(plan: Plan, raw: Pair, local: Operands, rows: Callable) -> Array:
    """The chunk's values from its products; `rows` is the divergence of logits."""
    weights = local.weights if plan.weighted else None
    logits = raw.each(
        lambda z, side: finish(settled(weights, z), side.bias, side.soft_cap),
        Pair.of(local),
    )
    divergence = None
    if plan.structure is not None:
        divergence = plan.structure.unflatten(local.parameters)
    return token_values(divergence, *logits, local, rows)


def _in_blocks(plan: Plan, function: Callable, start: Any, rows: Any) -> Any:
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


def _chunked(
    plan: Plan, operands: Operands
) -> tuple[Operands, Operands, Callable[[Array], Array]]:
    """Per-token operands as ``[chunks, C, ...]``, the others, and the way back.

    The last chunk is filled up with tokens of weight 0; the chunk is never shrunk.
    """
    heads = Pair.of(operands).each(lambda side: possible(side.head, side.bias))
    operands, weights = heads.put(operands, "head"), operands.weights
    n, c = weights.shape[0], plan.chunk
    packed = plan.masked and n > c
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


def _scan(plan: Plan, live: Callable, start: Any, chunks: Operands) -> Any:
    """`lax.scan` that leaves out the chunks in which no token has weight."""

    def dead(carry, chunk):
        rows = jax.eval_shape(live, carry, chunk)[1]
        return carry, jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), rows)

    def body(carry, chunk):
        some = jnp.any(chunk.weights != 0)
        return lax.cond(some, live, dead, carry, chunk)

    return lax.scan(body if plan.masked else live, start, chunks)


def _settled_states(plan: Plan, chunk: Operands) -> tuple[Operands, Pair]:
    """The chunk without hidden states; these, finite where the weight is 0."""
    weights = chunk.weights if plan.weighted else None
    states = Pair.of(chunk).each(lambda side: settled(weights, side.states))
    return Pair(None, None).put(chunk, "states"), states


def _wanted(operands: Operands, tangents: Operands) -> Operands:
    """Which operands are differentiated."""

    def moves(x, tangent):
        floating = jnp.issubdtype(x.dtype, jnp.floating)
        return floating and not isinstance(tangent, SymbolicZero)

    return jax.tree.map(moves, operands, tangents)


def _unskipped(plan: Plan, wanted: Operands) -> Plan:
    """The derivative in the weight of a masked token is its value: no skipping then."""
    return plan._replace(masked=False) if wanted.weights else plan


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
    wanted = _wanted(primals[0], tangents[0])
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
    plan, dtype = _unskipped(plan, wanted), accumulator(operands)
    rows = row_divergence
    if plan.axis is not None:
        rows = partial(own_divergence, axis=plan.axis)
    by_token = token_wise(operands)
    chunks, shared, join = _chunked(plan, operands)
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
            return _values(plan, combine(raw, moved_raw), combine(local, moved), rows)

        # Wide, so that what a narrow bias gets from each block is not rounded.
        wide = jax.tree.map(_widened, keep(direct, local))
        values, pull = jax.vjp(values_of, keep(sloped, raw), wide)
        slopes, found = pull(tokens.weights.astype(values.dtype))
        found, added = part(by_token, found)
        added = jax.tree.map(lambda x, more: x + more.astype(dtype), summed, added)
        return added, (values, slopes, found)

    # Should this be differentiated again, a chunk keeps its inputs alone.
    @partial(jax.checkpoint, prevent_cse=False)
    def live(carry, chunk):
        total, heads, summed = carry
        chunk, states = _settled_states(plan, chunk)
        head = Pair.of(shared).each(lambda side: side.head)
        raw = states.each(dot, head)
        summed, out = _in_blocks(plan, block, summed, (raw, chunk))
        values, slopes, found = out

        def back(slope, on, other, *, first):
            product = partial(slope_dot, slope, other[not first], first=first)
            return product(dtype=jnp.result_type(*other)) if on else None

        both = states.each(lambda *pair: pair, head)
        # Wide, as it is yet to be multiplied by a cotangent.
        found = slopes.each(partial(back, first=False), of_states, both).put(
            found, "states"
        )
        more = slopes.each(partial(back, first=True), of_head, both)
        heads = jax.tree.map(jnp.add, heads, more)
        if wanted.weights:
            found = found._replace(weights=slope_in_weight(chunk.weights, values))
        total += jnp.sum(weigh(chunk.weights, values))
        return (total, heads, summed), found

    heads = zeros(keep(of_head, Pair.of(shared).each(lambda side: side.head)))
    start = jnp.zeros((), dtype), heads, zeros(part(by_token, keep(direct, shared))[1])
    (total, heads, summed), found = _scan(plan, live, start, chunks)
    return total, heads.put(combine(summed, jax.tree.map(join, found)), "head")


def _widened(x: Array) -> Array:
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))


# -------------------------------------------- recomputed in the backward pass
@partial(jax.custom_jvp, nondiff_argnums=(0,))
def weighted_rows(plan: Plan, operands: Operands) -> Float[Array, "n"]:
    """``w · value`` of each token, differentiable in every mode and order."""
    return _rows(plan, operands)


@partial(weighted_rows.defjvp, symbolic_zeros=True)
def _weighted_rows_jvp(plan, primals, tangents):
    (operands,), wanted = primals, _wanted(primals[0], tangents[0])

    def of(moved):
        return _rows(_unskipped(plan, wanted), combine(operands, moved))

    return jax.jvp(of, (keep(wanted, operands),), (keep(wanted, tangents[0]),))


@partial(jax.jit, static_argnums=0)
def _rows(plan: Plan, operands: Operands) -> Float[Array, "n"]:
    if plan.layout is not None:
        return plan.layout.rows(_own_rows, plan, operands)
    return _own_rows(plan, operands)


def _own_rows(plan: Plan, operands: Operands) -> Float[Array, "n"]:
    chunks, shared, join = _chunked(plan, operands)
    narrow = Pair.of(operands).each(lambda side: side.head.dtype)
    wide = Pair.of(shared).each(lambda side: _widened(side.head))
    rows = partial(row_divergence, axis=plan.axis)

    # A chunk keeps its inputs alone.
    @partial(jax.checkpoint, prevent_cse=False)
    def live(carry, chunk):
        def some(_, rows_of):
            raw, tokens = rows_of
            return (), _values(plan, raw, combine(shared, tokens), rows)

        chunk, states = _settled_states(plan, chunk)
        raw = narrow.each(wide_product, states, wide)
        values = _in_blocks(plan, some, (), (raw, chunk))[1]
        return carry, weigh(chunk.weights, values)

    return join(_scan(plan, live, (), chunks)[1])
