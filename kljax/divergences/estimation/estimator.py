"""`estimate`: the one door to every way of estimating a divergence from samples."""

import math

from kljax.arguments import expect
from kljax.divergences.estimation.verdict import DivergenceEstimate
from kljax.errors import unknown
from kljax.generators import (
    FDivergence,
    ForwardKL,
    JensenShannon,
    ReverseKL,
    SquaredHellinger,
    TotalVariation,
    get,
)
from kljax.typing import ArrayLike, Float, Int

__all__ = ["estimate"]

_DIVERGENCES = (
    (ForwardKL, "forward_kl"),
    (ReverseKL, "reverse_kl"),
    (JensenShannon, "jensen_shannon"),
    (SquaredHellinger, "squared_hellinger"),
    (TotalVariation, "total_variation"),
)

Points = Float[ArrayLike, "n d"] | Int[ArrayLike, "n d"]
Others = Float[ArrayLike, "m d"] | Int[ArrayLike, "m d"]


def estimate(
    x_p: Points,
    x_q: Others,
    divergence: FDivergence | str,
    *,
    method: str = "auto",
    level: float = 0.95,
) -> DivergenceEstimate:
    """D(p‖q) from samples of both laws, with an interval, or why there is none.

    ``auto`` fits families of densities to parts of the samples (normal, Student,
    elliptical, mixtures, copulas, autoregressions of curves, kernels; of whole numbers:
    independent columns, chains, the counts themselves), weights them by the likelihood
    of held-out points, calibrates the log-ratio by logistic regression and looks with a
    small network for what it has missed. The interval holds the standard error, what
    these steps disagree by, and what the network found: it is one given the families
    fitted. It abstains where few points carry the answer.

    Args:
      x_p, x_q: the samples of target and model, `[n, d]` and `[m, d]`, drawn
        independently; `[n]` counts as `[n, 1]`. Whole numbers are outcomes.
      divergence: ``forward_kl``, ``reverse_kl``, ``jensen_shannon``,
        ``squared_hellinger``, ``total_variation``, or an object of these.
      method: ``auto``, or one of ``knn`` (both KLs), ``kde``, ``classifier`` (both KLs
        and the bounded ones), or ``cauchy_schwarz`` and ``sinkhorn``, which measure
        another divergence and say so.
      level: of the interval, in (0, 1).

    Returns:
      A `DivergenceEstimate`; printed, it says in words what it rests on. The same
      samples give the same one.

    Raises:
      ValueError: shapes that do not fit, NaN or infinity in a sample, an unknown name,
        a divergence that the method is not for, a level out of range.
      TypeError: samples that are no real numbers.

    Example:
      >>> import numpy as np
      >>> x = np.random.default_rng(0).normal(size=(2, 500, 1))
      >>> found = estimate(x[0] + 1, x[1], "forward_kl")  # truth: 0.5
      >>> found.interval[0] < 0.5 < found.interval[1]
      True

    References:
      Nguyen, Wainwright, Jordan (2010) for the bound; Wang, Kulkarni, Verdú (2009) for
      ``knn``; Biroli, Mezard (2024) for the regimes.
    """
    expect("level", level, 0 < level < 1, "it must lie between 0 and 1")
    form = get(divergence)
    name = next((word for kind, word in _DIVERGENCES if isinstance(form, kind)), None)
    if name is None:
        given = divergence if isinstance(divergence, str) else type(form).__name__
        known = [word for _, word in _DIVERGENCES]
        raise ValueError(unknown("divergence of samples", given, known))
    # SciPy loads with what fits: `import kljax.divergences` stays light.
    from kljax.divergences.estimation import inspection, methods

    try:
        way = methods.METHODS[method]
    except (KeyError, TypeError):
        raise ValueError(unknown("method", method, methods.METHODS)) from None
    methods.check(method, name)
    try:
        samples = inspection.inspected(x_p, x_q)
        if name == "reverse_kl":
            samples, form = samples._replace(p=samples.q, q=samples.p), ForwardKL()
        found = way(samples, form, level)
    except inspection.Refused as refused:
        return DivergenceEstimate(
            name,
            method,
            math.nan,
            (math.nan, math.nan),
            level,
            reason=refused.reason,
            remedy=refused.remedy,
            diagnostics=refused.diagnostics,
        )
    families = found.families
    if name == "reverse_kl":
        swap = {"p": "q", "q": "p"}
        families = {swap[side]: weights for side, weights in families.items()}
    measured = found.measured or name
    return DivergenceEstimate(
        measured,
        method,
        found.value,
        found.interval,
        level,
        found.regime,
        families=families,
        chosen=found.chosen,
        diagnostics=found.diagnostics,
        notes=(*samples.notes, *found.notes),
    )
