"""Losses of linear heads over chunks of tokens: no ``[tokens, vocab]`` array, ever.

A chunk of C tokens makes its logits (float32, whatever the heads are) and its values;
only what leaves the function is kept. There are two schemes. `weighted_sum` forms the
gradient together with the value: three products of the model's size and one of the
target's, and its residuals are the gradients themselves. `weighted_rows` makes the
logits a second time in the backward pass, and so serves cotangents that are not known
before.

Operands are a flat dict: ``q_hidden [n, d]``, ``q_head [d, v]``, perhaps ``q_bias [v]``
and ``q_cap []``; the same under ``p_`` if the target has a head; ``weights [n]``; the
leaves of a divergence as ``leaf_0``, ...; and whatever else `Plan.rows` reads.
"""

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.custom_derivatives import SymbolicZero

from kljax.kernels.linear.rows import settled, shown, slope_in_weight, weigh
from kljax.typing import Array, Float

PER_TOKEN = (
    *("q_hidden", "p_hidden", "weights", "labels"),
    *("ids", "log_p_topk", "log_tail"),
)
"""Operands whose first axis is the tokens'."""


class Plan(NamedTuple):
    """What is fixed when a loss is traced."""

    rows: Callable[..., Array]
    """``rows(divergence, logits, operands)``: one value per token, from the logits
    ``{"q": [c, v], "p": [c, v]}`` of a chunk and the chunk's share of the operands."""
    structure: Any
    """The divergence without its leaves; None if the loss has none."""
    chunk: int
    block: int
    """Tokens whose logits are worked on at a time on a CPU; divides `chunk`."""
    masked: bool
    """Whether weights may be 0: such tokens are put last and their chunks skipped."""
    weighted: bool
    """Whether there are weights: what those of 0 take away may hold anything."""


def make_plan(
    rows: Callable[..., Array], structure: Any, chunk: int, vocab: int, masked: bool
) -> Plan:
    """A plan whose blocks stay in a core's cache: at least 8 rows, about 2^19 logits.

    The chunk becomes a multiple of the block: larger by less than one token per block.
    """
    blocks = -(-chunk // max(8, 2**19 // vocab))
    block = -(-chunk // blocks)
    return Plan(rows, structure, block * blocks, block, masked, masked)


def default_chunk(tokens: int, vocab: int) -> int:
    """Tokens per chunk, so that three float32 arrays of its logits fill a budget.

    The largest power of two within 128 MiB (CPU) or 2 GiB (elsewhere), at least 128 or
    1024, and at most the number of tokens.
    """
    cpu = jax.default_backend() == "cpu"
    budget, least = (2**27, 128) if cpu else (2**31, 1024)
    fits = max(budget // (12 * vocab), 1)
    return max(min(max(1 << (fits.bit_length() - 1), least), tokens), 1)


def dot(x: Array, y: Array, x_axis: int, y_axis: int) -> Array:
    """A matrix product in the wider input type, accumulated in at least float32."""
    dtype = jnp.promote_types(x.dtype, y.dtype)
    wide = jnp.promote_types(dtype, jnp.float32)
    axes = (((x_axis,), (y_axis,)), ((), ()))
    x, y = x.astype(dtype), y.astype(dtype)
    return lax.dot_general(x, y, axes, preferred_element_type=wide)


def slope_dot(slope: Array, y: Array, dtype: Any, *, first: bool) -> Array:
    """The product of a gradient in the logits and hidden states or a head.

    In `dtype`, that of the forward product; but on a CPU, which multiplies in float32
    whatever it is given, the gradient is not rounded to less.

    Args:
      slope: ``[c, v]``.
      y: the head ``[d, v]``; or, with `first`, the hidden states ``[c, d]``.
      dtype: what the gradient is rounded to.
      first: whether to sum over the tokens, with `y` on the left.
    """

    def product(slope):
        return dot(y, slope, 0, 0) if first else dot(slope, y, 1, 1)

    if slope.dtype == dtype:
        return product(slope)
    narrow = lambda slope: product(slope.astype(dtype))  # noqa: E731
    return lax.platform_dependent(slope, cpu=product, default=narrow)


def finish(raw: Array, bias: Array | None, cap: Array | None) -> Array:
    """Logits from the product: bias, then the soft-cap ``cap · tanh(z/cap)``."""
    z = raw if bias is None else raw + bias.astype(raw.dtype)
    if cap is None:
        return z
    cap, missing = cap.astype(z.dtype), z == -jnp.inf
    return jnp.where(missing, z, cap * jnp.tanh(jnp.where(missing, 0, z) / cap))


def _values(plan: Plan, raw: dict[str, Array], operands: dict[str, Array]) -> Array:
    """The chunk's values from its two products."""
    weights = operands["weights"] if plan.weighted else None
    logits = {
        s: finish(
            settled(weights, z), operands.get(f"{s}_bias"), operands.get(f"{s}_cap")
        )
        for s, z in raw.items()
    }
    return shown(plan.rows(divergence_of(plan, operands), logits, operands))


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


def _all_values(plan: Plan, raw: dict, chunk: dict, shared: dict) -> Array:
    def some(_, rows):
        raw, tokens = rows
        return (), _values(plan, raw, {**shared, **tokens})

    tokens = {k: x for k, x in chunk.items() if not k.endswith("_hidden")}
    return _in_blocks(plan, some, (), (raw, tokens))[1]


def divergence_of(plan: Plan, operands: dict[str, Array]) -> Any:
    """The divergence, put together again."""
    if plan.structure is None:
        return None
    leaves = [operands[f"leaf_{i}"] for i in range(plan.structure.num_leaves)]
    return plan.structure.unflatten(leaves)


def _sides(operands: dict[str, Array]) -> tuple[str, ...]:
    return tuple(s for s in ("q", "p") if f"{s}_head" in operands)


def products(operands: dict[str, Array]) -> dict[str, Array]:
    """Hidden states times head, in float32, of each side that has a head."""
    return {
        s: dot(operands[f"{s}_hidden"], operands[f"{s}_head"], 1, 0)
        for s in _sides(operands)
    }


def _accumulator(operands: dict[str, Array]) -> Any:
    floats = (x for x in operands.values() if jnp.issubdtype(x.dtype, jnp.floating))
    return jnp.result_type(jnp.float32, *floats)


def chunked(
    plan: Plan, operands: dict[str, Array]
) -> tuple[dict[str, Array], dict[str, Array], Callable[[Array], Array]]:
    """Per-token operands as ``[chunks, C, ...]``, the others, and the way back.

    The last chunk is filled up with tokens of weight 0; the chunk is never shrunk.
    """
    weights = operands["weights"]
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

    per_token = {k: split(x) for k, x in operands.items() if k in PER_TOKEN}
    shared = {k: x for k, x in operands.items() if k not in PER_TOKEN}
    return per_token, shared, join


def scan(plan: Plan, live: Callable, start: Any, chunks: dict[str, Array]) -> Any:
    """`lax.scan` that leaves out the chunks in which no token has weight."""

    def dead(carry, chunk):
        rows = jax.eval_shape(live, carry, chunk)[1]
        return carry, jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), rows)

    def body(carry, chunk):
        some = jnp.any(chunk["weights"] != 0)
        return lax.cond(some, live, dead, carry, chunk)

    return lax.scan(body if plan.masked else live, start, chunks)


def settled_states(plan: Plan, chunk: dict[str, Array]) -> dict[str, Array]:
    """The chunk, with finite hidden states where the weight is 0."""
    if not plan.weighted:
        return chunk
    states = {k: x for k, x in chunk.items() if k.endswith("_hidden")}
    return chunk | {k: settled(chunk["weights"], x) for k, x in states.items()}


def moving(operands: dict[str, Array], tangents: dict[str, Any]) -> dict[str, Array]:
    """The tangents of the operands that are differentiated."""
    return {
        k: t
        for k, t in tangents.items()
        if not isinstance(t, SymbolicZero)
        and jnp.issubdtype(operands[k].dtype, jnp.floating)
    }


def unskipped(plan: Plan, wanted: Iterable[str]) -> Plan:
    """The derivative in the weight of a masked token is its value: no skipping then."""
    return plan._replace(masked=False) if "weights" in wanted else plan


# ------------------------------------------------- gradient in the forward pass
@partial(jax.custom_jvp, nondiff_argnums=(0,))
def weighted_sum(plan: Plan, operands: dict[str, Array]) -> Float[Array, ""]:
    """``Σ w · value`` over the tokens; 0 if there are none.

    Without differentiation no gradient is formed; with it, the products of operands
    that are not differentiated are left out.
    """
    chunks, shared, _ = chunked(plan, operands)

    def live(total, chunk):
        chunk = settled_states(plan, chunk)
        local = {**shared, **chunk}
        values = _all_values(plan, products(local), chunk, shared)
        return total + jnp.sum(weigh(chunk["weights"], values)), None

    return scan(plan, live, jnp.zeros((), _accumulator(operands)), chunks)[0]


@partial(weighted_sum.defjvp, symbolic_zeros=True)
def _weighted_sum_jvp(plan, primals, tangents):
    (operands,), changes = primals, moving(primals[0], tangents[0])
    total, gradient = sum_and_gradient(plan, operands, changes)
    # Linear in the tangents: the gradient is all that a backward pass has to keep.
    tangent = jnp.zeros_like(total)
    for k, change in changes.items():
        slope = gradient[k].astype(total.dtype)
        tangent += jnp.sum(slope * change.astype(total.dtype))
    return total, tangent


def sum_and_gradient(
    plan: Plan, operands: dict[str, Array], wanted: Iterable[str]
) -> tuple[Float[Array, ""], dict[str, Array]]:
    """`weighted_sum` and its gradient in the operands named in `wanted`."""
    wanted = set(wanted)
    plan = unskipped(plan, wanted)
    dtype = _accumulator(operands)
    sloped = [s for s in _sides(operands) if wanted & {f"{s}_hidden", f"{s}_head"}]
    involved = {f"{s}_{k}" for s in sloped for k in ("hidden", "head")}
    direct = sorted(wanted - involved - {"weights"})
    chunks, shared, join = chunked(plan, operands)
    products_of = {
        s: jnp.promote_types(operands[f"{s}_hidden"].dtype, operands[f"{s}_head"].dtype)
        for s in sloped
    }
    kept = {
        k: jnp.zeros(operands[k].shape, dtype) for k in sorted(wanted & shared.keys())
    }
    heads = {k: x for k, x in kept.items() if k.endswith("_head")}
    summed = {k: x for k, x in kept.items() if k not in heads}

    def block(summed, rows):
        """Values and the gradient in what comes after the products."""
        raw, tokens = rows
        local = {**shared, **tokens}

        def values_of(moved, others):
            return _values(plan, {**raw, **moved}, {**local, **others})

        values, pull = jax.vjp(
            values_of,
            {s: raw[s] for s in sloped},
            # Wide, so that what a narrow bias gets from each block is not rounded.
            {
                k: local[k].astype(jnp.promote_types(local[k].dtype, jnp.float32))
                for k in direct
            },
        )
        slopes, found = pull(tokens["weights"].astype(values.dtype))
        summed = {k: x + found.pop(k).astype(dtype) for k, x in summed.items()}
        return summed, (values, slopes, found)

    # Should this be differentiated again, a chunk keeps its inputs alone.
    @partial(jax.checkpoint, prevent_cse=False)
    def live(carry, chunk):
        total, heads, summed = carry
        chunk = settled_states(plan, chunk)
        tokens = {k: x for k, x in chunk.items() if not k.endswith("_hidden")}
        raw = products({**shared, **chunk})
        summed, (values, slopes, found) = _in_blocks(plan, block, summed, (raw, tokens))
        found["weights"] = slope_in_weight(chunk["weights"], values)
        for s, slope in slopes.items():
            if f"{s}_hidden" in wanted:
                # Wide, as it is yet to be multiplied by a cotangent.
                head, dtype_of = shared[f"{s}_head"], products_of[s]
                found[f"{s}_hidden"] = slope_dot(slope, head, dtype_of, first=False)
        heads = {
            k: x
            + slope_dot(
                slopes[k[0]], chunk[f"{k[0]}_hidden"], products_of[k[0]], first=True
            )
            for k, x in heads.items()
        }
        rows = {k: found[k] for k in sorted(wanted & chunks.keys())}
        total += jnp.sum(weigh(chunk["weights"], values))
        return (total, heads, summed), rows

    start = jnp.zeros((), dtype), heads, summed
    (total, heads, summed), rows = scan(plan, live, start, chunks)
    return total, {**heads, **summed, **{k: join(x) for k, x in rows.items()}}


# -------------------------------------------- recomputed in the backward pass
@partial(jax.custom_jvp, nondiff_argnums=(0,))
def _wide_product(dtype, hidden, head):
    """The product of a chunk whose head is of type `dtype`, but held in a wider one.

    So that the head's cotangents are summed over the chunks in the wide type.
    """
    return dot(hidden, head.astype(dtype), 1, 0)


@partial(_wide_product.defjvp, symbolic_zeros=True)
def _wide_product_jvp(dtype, primals, tangents):
    (hidden, head), (d_hidden, d_head) = primals, tangents
    out = _wide_product(dtype, hidden, head)
    tangent = jnp.zeros_like(out)
    if not isinstance(d_hidden, SymbolicZero):
        tangent += dot(d_hidden, head.astype(dtype), 1, 0).astype(out.dtype)
    if not isinstance(d_head, SymbolicZero):
        tangent += dot(hidden, d_head, 1, 0).astype(out.dtype)
    return out, tangent


def _rows(plan: Plan, operands: dict[str, Array]) -> Float[Array, "n"]:
    chunks, shared, join = chunked(plan, operands)
    narrow = {s: operands[f"{s}_head"].dtype for s in _sides(operands)}
    for s, dtype in narrow.items():
        wide = jnp.promote_types(dtype, jnp.float32)
        shared[f"{s}_head"] = shared[f"{s}_head"].astype(wide)

    # A chunk keeps its inputs alone.
    @partial(jax.checkpoint, prevent_cse=False)
    def live(carry, chunk):
        chunk = settled_states(plan, chunk)
        local = {**shared, **chunk}
        raw = {
            s: _wide_product(dtype, local[f"{s}_hidden"], local[f"{s}_head"])
            for s, dtype in narrow.items()
        }
        return carry, weigh(chunk["weights"], _all_values(plan, raw, chunk, shared))

    return join(scan(plan, live, (), chunks)[1])


@partial(jax.custom_jvp, nondiff_argnums=(0,))
def weighted_rows(plan: Plan, operands: dict[str, Array]) -> Float[Array, "n"]:
    """``w · value`` of each token, differentiable in every mode and order."""
    return _rows(plan, operands)


@partial(weighted_rows.defjvp, symbolic_zeros=True)
def _weighted_rows_jvp(plan, primals, tangents):
    (operands,), changes = primals, moving(primals[0], tangents[0])
    plan = unskipped(plan, changes)

    def of(moved):
        return _rows(plan, {**operands, **moved})

    return jax.jvp(of, ({k: operands[k] for k in changes},), (changes,))
