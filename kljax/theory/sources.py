"""Sources of symbols whose entropy and whose divergence to a model are exact.

What a learner of real data leaves over is unknown: of these it is a sum. `Contexts` are
contexts of known probabilities, each with its own law of the next symbol, with endless
tails (`zipf_contexts`) or few of them (`markov_contexts`).
"""

import math
from typing import NamedTuple

import numpy as np

from kljax.arguments import expect, whole
from kljax.typing import Float, Int

__all__ = ["Contexts", "markov_contexts", "quantized_information", "zipf_contexts"]

TINY = 1e-300


class Contexts(NamedTuple):
    """Contexts of probabilities `p`, and the law of what follows each.

    Example:
      >>> source = zipf_contexts(np.random.default_rng(0), 0.5, 1000, 16)
      >>> bool(source.loss(np.full((1000, 16), 1 / 16)) - np.log(16) < 1e-9)
      True
    """

    p: Float[np.ndarray, " m"]
    law: Float[np.ndarray, "m v"]

    @property
    def entropies(self) -> Float[np.ndarray, " m"]:
        """Nats of the symbol behind each context."""
        return -(self.law * np.log(np.maximum(self.law, TINY))).sum(axis=1)

    @property
    def entropy(self) -> float:
        """Nats of the next symbol: the loss of who knows the laws."""
        return float(self.p @ self.entropies)

    def loss(self, q: Float[np.ndarray, "m v"]) -> float:
        """Mean of -log q of the next symbol; over the entropy it is KL(law || q)."""
        return float(-self.p @ (self.law * np.log(np.maximum(q, TINY))).sum(axis=1))

    def counted(
        self, rng: np.random.Generator, samples: Int[np.ndarray, " k"]
    ) -> Float[np.ndarray, " k"]:
        """Exact loss of counts of so many samples each, all drawn anew.

        Every count begins at 1/2 (Krichevsky and Trofimov).

        Example:
          >>> source = zipf_contexts(np.random.default_rng(0), 0.5, 1000, 16)
          >>> source.counted(np.random.default_rng(1), np.array([0])).round(3).tolist()
          [2.773]
        """
        found = []
        for count in np.asarray(samples).astype(int):
            visits = rng.multinomial(count, self.p)
            seen = visits > 0
            table = rng.multinomial(visits[seen], self.law[seen]) + 0.5
            q = table / table.sum(axis=1, keepdims=True)
            unseen = (1 - self.p[seen].sum()) * math.log(self.law.shape[1])
            found.append(Contexts(self.p[seen], self.law[seen]).loss(q) + unseen)
        return np.array(found)


def zipf_contexts(
    rng: np.random.Generator,
    exponent: float,
    count: int,
    symbols: int,
    concentration: float = 0.5,
) -> Contexts:
    """Contexts of probability ``p_k ∝ k^-(1 + exponent)``, laws from a Dirichlet.

    Counts of D samples have learned the first D^(1 / (1 + exponent)) of them: their KL
    falls as D^-(exponent / (1 + exponent)) until the contexts end.

    Args:
      rng: draws the laws.
      exponent: above 0.
      count: contexts.
      symbols: of the alphabet.
      concentration: of the Dirichlet law; 1/2 is what counts from 1/2 expect.

    Example:
      >>> zipf_contexts(np.random.default_rng(0), 1.0, 100, 4).law.shape
      (100, 4)
    """
    expect("exponent", exponent, exponent > 0, "expected above 0")
    p = np.arange(1.0, whole("count", count) + 1) ** -(1 + exponent)
    law = rng.standard_gamma(concentration, (count, whole("symbols", symbols, 2)))
    law += TINY
    return Contexts(p / p.sum(), law / law.sum(axis=1, keepdims=True))


def markov_contexts(
    rng: np.random.Generator, symbols: int, concentration: float = 1 / 3
) -> Contexts:
    """All pairs of symbols of a Markov source of order 2, with their stationary law.

    The pair (a, b) is context ``a symbols + b``.

    Example:
      >>> len(markov_contexts(np.random.default_rng(0), 4).p)
      16
    """
    law = rng.dirichlet(
        np.full(whole("symbols", symbols, 2), concentration), (symbols,) * 2
    )
    p = np.full((symbols, symbols), symbols**-2.0)
    for _ in range(500):
        p = np.einsum("ab,abc->bc", p, law)
    return Contexts(p.ravel() / p.sum(), law.reshape(-1, symbols))


def quantized_information(correlation: float, levels: int) -> float:
    """Mutual information of two normal numbers, each in levels of equal probability.

    Args:
      correlation: between -1 and 1.
      levels: of each.

    Returns:
      Nats; below -log(1 - correlation^2) / 2, that of the numbers themselves.

    Example:
      >>> round(quantized_information(0.8, 2), 3)  # of the signs alone
      0.186
    """
    from scipy import stats

    expect("correlation", correlation, abs(correlation) < 1, "expected in (-1, 1)")
    # Beyond 9 deviations there is nothing, and infinite ends are NaN to the law.
    ends = stats.norm.ppf(np.linspace(0, 1, whole("levels", levels) + 1)).clip(-9, 9)
    law = stats.multivariate_normal(np.zeros(2), [[1, correlation], [correlation, 1]])
    under = law.cdf(np.stack(np.meshgrid(ends, ends, indexing="ij"), -1))
    p = np.diff(np.diff(under, axis=0), axis=1).clip(TINY).reshape(levels, levels)
    p /= p.sum()
    return float((p * np.log(p / np.outer(p.sum(1), p.sum(0)))).sum())
