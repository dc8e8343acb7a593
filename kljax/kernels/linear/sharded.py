"""Linear losses over a mesh of tokens × vocabulary.

A device holds its tokens and its share of both heads. Per chunk of tokens the devices
of a row exchange three maxima and the row engine's sums a token, no array with a
vocabulary axis; one number more where the divergence has ``Σ q grad_q ≠ 0``. Gradients
in the heads stay where the heads are and are summed over the tokens once, at the end;
those in the hidden states are summed over the vocabulary once. The rule of
differentiation of a sum stands outside of `jax.shard_map`; that of rows inside, as
`jax.custom_jvp`: a `custom_vjp` there would have its gradient divided by the size of
the axis.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from kljax.kernels.linear.fused import Pair, keep, token_wise
from kljax.kernels.linear.operands import Operands, Side
from kljax.typing import Array

__all__ = ["Layout"]


class Layout(NamedTuple):
    """The mesh, and which of its axes split tokens and vocabulary (None: neither)."""

    mesh: Mesh
    tokens: str | None
    vocab: str | None

    def size(self, axis: str | None) -> int:
        """How many devices an axis has."""
        return 1 if axis is None else self.mesh.shape[axis]

    def sum(
        self, function: Callable, plan: Any, wanted: Operands, operands: Operands
    ) -> tuple[Array, Operands]:
        """`sum_and_gradient` of all devices."""
        specs = keep(wanted, self._specs(operands))

        def on_device(operands):
            total, gradient = function(self._own(plan), wanted, operands)
            return self._gathered(total, gradient, specs)

        return self._over(on_device, operands, (P(), specs))

    def rows(self, function: Callable, plan: Any, operands: Operands) -> Array:
        """A value of each token, split as the tokens are."""
        run = partial(function, self._own(plan))
        return self._over(run, operands, P(self.tokens))

    def _own(self, plan: Any) -> Any:
        return plan._replace(layout=None, axis=self.vocab)

    def _over(self, function: Callable, operands: Operands, out: Any) -> Any:
        axes = {axis for axis in (self.tokens, self.vocab) if axis is not None}
        if not axes:
            return function(operands)
        return jax.shard_map(
            function,
            mesh=self.mesh,
            in_specs=(self._specs(operands),),
            out_specs=out,
            # Over an axis that splits nothing a gradient would be summed.
            axis_names=axes,
            check_vma=False,
        )(operands)

    def _specs(self, operands: Operands) -> Operands:
        """How each operand lies on the mesh."""
        specs = jax.tree.map(
            lambda mine: P(self.tokens) if mine else P(), token_wise(operands)
        )
        sides = Pair.of(operands)
        specs = sides.each(lambda _: P(None, self.vocab)).put(specs, "head")
        bias = sides.each(lambda side: None if side.bias is None else P(self.vocab))
        return bias.put(specs, "bias")

    def _gathered(
        self, total: Array, gradient: Operands, specs: Operands
    ) -> tuple[Array, Operands]:
        """Sums over the axes of which a device has a part; one exchange for each set.

        What a weight or a factor multiplies is known to all devices of a row.
        """
        leaves, structure = jax.tree.flatten((total, gradient))
        known = jax.tree.map(lambda _: False, gradient)
        scales = {k for k in ("weights", "label_scale", "divergence_scale")}
        scales = {k: True for k in scales if getattr(gradient, k) is not None}
        known = [True, *jax.tree.leaves(known._replace(**scales))]
        layouts = [P(), *jax.tree.leaves(specs, is_leaf=lambda x: isinstance(x, P))]
        groups: dict[tuple[str, ...], list[int]] = {}
        for i, (spec, whole) in enumerate(zip(layouts, known, strict=True)):
            over = (self.tokens, None if whole else self.vocab)
            axes = tuple(a for a in over if a is not None and a not in spec)
            groups.setdefault(axes, []).append(i)
        for axes, places in groups.items():
            if axes:
                found = lax.psum([leaves[i] for i in places], axes)
                for i, x in zip(places, found):
                    leaves[i] = x
        return structure.unflatten(leaves)

    def padded(self, operands: Operands) -> Operands:
        """Tokens of weight 0 and impossible outcomes, until the axes divide both."""
        by_token = token_wise(operands)
        short = -operands.weights.shape[0] % self.size(self.tokens)

        def longer(x: Array, mine: bool) -> Array:
            if not mine or not short:
                return x
            return jnp.pad(x, [(0, short)] + [(0, 0)] * (x.ndim - 1))

        operands = jax.tree.map(longer, operands, by_token)
        sides = Pair.of(operands)
        size = self.size(self.vocab)
        most = max(s.head.shape[1] for s in sides if s is not None)
        full = partial(_filled, vocab=math.ceil(most / size) * size)
        sides = sides.each(full)
        p = operands.p if sides.p is None else sides.p
        return operands._replace(p=p, q=sides.q)


def _filled(side: Side, vocab: int) -> Side:
    head, bias = side.head, side.bias
    short = vocab - head.shape[1]
    if not short:
        return side
    bias = jnp.zeros(head.shape[1], jnp.float32) if bias is None else bias
    # No `pad`: partitioned, one by -inf stands in for its tangent's by 0.
    bias = jnp.concatenate([bias, jnp.full(short, -jnp.inf, bias.dtype)])
    return side._replace(head=jnp.pad(head, ((0, 0), (0, short))), bias=bias)
