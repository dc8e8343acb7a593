"""Divergences from samples with a verdict: `estimate`.

`inspection` says what is wrong with two samples. `auto` fits families of densities
(`densities`, `regression`, `outcomes`, on `lines`), weights them (`stack`), and looks
for what they missed (`residual`); `ratio` makes a divergence of a log-ratio. `methods`
holds what else can be asked for.
"""

from kljax.divergences.estimation.estimator import estimate
from kljax.divergences.estimation.verdict import DivergenceEstimate

__all__ = ["DivergenceEstimate", "estimate"]
