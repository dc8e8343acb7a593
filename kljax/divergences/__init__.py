# ruff: noqa: F403
"""Distances between distributions, one module per kind of thing you hold.

Logits: `divergence`, ``forward_kl`` and its siblings here. Hidden states and heads:
`linear_divergence` and its siblings, also here. Gaussians: `gaussian`.
Log-probabilities of samples: `estimators`. Samples alone: `samples`, their `counts`, a
critic at them: `bounds`. Discrete measures with a cost: `transport`. Score functions:
`scores`.
"""

from collections.abc import Callable

from kljax import generators as _generators
from kljax.divergences import categorical as _categorical
from kljax.divergences.categorical import (
    cauchy_schwarz,
    cross_entropy,
    divergence,
    entropy,
    renyi,
)
from kljax.divergences.linear import (
    linear_cross_entropy,
    linear_divergence,
    linear_mixture,
    linear_topk,
    linear_topk_renormalized,
)
from kljax.divergences.linear_sharded import linear_divergence_sharded
from kljax.divergences.listed import topk
from kljax.divergences.sharded import divergence_sharded
from kljax.generators import *

__all__ = [
    "cauchy_schwarz",
    "cross_entropy",
    "divergence",
    "divergence_sharded",
    "entropy",
    "linear_cross_entropy",
    "linear_divergence",
    "linear_divergence_sharded",
    "linear_mixture",
    "linear_topk",
    "linear_topk_renormalized",
    "renyi",
    "topk",
    *_generators.__all__,
    *_categorical.NAMED,
]


def __getattr__(name: str) -> Callable:
    """``forward_kl(p_logits, q_logits, ...)`` and so on, for every name in the table.

    ``alpha`` and the like are therefore functions here as well as names.
    """
    try:
        return _categorical.NAMED[name]
    except KeyError:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}") from None


def __dir__() -> list[str]:
    return sorted({*globals(), *_categorical.NAMED})
