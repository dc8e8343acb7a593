"""The verdict on what `auto` fitted: a value, how far it may be off, or a refusal.

The half-width is the root of squares of the standard error and of what does not shrink
with n: how far the calibrated value is from the fitted one, what the network added, how
far families of like merit are apart, and a share of the noise that fitting put into the
log-ratio, in which a weak dependence can hide.
"""

from collections.abc import Mapping

import numpy as np

from kljax.divergences.estimation.auto import Fitted, fitted
from kljax.divergences.estimation.inspection import Refused, Samples
from kljax.divergences.estimation.outcomes import plug_in, tallied
from kljax.divergences.estimation.ratio import (
    Averages,
    averages,
    quantile,
    regime_of,
    tail_index,
)
from kljax.divergences.estimation.verdict import Answer, within
from kljax.generators import FDivergence

__all__ = ["auto"]

_REPEATS = 5
"""Points of a side for every outcome from which on counts say it all."""
_MANY = 20
"""Values of a column from which on those between them are taken to be like them."""
_OFTEN = 8
"""Times that an outcome of p would be expected in q's sample, were the laws equal,
from which on its absence is no chance."""
_UNSEEN = 0.02
"""Share of p in outcomes that q never shows, at most."""
_BEYOND = 0.25
"""Share of p above the largest ratio among points of q, at most."""
_CARRIED = 0.25
"""Sum of squared shares of q's points in the mean of the ratio, at most."""
_APART = 1.0
"""Half-width, in nats or in values, from which on there is no answer."""
_HIDDEN = 0.04
"""Nats that may hide in a log-ratio for each unit of its noise's variance."""


def auto(samples: Samples, divergence: FDivergence, level: float) -> Answer:
    """Families of densities, or counts where outcomes repeat often enough."""
    if samples.discrete:
        counts_p, counts_q = tallied(samples.p, samples.q)
        enough = len(counts_p) * _REPEATS <= min(len(samples.p), len(samples.q))
        new = counts_p[counts_q == 0] / len(samples.p)
        often = new[new * len(samples.q) >= _OFTEN].sum()
        if enough and (new.sum() <= _UNSEEN or (often and not _is_ordered(samples))):
            return _counted(counts_p, counts_q, divergence, level)
    found = fitted(samples, np.random.default_rng(0))
    return _judged(found, divergence, level)


def _is_ordered(samples: Samples) -> bool:
    """Whether numbers between those seen mean something: columns of many values."""
    pooled = np.concatenate([samples.p, samples.q])
    return any(len(np.unique(column)) >= _MANY for column in pooled.T)


def _bounded(divergence: FDivergence) -> bool:
    most = float(divergence.at_zero) + float(divergence.dual_at_zero)
    return bool(np.isfinite(most))


def _counted(
    counts_p: np.ndarray, counts_q: np.ndarray, divergence: FDivergence, level: float
) -> Answer:
    found = plug_in(counts_p, counts_q, divergence)
    seen = {
        "outcomes": float(len(counts_p)),
        "bias taken off": found.bias,
        "standard error": found.error,
        "share of p unseen in q": found.unseen,
    }
    if found.unseen > _UNSEEN and not _bounded(divergence):
        raise Refused(
            f"{found.unseen:.1%} of x_p are outcomes beyond those that x_q shows: the "
            "divergence may be infinite",
            "more samples of q, or a bounded divergence, such as jensen_shannon",
            seen,
        )
    width = quantile(level) * found.error + abs(found.bias)
    width += found.unseen * np.log(counts_q.sum())
    return Answer(
        *within(divergence, found.value, width, width),
        "clt",
        seen,
        families={side: {"counts of outcomes": 1.0} for side in "pq"},
        chosen="counts of outcomes: each occurs often enough to need no model",
    )


def _judged(found: Fitted, divergence: FDivergence, level: float) -> Answer:
    bounded = _bounded(divergence)
    raw, calibrated, corrected = (
        averages(divergence, *v) for v in (found.raw, found.calibrated, found.corrected)
    )
    seen, regime = _diagnostics(found)
    if not bounded:
        _refuse(seen)
    value, others = _values(found, divergence, raw, calibrated, corrected)
    misfit = {
        "calibration": value - others[0],
        "network": others[1] - others[0],
        "families": found.chosen.spread,
        "noise": _HIDDEN * found.chosen.noise,
    }
    if bounded:  # as much as they disagree of what is left
        misfit["bound"] = (calibrated.plug_in - calibrated.bound) / 2
        misfit["families"] = misfit["noise"] = 0.0
    error = quantile(level) * max(calibrated.error, _error(found, divergence))
    half = float(np.sqrt(error**2 + sum(x**2 for x in misfit.values())))
    half += 0.002
    seen |= {f"misfit, {k}": abs(float(v)) for k, v in misfit.items()}
    if not bounded and half > _APART * max(1.0, value):
        raise Refused(
            f"the families disagree by more than the divergence itself, {value:.2g} "
            f"± {half:.2g}",
            "more samples, fewer dimensions, or a bounded divergence",
            seen,
        )
    weights = _weights(found)
    return Answer(
        *within(divergence, value, half, half),
        regime,
        seen,
        families={"p": weights, "q": weights},
        chosen=_words(weights, found),
    )


def _values(
    found: Fitted,
    divergence: FDivergence,
    raw: Averages,
    calibrated: Averages,
    corrected: Averages,
) -> tuple[float, tuple[float, float]]:
    """The value, and those of the calibrated and of the corrected log-ratio."""
    if _bounded(divergence):
        return raw.middle, (calibrated.middle, corrected.middle)
    plain = lambda v: float(v[0].mean())  # noqa: E731
    others = plain(found.calibrated), plain(found.corrected)
    return plain(found.raw) + found.chosen.shift, others


def _error(found: Fitted, divergence: FDivergence) -> float:
    v = found.raw[0]
    return 0.0 if _bounded(divergence) else float(v.std() / np.sqrt(len(v)))


def _diagnostics(found: Fitted) -> tuple[dict[str, float], str]:
    v_p, v_q = found.calibrated
    ratio = np.exp(np.clip(v_q - v_q.max(), -700, 0))
    index = tail_index(v_q)
    seen = {
        "share of p beyond q": float((v_p > v_q.max()).mean()),
        "effective points of q": float(ratio.sum() ** 2 / (ratio**2).sum()),
        "tail index": index,
        "slope of calibration": float(found.line[1]),
        "network's gain": found.gain,
        "noise of the log-ratio": found.chosen.noise,
        "lower bound": float(v_p.mean() - v_q.max() - np.log(ratio.mean())),
    }
    return seen, regime_of(index)


def _refuse(seen: Mapping[str, float]) -> None:
    bounded = "a bounded divergence, such as jensen_shannon or total_variation"
    least = f"; it is at least about {max(seen['lower bound'], 0):.2g}"
    if seen["share of p beyond q"] > _BEYOND:
        raise Refused(
            f"{seen['share of p beyond q']:.0%} of x_p lie beyond everything in x_q: "
            f"the divergence is infinite or too large for these samples{least}",
            f"more samples of q, or {bounded}",
            seen,
        )
    if seen["effective points of q"] < 1 / _CARRIED:
        raise Refused(
            f"{seen['effective points of q']:.1f} points of x_q carry the ratio beyond "
            f"all others{least}",
            f"more samples of q, or {bounded}",
            seen,
        )


def _weights(found: Fitted) -> dict[str, float]:
    """Of the families, those within the mixture included."""
    *own, mixture = found.chosen.weights
    total = np.array(own) + mixture * found.chosen.mixed
    pairs = sorted(zip(total, found.held.names), reverse=True)
    return {name: round(float(weight), 3) for weight, name in pairs if weight > 0.005}


def _words(weights: Mapping[str, float], found: Fitted) -> str:
    first = list(weights)[:3]
    named = ", ".join(f"{name} {weights[name]:.0%}" for name in first)
    tried = len(found.held.spent)
    return (
        f"by the likelihood of held-out points, of {tried} families: {named}"
        + f" and {len(weights) - 3} more" * (len(weights) > 3)
    )
