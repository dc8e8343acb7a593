# ruff: noqa: F403
"""Distances between distributions, one module per kind of thing you hold.

Logits: `divergence`, ``forward_kl`` and its siblings here. Tokens, given as `Logits`,
as `Hidden` states and heads or as lists: `token_divergence`, also here. Gaussians:
`gaussian`.
Log-probabilities of samples: `estimators`. Samples alone: `estimate`, which says how
far it can be trusted, `samples`, their `counts`, a critic at them: `bounds`. Discrete
measures with a cost: `transport`. Score functions: `scores`.
"""

from kljax import generators as _generators
from kljax.divergences import categorical as _categorical
from kljax.divergences.categorical import (
    cauchy_schwarz,
    cross_entropy,
    divergence,
    entropy,
    renyi,
)
from kljax.divergences.estimation import DivergenceEstimate, estimate
from kljax.divergences.sharded import divergence_sharded
from kljax.divergences.sides import Hidden, Logits, Restricted, TopK, dense_logits
from kljax.divergences.tokens import label_cross_entropy, token_divergence, top_outcomes
from kljax.generators import *

__all__ = [
    "DivergenceEstimate",
    "Hidden",
    "Logits",
    "Restricted",
    "TopK",
    "cauchy_schwarz",
    "cross_entropy",
    "dense_logits",
    "divergence",
    "divergence_sharded",
    "entropy",
    "estimate",
    "label_cross_entropy",
    "renyi",
    "token_divergence",
    "top_outcomes",
    *_generators.__all__,
    *_categorical.NAMED,
]


def __getattr__(name: str) -> _categorical.Named:
    """``forward_kl(p_logits, q_logits, ...)`` and so on, for every name in the table.

    ``alpha`` and the like are therefore functions here as well as names.
    """
    try:
        return _categorical.NAMED[name]
    except KeyError:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}") from None


def __dir__() -> list[str]:
    return sorted({*globals(), *_categorical.NAMED})
