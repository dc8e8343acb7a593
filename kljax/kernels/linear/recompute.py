"""Linear losses that make the logits a second time in the backward pass.

They serve cotangents that are not known before, in every mode and order. Over a mesh
they run on every device's share: `Plan.layout`.
"""

from functools import partial

import jax

from kljax.kernels.linear.fused import (
    Pair,
    Plan,
    chunk_values,
    chunked,
    combine,
    in_blocks,
    keep,
    scan,
    settled_states,
    unskipped,
    wanted_of,
    widened,
)
from kljax.kernels.linear.operands import Operands
from kljax.kernels.linear.products import wide_product
from kljax.kernels.logits import row_divergence
from kljax.kernels.weights import weigh
from kljax.typing import Array, Float

__all__ = ["weighted_rows"]


@partial(jax.custom_jvp, nondiff_argnums=(0,))
def weighted_rows(plan: Plan, operands: Operands) -> Float[Array, "n"]:
    """``w · value`` of each token, differentiable in every mode and order."""
    return _rows(plan, operands)


@partial(weighted_rows.defjvp, symbolic_zeros=True)
def _weighted_rows_jvp(plan, primals, tangents):
    (operands,), wanted = primals, wanted_of(primals[0], tangents[0])

    def of(moved):
        return _rows(unskipped(plan, wanted), combine(operands, moved))

    return jax.jvp(of, (keep(wanted, operands),), (keep(wanted, tangents[0]),))


@partial(jax.jit, static_argnums=0)
def _rows(plan: Plan, operands: Operands) -> Float[Array, "n"]:
    if plan.layout is not None:
        return plan.layout.rows(_own_rows, plan, operands)
    return _own_rows(plan, operands)


def _own_rows(plan: Plan, operands: Operands) -> Float[Array, "n"]:
    chunks, shared, join = chunked(plan, operands)
    narrow = Pair.of(operands).each(lambda side: side.head.dtype)
    wide = Pair.of(shared).each(lambda side: widened(side.head))
    rows = partial(row_divergence, axis=plan.axis)

    # A chunk keeps its inputs alone.
    @partial(jax.checkpoint, prevent_cse=False)
    def live(carry, chunk):
        def some(_, rows_of):
            raw, tokens = rows_of
            return (), chunk_values(plan, raw, combine(shared, tokens), rows)

        chunk, states = settled_states(plan, chunk)
        raw = narrow.each(wide_product, states, wide)
        values = in_blocks(plan, some, (), (raw, chunk))[1]
        return carry, weigh(chunk.weights, values)

    return join(scan(plan, live, (), chunks)[1])
