"""A divergence that is chosen by a traced index."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from kljax.generators.base import FDivergence, Outcomes, generator
from kljax.typing import Array


@generator
class Choice(FDivergence):
    """One of several divergences, chosen by a traced index.

    A mixed family runs under one `vmap` over the index.

    Args:
      index: integer, may be traced; out of range is clipped.
      options: the divergences to choose from.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from kljax.generators import ForwardKL, ReverseKL
      >>> pick = lambda i: Choice(i, (ForwardKL(), ReverseKL())).grad_q(jnp.log(2.0))
      >>> [round(float(x), 3) for x in jax.vmap(pick)(jnp.arange(2))]
      [-1.0, -0.693]
    """

    index: Any
    options: tuple[FDivergence, ...]

    def _switch(self, call: Callable[..., Array], *args) -> Array:
        branches = [lambda *a, o=o: call(o, *a) for o in self.options]
        arrays = [jnp.asarray(a) for a in args]
        return jax.lax.switch(self.index, branches, *arrays)

    def _pick(self, bounds: list) -> Array:
        bounds = [jnp.asarray(b, float) for b in bounds]
        return jnp.stack(bounds)[jnp.clip(self.index, 0, len(bounds) - 1)]

    @property
    def smooth(self):  # pyrefly: ignore[bad-override]
        return all(o.smooth for o in self.options)

    def in_range(self):
        return Choice(self.index, tuple(o.in_range() for o in self.options))

    @property
    def dual(self):
        return Choice(self.index, tuple(o.dual for o in self.options))

    @property
    def at_zero(self):
        return self._pick([o.at_zero for o in self.options])

    @property
    def dual_at_zero(self):
        return self._pick([o.dual_at_zero for o in self.options])

    def curvature(self, log_u):
        return self._switch(lambda o, l: o.curvature(l), log_u)

    def mass_term(self, outcomes):
        return self._switch(lambda o, *a: o.mass_term(Outcomes(*a)), *outcomes)

    def mass_grad(self, outcomes):
        return self._switch(lambda o, *a: o.mass_grad(Outcomes(*a)), *outcomes)
