"""How uneven the weights of a score difference are between two Gaussians."""

import jax.numpy as jnp

from kljax.generators import FDivergence, get
from kljax.objectives.ratio import effective_fraction
from kljax.typing import Array, ArrayLike, Float

__all__ = ["weight_variance"]


def weight_variance(
    divergence: FDivergence | str,
    distance: ArrayLike,
    draws: Float[Array, "n"] | None = None,
) -> Float[Array, ""]:
    """Var h / (E h)^2 under q of h(p/q), for p = N(d, 1) and q = N(0, 1).

    Exact by quadrature (use float64; forward KL's is exp(d^2) - 1), or as samples see
    it, who miss the tail that carries it when the laws are far apart.

    Args:
      divergence: an f-divergence or its name.
      distance: d, up to about 5.
      draws: of q; None for the exact value.

    Example:
      >>> round(float(weight_variance("forward_kl", 1.0)), 2)
      1.72

    Reference: Xu et al. 2025, arXiv 2502.15681, figure 4a.
    """
    x = jnp.linspace(-40.0, 40.0, 16_001) if draws is None else draws
    mass = jnp.exp(-0.5 * x**2) if draws is None else None
    h = get(divergence).curvature(distance * x - distance**2 / 2)
    return 1 / effective_fraction(jnp.log(h), example_weights=mass) - 1
