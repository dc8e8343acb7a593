"""Scaling laws, a power law and a constant, fitted by what refuses where it must.

    L(x) = L_inf + (x0 / x)^alpha,    x: weights N, compute C or data D          (1)
    E_p[-log q] = H(p) + KL(p || q)                                              (2)

If the model class holds the truth in the limit, the constant is the entropy of the data
and the other term the divergence from it to the model. Whether a curve tells the
constant is another question: `power_law` fits it with intervals and with two rivals, a
power law without a constant and one whose exponent drifts, and `Fit.verdict` says if
the constant is identified.

Losses are in nats, per token unless said otherwise. What a budget of compute is best
spent on: `kljax.theory.compute_optimal`.

Reference: Henighan et al. 2020, "Scaling laws for autoregressive generative modeling",
arXiv 2010.14701, whose equations are meant by numbers in parentheses.
"""

import math
from typing import Any, NamedTuple

import numpy as np

from kljax.arguments import expect, whole
from kljax.typing import ArrayLike, Float

__all__ = [
    "Fit",
    "PowerLaw",
    "Verdict",
    "information_gain",
    "local_exponents",
    "position_information",
    "power_law",
]

HUBER = 1.345
"""Deviations beyond which a point counts as in the L1 norm: 95 % efficient."""
LEAST_SPREAD = 1e-10
"""Of relative residuals: curves without any noise have no other."""
SETTLED = 1e-11
"""Largest move, in logarithms, of a descent that has ended."""
NOTHING = -60.0
"""Logarithm of a constant that is 0, over the least loss."""
STARTS = tuple((a, f) for a in (0.05, 0.1, 0.2, 0.4, 0.8) for f in (0.5, 0.9, 0.99))
"""Exponents, and constants over the least loss, that fits start from."""
AT_BOUND, SUPPORT, SIGNIFICANT, MILD, STEEP = 1e-3, 2.0, 0.05, 0.2, 1.0
"""Of `Fit.verdict`: least share of the loss, AICc, p of a drift, drifts that count."""

Each = Float[np.ndarray, "*b"] | float
Number = Float[ArrayLike, "*#b"]


class PowerLaw(NamedTuple):
    """``floor + (scale / x)^alpha`` (1); the scale by its logarithm: it may be 1e300.

    Example:
      >>> law = PowerLaw(3.13, 0.19, math.log(1.8e-8))  # images of 8 x 8, by compute
      >>> round(law.per(192).floor)
      601
    """

    floor: Each
    alpha: Each
    log_scale: Each

    def reducible(self, x: Number) -> Each:
        """(scale / x)^alpha: the KL, if the floor is the entropy (2)."""
        return np.exp(self.alpha * (self.log_scale - np.log(x)))

    def __call__(self, x: Number) -> Each:
        return self.floor + self.reducible(x)

    @property
    def scale(self) -> Each:
        return np.exp(self.log_scale)

    def per(self, tokens: float) -> "PowerLaw":
        """The law of so many tokens' loss: their floors, and scale T^(1 / alpha)."""
        moved = self.log_scale + math.log(tokens) / self.alpha
        return PowerLaw(self.floor * tokens, self.alpha, moved)


class Verdict(NamedTuple):
    """Whether a curve tells its constant: "identified", "warned" or "refused"."""

    status: str
    reasons: tuple[str, ...]

    def __str__(self) -> str:
        return ": ".join(filter(None, (self.status, "; ".join(self.reasons))))


class Fit(NamedTuple):
    """A law and what speaks against it; any leading axes but in `verdict`."""

    law: PowerLaw
    floor_interval: Float[np.ndarray, "*b 2"]
    """By profile likelihood; from 0 where the constant may be 0."""
    alpha_interval: Float[np.ndarray, "*b 2"]
    without: PowerLaw
    """The best law without a constant."""
    support: Each
    """By how much the constant lowers AICc; a small curve asks for more than a long
    one."""
    drift: Each
    """Where the exponent may change linearly in log x: its change from the first point
    to the last, over its mean. Above 0 the curve steepens."""
    drift_floor: Each
    """The constant that goes with it."""
    drift_p: Each
    """Probability of such a drift, or more, if there is none."""
    spread: Each
    """Scale of the relative residuals."""
    least: Each
    """The least loss of the curve."""

    def verdict(self) -> Verdict:
        """Whether the constant is identified, with the reasons.

        Refused: it is at its bound; a law without it is as good (AICc within 2); its
        interval reaches 0; the exponent more than doubles along the curve. Warned: the
        exponent changes by more than a fifth, and not by chance.
        """
        floor, drift = float(self.law.floor), float(self.drift)
        drifts = float(self.drift_p) < SIGNIFICANT and abs(drift) > MILD
        turn = "steepens" if drift > 0 else "flattens"
        about = (
            f"the curve {turn} beside its power law: an exponent that changes by "
            f"{100 * drift:+.0f} % from end to end fits better, with a constant of "
            f"{float(self.drift_floor):.4g}"
        )
        refusals = (
            (floor <= AT_BOUND * float(self.least), "the constant is at its bound, 0"),
            (
                float(self.support) < SUPPORT,
                "a power law without a constant is as good "
                f"(AICc {float(self.support):+.1f}, asked is {SUPPORT:g})",
            ),
            (float(self.floor_interval[0]) <= 0, "the interval reaches 0"),
            (drifts and drift > STEEP, about),
        )
        found = tuple(words for true, words in refusals if true)
        if found:
            return Verdict("refused", found)
        return Verdict("warned", (about,)) if drifts else Verdict("identified", ())


# A point theta [*b 4] is: log of the floor over the least loss, log of the reducible
# loss in the middle, log of the exponent in u, drift; u [n] is log x, centered, over
# half of its range. All starts of all curves go down together.


class Curves(NamedTuple):
    """What is fitted: u `[n]`, and log L over the least loss `[m 1 n]`."""

    u: np.ndarray
    y: np.ndarray

    def model(self, theta: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """log L and its derivatives, `[m s n]` and `[m s n 4]`."""
        floor, middle, log_slope, drift = np.moveaxis(theta[..., None], -2, 0)
        slope = np.exp(log_slope)
        reducible = middle - slope * self.u - drift * self.u**2 / 2
        log_loss = np.logaddexp(floor, reducible)
        rest = np.exp(reducible - log_loss)
        parts = 1 - rest, rest, -rest * slope * self.u, -rest * self.u**2 / 2
        return log_loss, np.stack(parts, axis=-1)

    def deviance(self, r: np.ndarray, spread: np.ndarray) -> np.ndarray:
        """-2 log-likelihood of residuals that follow Huber's law."""
        return 2 * _huber(r, spread).sum(-1) + 2 * len(self.u) * np.log(spread)

    def descend(
        self, theta: np.ndarray, free: Any, steps: int
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Levenberg-Marquardt in the free coordinates: theta, deviance and spread.

        The scale of the residuals is estimated along the way.
        """
        free = np.broadcast_to(free, theta.shape)
        r = self.model(theta)[0] - self.y
        damping, spread = np.full(theta.shape[:-1], 1e-2), r.std(-1) + 1e-3
        for _ in range(steps):
            model, slopes = self.model(theta)
            r, slopes = model - self.y, slopes * free[..., None, :]
            weighted = slopes * _weight(r, spread)[..., None]
            normal = np.swapaxes(weighted, -1, -2) @ slopes
            size = np.einsum("...ii->...i", normal)
            ridge = damping[..., None] * size + 1e-14 * size.max(-1, keepdims=True)
            normal = normal + np.eye(4) * (ridge + (1 - free) + 1e-300)[..., None]
            pull = (weighted * r[..., None]).sum(-2)
            move = np.linalg.solve(normal, pull[..., None])[..., 0]
            # A step of e^3 in a scale is a leap: what lies there says nothing of here.
            other = theta - move.clip(-3, 3)
            other[..., 0] = other[..., 0].clip(min=NOTHING)
            after = self.model(other)[0] - self.y
            better = _huber(after, spread).sum(-1) < _huber(r, spread).sum(-1)
            theta = np.where(better[..., None], other, theta)
            damping = np.where(better, damping / 4, damping * 3).clip(1e-12, 1e8)
            spread = _spread(np.where(better[..., None], after, r), spread)
            if abs(move).max() < SETTLED:
                break
        r = self.model(theta)[0] - self.y
        for _ in range(12):
            spread = _spread(r, spread)
        return theta, self.deviance(r, spread), spread

    def best(self, starts: np.ndarray, free: Any) -> tuple[np.ndarray, ...]:
        """The likeliest end of all starts, `[m 1 4]`, and its deviance, `[m]`."""
        theta, deviance, spread = self.descend(starts, free, 120)
        at = np.arange(len(theta)), deviance.argmin(axis=1)
        return theta[at][:, None], deviance[at], spread[at]

    def interval(
        self, best: np.ndarray, deviance: np.ndarray, limit: float, place: int
    ) -> np.ndarray:
        """Both ends of a coordinate's interval, `[m 2]`: where the deviance has risen
        by `limit` if the coordinate is held there."""
        sign, free = np.array([-1.0, 1.0]), np.array([1.0, 1.0, 1.0, 0.0])
        free[place] = 0
        floor, top = np.exp(best[..., 0]), np.exp(self.y.max(-1))
        far = np.where(sign < 0, floor, np.maximum(top - floor, 0))

        def held(t: np.ndarray) -> np.ndarray:
            if place:
                return best[..., place] + 4 * sign * t
            return np.log(np.maximum(floor + sign * t * far, math.exp(NOTHING)))

        low, high = np.zeros(far.shape), np.ones(far.shape)
        theta = np.repeat(best, 2, axis=1)
        for _ in range(22):
            middle = (low + high) / 2
            theta[..., place] = held(middle)
            found, risen, _ = self.descend(theta, free, 8)
            inside = risen - deviance[:, None] < limit
            theta = np.where(inside[..., None], found, theta)
            low, high = np.where(inside, middle, low), np.where(inside, high, middle)
        return held(high)


def _weight(r: np.ndarray, spread: np.ndarray) -> np.ndarray:
    """Of a residual: 1, less beyond 1.345 scales."""
    return np.minimum(1, HUBER * spread[..., None] / np.maximum(abs(r), LEAST_SPREAD))


def _huber(r: np.ndarray, spread: np.ndarray) -> np.ndarray:
    z = abs(r) / spread[..., None]
    return np.where(z < HUBER, z**2 / 2, HUBER * (z - HUBER / 2))


def _spread(r: np.ndarray, spread: np.ndarray) -> np.ndarray:
    """One step to the scale of the largest likelihood."""
    mean = (_weight(r, spread) * r**2).mean(-1)
    return np.sqrt(mean).clip(min=LEAST_SPREAD)


def power_law(
    x: Float[np.ndarray, " n"], loss: Float[np.ndarray, "*b n"], *, level: float = 0.95
) -> Fit:
    """Fits (1) to a curve, from 15 starts, by the likelihood of relative residuals.

    Residuals of log L have Huber's law (normal in the middle, exponential beyond 1.345
    scales) of a scale that is estimated: a diverged run moves little, whatever the
    noise. Intervals are where the profile of the likelihood, in the constant or in the
    exponent, has fallen by Fisher's quantile of 1 and n - 3 degrees of freedom.

    Args:
      x: what is scaled, above 0, in any order; at least 6 of them.
      loss: in nats, above 0. Leading axes are further curves.
      level: of the intervals.

    Returns:
      A `Fit`, in float64; ask its `verdict` before the constant is believed.

    Raises:
      ValueError: shapes, fewer than 6 points, a value that is not above 0, or a NaN.

    Example:
      >>> x = np.geomspace(1e3, 1e7, 10)
      >>> found = power_law(x, 2.0 + (x / 50.0) ** -0.3)
      >>> round(float(found.law.floor), 6), found.verdict().status
      (2.0, 'identified')
    """
    from scipy import special

    expect("level", level, 0 < level < 1, "expected between 0 and 1")
    x, loss = np.asarray(x, float), np.asarray(loss, float)
    if x.ndim != 1 or not loss.ndim or loss.shape[-1] != len(x) or len(x) < 6:
        shapes = f"got {x.shape} and {loss.shape}"
        raise ValueError(f"x must be [n], n of 6 or more, and loss [..., n], {shapes}")
    for name, value in (("x", x), ("loss", loss)):
        if bad := value[~((value > 0) & np.isfinite(value))].tolist():
            raise ValueError(f"{name} must be above 0 and finite, got {bad[0]}")
    n, shape, rows = len(x), loss.shape[:-1], loss.reshape(-1, len(x))
    ends = np.log([x.min(), x.max()])
    middle, half, least = ends.mean(), np.ptp(ends) / 2, rows.min(axis=1)
    u, y = (np.log(x) - middle) / half, np.log(rows / least[:, None])
    curves = Curves(u, y[:, None])

    alpha, floor = np.array(STARTS).T
    first = np.exp(y[:, u.argmin(), None])
    above = np.log(first - floor + 1e-3) - half * alpha
    others = np.log(floor), np.log(half * alpha), np.zeros(len(alpha))
    parts = np.broadcast_arrays(others[0], above, *others[1:])
    starts = np.stack(parts, axis=-1)
    pure = starts.copy()
    pure[..., 0] = NOTHING
    pure, pure_deviance, _ = curves.best(pure, (0, 1, 1, 0))
    join = lambda one: np.concatenate([starts, one], axis=1)  # noqa: E731
    best, deviance, spread = curves.best(join(pure), (1, 1, 1, 0))
    bent, bent_deviance, _ = curves.best(join(best), (1, 1, 1, 1))

    shaped = lambda v: v.reshape(shape + v.shape[1:])  # noqa: E731

    def law(theta: np.ndarray) -> PowerLaw:
        log_floor, log_middle, log_slope = theta[:, 0, :3].T
        exponent = np.exp(log_slope) / half
        constant = np.where(log_floor > NOTHING, np.exp(log_floor), 0) * least
        log_scale = (log_middle + np.log(least)) / exponent + middle
        return PowerLaw(shaped(constant), shaped(exponent), shaped(log_scale))

    t = float(special.stdtrit(n - 3, 0.5 + level / 2))
    limit = n * math.log1p(t**2 / (n - 3))
    log_floors, log_slopes = (
        curves.interval(best, deviance, limit, place) for place in (0, 2)
    )
    floors = np.where(log_floors > NOTHING + 1, np.exp(log_floors), 0)
    penalty = lambda k: 2 * k + 2 * k * (k + 1) / (n - k - 1)  # noqa: E731
    # Fisher's test of the drift, from the ratio of both likelihoods; 1 without noise.
    gain = np.where(spread > 10 * LEAST_SPREAD, deviance - bent_deviance, 0)
    fisher = (n - 4) * np.expm1(gain.clip(0) / n)
    rest = (
        pure_deviance - deviance + penalty(3) - penalty(4),
        2 * bent[:, 0, 3] / np.exp(bent[:, 0, 2]),
        np.exp(bent[:, 0, 0]) * least,
        special.betainc((n - 4) / 2, 0.5, (n - 4) / (n - 4 + fisher)),
        spread,
        least,
    )
    intervals = shaped(floors * least[:, None]), shaped(np.exp(log_slopes) / half)
    return Fit(law(best), *intervals, law(pure), *map(shaped, rest))


def local_exponents(
    x: Float[np.ndarray, " n"], loss: Float[np.ndarray, "*b n"], floor: ArrayLike
) -> Float[np.ndarray, "*b n-1"]:
    """``-Δ log(L - floor) / Δ log x`` between neighbors; constant in a power law.

    Where the entropy is known, it is the floor and the rest is the KL: an exponent that
    grows with x then says that something finite is being memorized.

    Example:
      >>> x = np.array([1.0, 10.0, 100.0])
      >>> local_exponents(x, 2 + x**-0.5, 2.0).round(3).tolist()
      [0.5, 0.5]
    """
    x, loss = np.asarray(x, float), np.asarray(loss, float)
    reducible = np.log(loss - np.asarray(floor)[..., None])
    return -np.diff(reducible, axis=-1) / np.diff(np.log(x))


def information_gain(
    blank: Number, captioned: Number, text: Number
) -> tuple[Each, Each]:
    """What a caption tells of an image: nats, and the share of the caption's own (5).

    Args:
      blank: loss of an image behind a blank caption, nats per image, of a model that
        was trained on blank captions too (else it is an overestimate).
      captioned: behind its own caption.
      text: loss of the caption, nats.

    Example:
      >>> [round(float(v), 3) for v in information_gain(30.0, 28.0, 10.0)]
      [2.0, 0.2]
    """
    told = np.asarray(blank, float) - np.asarray(captioned, float)
    return told, told / np.asarray(text, float)


def position_information(gap: Number, exponent: Number, span: int) -> Each:
    """Nats that the first T tokens tell of the next T, ``(2 H_T - H_2T) gap``.

    H are harmonic numbers of that exponent, for a loss at position t of
    ``L + gap t^-exponent`` (appendix E).

    Example:
      >>> round(float(position_information(1.0, 1.0, 2)), 4)  # 2 · 1.5 - 25/12
      0.9167
    """
    t = np.arange(1.0, 2 * whole("span", span) + 1)
    terms = np.where(t <= span, 1, -1) * t ** -np.asarray(exponent, float)[..., None]
    return np.asarray(gap, float) * terms.sum(axis=-1)
