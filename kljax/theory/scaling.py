"""Scaling laws, a power law and a constant, fitted by what refuses where it must.

    L(x) = L_inf + (x0 / x)^alpha,    x: weights N, compute C or data D          (1)
    E_p[-log q] = H(p) + KL(p || q)                                              (2)

If the model class holds the truth in the limit, the constant is the entropy of the data
and the other term the divergence from it to the model. Whether a curve tells the
constant is another question: `power_law` fits it with intervals and with two rivals, a
power law without a constant and one whose exponent drifts, and `Fit.verdict` says if
the constant is identified. Use float64.

Losses are in nats, per token unless said otherwise. What a budget of compute is best
spent on: `kljax.theory.compute_optimal`.

Reference: Henighan et al. 2020, "Scaling laws for autoregressive generative modeling",
arXiv 2010.14701, whose equations are meant by numbers in parentheses.
"""

import functools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp

from kljax.arguments import expect, floating, legal, whole
from kljax.typing import Array, ArrayLike, Float

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
NOTHING = -60.0
"""Logarithm of a constant that is 0, over the least loss."""
STARTS = tuple((a, f) for a in (0.05, 0.1, 0.2, 0.4, 0.8) for f in (0.5, 0.9, 0.99))
"""Exponents, and constants over the least loss, that fits start from."""
AT_BOUND, SUPPORT, SIGNIFICANT, MILD, STEEP = 1e-3, 2.0, 0.05, 0.2, 1.0
"""Of `Fit.verdict`: least share of the loss, AICc, p of a drift, drifts that count."""

Each = Float[Array, "*b"]
Number = Float[ArrayLike, "*#b"]


class PowerLaw(NamedTuple):
    """``floor + (scale / x)^alpha`` (1); the scale by its logarithm, as it may be 1e300.

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
        return jnp.exp(self.alpha * (self.log_scale - jnp.log(x)))

    def __call__(self, x: Number) -> Each:
        return self.floor + self.reducible(x)

    @property
    def scale(self) -> Each:
        return jnp.exp(self.log_scale)

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
    floor_interval: Float[Array, "*b 2"]
    """By profile likelihood; from 0 where the constant may be 0."""
    alpha_interval: Float[Array, "*b 2"]
    without: PowerLaw
    """The best law without a constant."""
    support: Each
    """By how much the constant lowers AICc; a small curve asks for more than a long
    one."""
    drift: Each
    """Where the exponent may change linearly in log x: its change from the first point
    to the last, over its mean. Above 0 the curve steepens."""
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
        if not math.isfinite(floor):
            return Verdict("refused", ("the curve has a NaN",))
        drifts = float(self.drift_p) < SIGNIFICANT and abs(drift) > MILD
        turn = "steepens" if drift > 0 else "flattens"
        side = "too low" if drift > 0 else "too high"
        about = (
            f"the curve {turn} beside its power law: the exponent changes by "
            f"{100 * drift:+.0f} % from end to end, so the constant is {side}"
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


# A point theta is [log floor over the least loss, log reducible in the middle, log of
# the exponent in u, drift]; u = log x, centered, over half of its range.


def _model(theta: Array, u: Array) -> tuple[Array, Array]:
    """log L and its derivatives, `[n]` and `[n 4]`."""
    slope = jnp.exp(theta[2])
    log_reducible = theta[1] - slope * u - theta[3] * u**2 / 2
    share = jax.nn.sigmoid(theta[0] - log_reducible)
    rest = jax.nn.sigmoid(log_reducible - theta[0])
    parts = share, rest, -rest * slope * u, -rest * u**2 / 2
    return jnp.logaddexp(theta[0], log_reducible), jnp.stack(parts, axis=-1)


def _huber(r: Array) -> Array:
    size = jnp.abs(r)
    return jnp.where(size < HUBER, r**2 / 2, HUBER * (size - HUBER / 2))


def _spread(r: Array, spread: Array) -> Array:
    """One step to the scale of the largest likelihood."""
    weight = jnp.minimum(1, HUBER * spread / jnp.maximum(jnp.abs(r), LEAST_SPREAD))
    return jnp.maximum(jnp.sqrt(jnp.mean(weight * r**2)), LEAST_SPREAD)


def _descend(
    theta: Array, free: Array, u: Array, y: Array, steps: int
) -> tuple[Array, Array, Array]:
    """Levenberg-Marquardt in the free coordinates: theta, -2 log-likelihood, spread.

    Residuals of log L follow Huber's law, whose scale is estimated along the way.
    """

    def step(_, carry):
        theta, damping, spread = carry
        model, slopes = _model(theta, u)
        r, slopes = model - y, slopes * free
        weight = jnp.minimum(1, HUBER * spread / jnp.maximum(jnp.abs(r), LEAST_SPREAD))
        normal = (slopes * weight[:, None]).T @ slopes
        size = jnp.diag(normal)
        ridge = damping * size + 1e-14 * jnp.max(size) + (1 - free)
        move = jnp.linalg.solve(normal + jnp.diag(ridge), slopes.T @ (weight * r))
        # A step of e^3 in a scale is a leap: what lies there says nothing of here.
        other = theta - jnp.clip(move, -3, 3)
        other = other.at[0].set(jnp.maximum(other[0], NOTHING))
        after = _model(other, u)[0] - y
        better = _huber(after / spread).sum() < _huber(r / spread).sum()
        theta = jnp.where(better, other, theta)
        damping = jnp.clip(jnp.where(better, damping / 4, damping * 3), 1e-12, 1e8)
        return theta, damping, _spread(jnp.where(better, after, r), spread)

    start = theta, jnp.asarray(1e-2, y.dtype), jnp.std(_model(theta, u)[0] - y) + 1e-3
    theta, _, spread = jax.lax.fori_loop(0, steps, step, start)
    r = _model(theta, u)[0] - y
    spread = jax.lax.fori_loop(0, 20, lambda _, s: _spread(r, s), spread)
    deviance = 2 * _huber(r / spread).sum() + 2 * len(y) * jnp.log(spread)
    return theta, deviance, spread


def _best(starts: Array, free: Array, u: Array, y: Array, steps: int = 150):
    """The likeliest end of all starts."""
    ends = jax.vmap(lambda theta: _descend(theta, free, u, y, steps))(starts)
    first = jnp.argmin(ends[1])
    return jax.tree.map(lambda x: x[first], ends)


def _profile(best: Array, deviance: Array, limit: float, u: Array, y: Array):
    """Ends of both intervals, `[2 2]`: where the deviance has risen by `limit`."""
    top = jnp.max(y)  # log of the largest loss over the least one

    def end(place: int, sign: float) -> Array:
        free = jnp.array([1.0, 1.0, 1.0, 0.0], y.dtype).at[place].set(0)
        far = jnp.exp(best[0]) if sign < 0 else jnp.exp(top) - jnp.exp(best[0])

        def point(t: Array) -> Array:
            floor = jnp.exp(best[0]) + sign * t * far
            floor = jnp.log(jnp.maximum(floor, math.exp(NOTHING)))
            moved = floor if place == 0 else best[2] + sign * t * 4
            return best.at[place].set(moved)

        def halve(_, ends: tuple[Array, Array]) -> tuple[Array, Array]:
            low, high = ends
            middle = (low + high) / 2
            rise = _descend(point(middle), free, u, y, 40)[1] - deviance
            return jnp.where(rise < limit, middle, low), jnp.where(
                rise < limit, high, middle
            )

        zero, one = jnp.zeros((), y.dtype), jnp.ones((), y.dtype)
        found = point(jax.lax.fori_loop(0, 30, halve, (zero, one))[1])[place]
        return jnp.where(found <= NOTHING + 1, -jnp.inf, found) if place == 0 else found

    return jnp.stack([jnp.stack([end(i, s) for s in (-1.0, 1.0)]) for i in (0, 2)])


@functools.partial(jax.jit, static_argnames=("limit",))
def _fit(log_x: Array, loss: Array, limit: float) -> Fit:
    n, order = len(loss), jnp.argsort(log_x)
    log_x, loss = log_x[order], loss[order]
    middle, half = (log_x[-1] + log_x[0]) / 2, (log_x[-1] - log_x[0]) / 2
    u, least = (log_x - middle) / half, jnp.min(loss)
    y = jnp.log(loss / least)
    scales = jnp.asarray(STARTS, y.dtype)
    slope, floor = half * scales[:, 0], scales[:, 1]
    above = jnp.log(jnp.exp(y[0]) - floor + 1e-3) + slope * u[0]
    starts = jnp.stack(
        [jnp.log(floor), above, jnp.log(slope), jnp.zeros_like(slope)], 1
    )
    free = jnp.array([[1, 1, 1, 0], [0, 1, 1, 0], [1, 1, 1, 1]], y.dtype)
    pure, pure_deviance, _ = _best(starts.at[:, 0].set(NOTHING), free[1], u, y)
    starts = jnp.concatenate([starts, pure[None]])
    best, deviance, spread = _best(starts, free[0], u, y)
    starts = jnp.concatenate([starts, best[None]])
    bent, bent_deviance, _ = _best(starts, free[2], u, y)

    def law(theta: Array) -> PowerLaw:
        alpha = jnp.exp(theta[2]) / half
        floor = jnp.where(theta[0] <= NOTHING, 0, least * jnp.exp(theta[0]))
        log_scale = (theta[1] + jnp.log(least)) / alpha + middle
        return PowerLaw(floor, alpha, log_scale)

    ends = _profile(best, deviance, limit, u, y)
    intervals = least * jnp.exp(ends[0]), jnp.exp(ends[1]) / half
    penalty = lambda k: 2 * k + 2 * k * (k + 1) / (n - k - 1)  # noqa: E731
    support = pure_deviance - deviance + penalty(3) - penalty(4)
    drift = 2 * bent[3] / jnp.exp(bent[2])
    # The statistic of Fisher's test, from the ratio of both likelihoods.
    gain = jnp.maximum(deviance - bent_deviance, 0) / n
    chance = (n - 4) * jnp.expm1(gain)
    chance = (n - 4) / (n - 4 + jnp.where(spread > 10 * LEAST_SPREAD, chance, 0))
    drift_p = jax.scipy.special.betainc((n - 4) / 2, 0.5, chance)
    found = law(best), *intervals, law(pure), support, drift, drift_p, spread, least
    known = jnp.where(jnp.isnan(loss.sum() + log_x.sum()), jnp.nan, 1)
    return jax.tree.map(lambda value: value * known, Fit(*found))


def power_law(
    x: Float[ArrayLike, " n"], loss: Float[ArrayLike, "*b n"], *, level: float = 0.95
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
      A `Fit`; ask its `verdict` before the constant is believed. NaN where a curve has
      one.

    Raises:
      ValueError: shapes, fewer than 6 points, a value that is not above 0.

    Example:
      >>> x = jnp.geomspace(1e3, 1e7, 10)
      >>> found = power_law(x, 2.0 + (x / 50.0) ** -0.3)
      >>> round(float(found.law.floor), 2), found.verdict().status
      (2.0, 'identified')
    """
    from scipy import special

    expect("level", level, 0 < level < 1, "expected between 0 and 1")
    x, loss = floating("x", x), floating("loss", loss)
    if x.ndim != 1 or not loss.ndim or loss.shape[-1] != len(x) or len(x) < 6:
        shapes = f"got {x.shape} and {loss.shape}"
        raise ValueError(f"x must be [n] and loss [..., n] with n of 6 or more, {shapes}")
    x, loss = (
        legal(name, value, lambda v: v <= 0, "above 0")
        for name, value in (("x", x), ("loss", loss))
    )
    n, dtype = len(x), jnp.result_type(x, loss)
    t = float(special.stdtrit(n - 3, 0.5 + level / 2))
    limit = n * math.log1p(t**2 / (n - 3))
    rows = loss.reshape(-1, n).astype(dtype)
    of_row = lambda row: _fit(jnp.log(x).astype(dtype), row, limit)  # noqa: E731
    found = jax.vmap(of_row)(rows)
    shape = loss.shape[:-1]
    return jax.tree.map(lambda v: v.reshape(*shape, *v.shape[1:]), found)


def local_exponents(
    x: Float[ArrayLike, " n"], loss: Float[ArrayLike, "*b n"], floor: ArrayLike
) -> Float[Array, "*b n-1"]:
    """``-Δ log(L - floor) / Δ log x`` between neighbors; constant in a power law.

    Where the entropy is known, it is the floor and the rest is the KL: an exponent that
    grows with x then says that something finite is being memorized.

    Example:
      >>> x = jnp.array([1.0, 10.0, 100.0])
      >>> local_exponents(x, 2 + x**-0.5, 2.0).round(3).tolist()
      [0.5, 0.5]
    """
    x, loss = floating("x", x), floating("loss", loss)
    reducible = jnp.log(loss - jnp.asarray(floor)[..., None])
    return -jnp.diff(reducible, axis=-1) / jnp.diff(jnp.log(x))


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
    told = floating("blank", blank) - floating("captioned", captioned)
    return told, told / floating("text", text)


def position_information(gap: Number, exponent: Number, span: int) -> Each:
    """Nats that the first T tokens tell of the next T, ``(2 H_T - H_2T) gap`` (E.4).

    H are harmonic numbers of that exponent, for a loss at position t of
    ``L + gap t^-exponent``.

    Example:
      >>> round(float(position_information(1.0, 1.0, 2)), 4)  # 2 · 1.5 - 25/12
      0.9167
    """
    t = jnp.arange(1, 2 * whole("span", span) + 1)
    exponent = floating("exponent", exponent)[..., None]
    terms = jnp.where(t <= span, 1, -1) * t**-exponent
    return floating("gap", gap) * terms.sum(axis=-1)
