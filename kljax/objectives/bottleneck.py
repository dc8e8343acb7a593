"""Information bottlenecks: a code that tells the target, and little else of the input.

    L = fit(y, decode(t)) + beta rate(x, t),   t ~ N(mean(x), exp(log_var(x)))

Encoder and decoder are the caller's: `coded` draws t and decodes it, `bottleneck_loss`
is L. What goes by the field's names are pairs of a fit and a rate:

    name              fit              rate
    deep VIB          squared          vib               Alemi et al. 2017
    NIB               squared          nib               Kolchinsky et al. 2019
    square-NIB        squared          nib_squared       Kolchinsky et al. 2019b
    exp-NIB           squared          nib_exponential   Rodriguez Galvez et al. 2020
    HSIC-bottleneck   squared          hsic              Ma et al. 2020
    CS-IB             conditional_cs   cs                Yu et al. 2024

A rate of a code that is a function of the input (`log_var` None) is "cs" or "hsic"; the
mutual information of such a code is infinite, and what these kernels say of it depends
on the scale of t. A code without noise can lower them by becoming smaller alone.

Kernels compare the examples of a batch, so that what is made of them belongs to the
batch: it stands in the loss of every example, whose weighted mean then holds it once. A
beta that suits 128 examples need not suit 4,096. The gradients of "correntropy" and
"conditional_cs" vanish where errors are large beside the width of y: that is why wrong
targets do no harm, and why a target should have a deviation of about 1.

References: Tishby, Pereira and Bialek 1999; Alemi et al. 2017, "Deep variational
information bottleneck"; Kolchinsky, Tracey and Wolpert 2019, "Nonlinear information
bottleneck"; Kolchinsky, Tracey and Van Kuyk 2019b, "Caveats for information bottleneck
in deterministic scenarios"; Rodriguez Galvez, Thobaben and Skoglund 2020, "The convex
information bottleneck Lagrangian"; Ma, Lewis and Kleijn 2020, "The HSIC bottleneck"; Yu
et al. 2024, "Cauchy-Schwarz divergence information bottleneck for regression".
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from kljax.arguments import floating
from kljax.divergences import paired
from kljax.divergences.gaussian import DiagonalGaussian, kl
from kljax.errors import unknown
from kljax.typing import Array, ArrayLike, Bool, Float, Key

__all__ = [
    "Code",
    "Plane",
    "Widths",
    "bottleneck_loss",
    "coded",
    "information_plane",
    "nib_rate",
    "vib_rate",
]


class Widths(NamedTuple):
    """Widths of the Gaussian kernels of inputs, targets and codes, see `paired`.

    A number or one per coordinate; may be traced. With many inputs a width of x of 1
    leaves every example alone: `conditional_cs` is then a loss of single errors.
    """

    x: ArrayLike = 1.0
    y: ArrayLike = 1.0
    t: ArrayLike = 1.0


UNIT = Widths()


class Code(NamedTuple):
    """What an encoder said of a batch, a draw of the code, and what was decoded."""

    mean: Float[Array, "b k"]
    log_var: Float[Array, "b k"] | None
    """None: the code is its mean."""
    t: Float[Array, "b k"]
    prediction: Float[Array, "b m"]


def coded(
    mean: Float[ArrayLike, "b k"],
    log_var: Float[ArrayLike, "b k"] | None,
    decode: Callable[[Float[Array, "b k"]], Float[Array, "b m"]],
    *,
    key: Key[Array, ""] | None = None,
) -> Code:
    """A code drawn once for every example, t = mean + exp(log_var/2) eps, and decoded.

    Args:
      mean, log_var: of the encoder; None: no noise.
      decode: from codes to predictions.
      key: of the noise; None: t is the mean, as where a model is judged.

    Returns:
      `Code`, differentiable in everything.

    Raises:
      ValueError: shapes that differ.

    Example:
      >>> found = coded(jnp.zeros((3, 2)), None, lambda t: t.sum(1, keepdims=True))
      >>> found.prediction.shape
      (3, 1)
    """
    mean = floating("mean", mean)
    if log_var is not None:
        log_var = floating("log_var", log_var)
        if log_var.shape != mean.shape:
            raise ValueError(
                f"mean and log_var must have one shape, got {mean.shape} and "
                f"{log_var.shape}"
            )
    t = mean
    if log_var is not None and key is not None:
        t = mean + jnp.exp(log_var / 2) * jax.random.normal(key, t.shape, t.dtype)
    return Code(mean, log_var, t, decode(t))


def vib_rate(
    mean: Float[ArrayLike, "b k"], log_var: Float[ArrayLike, "b k"]
) -> Float[Array, " b"]:
    """KL(N(mean, exp(log_var)) ‖ N(0, I)) of each example: its mean bounds I(x; t).

    Returns:
      Nats `[b]`, ≥ 0.

    Raises:
      ValueError: shapes that differ.

    Example:
      >>> vib_rate(jnp.ones((1, 2)), jnp.zeros((1, 2))).tolist()
      [1.0]

    References:
      Alemi et al. 2017, Eq. 14.
    """
    mean, var = _variances(mean, log_var)
    normal = DiagonalGaussian(jnp.zeros_like(mean), jnp.ones_like(mean))
    return kl(DiagonalGaussian(mean, var), normal)


def nib_rate(
    mean: Float[ArrayLike, "b k"],
    log_var: Float[ArrayLike, "b k"],
    *,
    log_weights: Float[ArrayLike, " b"] | None = None,
) -> Float[Array, " b"]:
    """−log mean_j exp(−KL_ij) of each example i: its mean bounds I(x; t) of the batch.

    KL_ij is that of the codes of examples i and j; no prior is assumed. At most log b,
    where no two codes overlap.

    Args:
      mean, log_var: of the encoder.
      log_weights: of the examples in the mean over j; −inf takes one away.

    Returns:
      Nats `[b]`, ≥ 0.

    Raises:
      ValueError: shapes that differ.

    Example:
      >>> apart = jnp.array([[0.0], [99.0]])
      >>> [round(float(x), 4) for x in nib_rate(apart, jnp.zeros((2, 1)))]  # log 2
      [0.6931, 0.6931]

    References:
      Kolchinsky, Tracey and Wolpert 2019, Eq. 8.
    """
    mean, var = _variances(mean, log_var)
    b = mean.shape[0]
    log_w = (
        jnp.zeros(b) if log_weights is None else floating("log_weights", log_weights)
    )
    gone = (log_w == -jnp.inf)[:, None]
    mean, var = jnp.where(gone, 0, mean), jnp.where(gone, 1, var)
    mean = mean - jax.lax.stop_gradient(mean.mean(axis=0))
    # Products lose digits where codes are close, by no more than rounding of KL + k.
    times = lambda a, c: jnp.matmul(a, c.T, precision=jax.lax.Precision.HIGHEST)  # noqa: E731
    squares = times(var + mean**2, 1 / var) - 2 * times(mean, mean / var)
    squares += jnp.sum(mean**2 / var, axis=1)
    sizes = jnp.sum(jnp.log(var), axis=1)
    gaps = 0.5 * (squares - mean.shape[1] + sizes - sizes[:, None])
    gaps = jnp.where(jnp.eye(b, dtype=bool) | (gaps < 0), 0, gaps)
    return jax.nn.logsumexp(log_w) - jax.nn.logsumexp(log_w - gaps, axis=1)


def _variances(mean: ArrayLike, log_var: ArrayLike) -> tuple[Array, Array]:
    mean, log_var = floating("mean", mean), floating("log_var", log_var)
    if mean.ndim != 2 or mean.shape != log_var.shape:
        raise ValueError(
            f"mean and log_var must be [b, k], got {mean.shape} and {log_var.shape}"
        )
    return mean, jnp.exp(log_var)


class _Batch(NamedTuple):
    """What fits and rates are of."""

    x: Array
    y: Array
    code: Code
    widths: Widths
    log_weights: Array
    estimator: str

    @property
    def noisy(self) -> tuple[Array, Array]:
        if self.code.log_var is None:
            raise ValueError("this rate is of a code with noise, and log_var is None")
        return self.code.mean, self.code.log_var

    def nib(self) -> Array:
        return nib_rate(*self.noisy, log_weights=self.log_weights)

    def mean(self, values: Array) -> Array:
        """Over the examples that count."""
        share = jax.nn.softmax(self.log_weights)
        return jnp.sum(jnp.where(share == 0, 0, share * values))

    def of_code(self, measure: Callable[..., Array], of: str, **options: Any) -> Array:
        """A dependence of inputs ("x") or targets ("y") and codes."""
        sides = getattr(self, of), self.code.t, getattr(self.widths, of), self.widths.t
        return measure(*sides, log_weights=self.log_weights, **options)


def _correntropy(on: _Batch) -> Array:
    kernel = -jnp.sum(((on.y - on.code.prediction) / on.widths.y) ** 2, axis=1) / 2
    return -2 * jax.nn.logsumexp(jax.nn.log_softmax(on.log_weights) + kernel)


_hsic, _cs = paired.hsic, paired.cauchy_schwarz_information
_FITS: dict[str, Callable[[_Batch], Array]] = {
    "squared": lambda on: jnp.sum((on.y - on.code.prediction) ** 2, axis=1),
    "absolute": lambda on: jnp.sum(jnp.abs(on.y - on.code.prediction), axis=1),
    "correntropy": _correntropy,
    "conditional_cs": lambda on: paired.conditional_cauchy_schwarz(
        *(on.x, on.y, on.code.prediction, on.widths.x, on.widths.y),
        estimator=on.estimator,
        log_weights=on.log_weights,
    ),
}
_RATES: dict[str, Callable[[_Batch], Array]] = {
    "none": lambda on: jnp.zeros(()),
    "vib": lambda on: vib_rate(*on.noisy),
    "nib": _Batch.nib,
    "nib_squared": lambda on: on.mean(on.nib()) ** 2,
    "nib_exponential": lambda on: jnp.exp(on.mean(on.nib())),
    "hsic": lambda on: on.of_code(_hsic, "x") - on.of_code(_hsic, "y"),
    "cs": lambda on: on.of_code(_cs, "x", normalized=True),
    "cs_plain": lambda on: on.of_code(_cs, "x"),
}


def bottleneck_loss(
    x: Float[ArrayLike, "b *event"],
    y: Float[ArrayLike, "b m"],
    code: Code,
    *,
    fit: str = "squared",
    rate: str = "none",
    beta: ArrayLike = 0.0,
    widths: Widths = UNIT,
    estimator: str = "psd",
    where: Bool[ArrayLike, " b"] | None = None,
) -> tuple[Float[Array, " b"], dict[str, Array]]:
    """fit + beta rate; the pairs that have a name of their own stand above.

    Args:
      x: inputs; flattened where kernels compare them.
      y: targets.
      code: from `coded`.
      fit: "squared" and "absolute" errors, summed over the targets; "conditional_cs",
        `paired.conditional_cauchy_schwarz` (Yu et al., Eq. 5); "correntropy", its limit
        of a narrow kernel of x, −2 log mean κ(y − prediction).
      rate: "none"; "vib" and "nib"; "nib_squared" and "nib_exponential", the square and
        the exponential of NIB's mean; "hsic", HSIC(x, t) − HSIC(y, t); "cs" and
        "cs_plain", the Cauchy–Schwarz information of x and t, normalized and not.
      beta: ≥ 0, may be traced.
      widths: of the kernels.
      estimator: of "conditional_cs".
      where: which examples count; the others have no part in what belongs to the batch,
        and their own losses mean nothing.

    Returns:
      The loss per example, and metrics "bottleneck/fit" and "bottleneck/rate", per
      example or one for the batch.

    Raises:
      ValueError: an unknown name, shapes that do not fit, or a rate that needs noise of
        a code that has none.

    Example:
      >>> x = jnp.array([[0.0], [9.0]])
      >>> code = coded(x, jnp.zeros((2, 1)), lambda t: t)
      >>> loss, _ = bottleneck_loss(x, x + 1, code, rate="vib", beta=2.0)
      >>> loss.tolist()  # 1 + 2 (mean² / 2)
      [1.0, 82.0]
    """
    x, y = floating("x", x), floating("y", y)
    b = y.shape[0]
    shapes = x.shape[:1], code.t.shape[:1], (b,)
    if y.ndim != 2 or code.prediction.shape != y.shape or len({*shapes}) > 1:
        raise ValueError(
            "x, y and the code must be of the same examples, y and prediction [b, m]; "
            f"got {x.shape}, {y.shape}, {code.t.shape} and {code.prediction.shape}"
        )
    for name, known, word in ((fit, _FITS, "fit"), (rate, _RATES, "rate")):
        if name not in known:
            raise ValueError(unknown(word, name, known))
    counts = jnp.ones(b, bool) if where is None else jnp.asarray(where)
    kept = lambda a: jnp.where(counts[:, None], a, 0)  # noqa: E731
    on = _Batch(
        kept(x.reshape(b, -1)),
        kept(y),
        jax.tree.map(kept, code),
        widths,
        jnp.where(counts | ~counts.any(), 0.0, -jnp.inf).astype(y.dtype),
        estimator,
    )
    found = {"fit": _FITS[fit](on), "rate": _RATES[rate](on)}
    loss = found["fit"] + beta * found["rate"]
    metrics = jax.lax.stop_gradient({f"bottleneck/{k}": v for k, v in found.items()})
    return jnp.broadcast_to(loss, (b,)), metrics


class Plane(NamedTuple):
    """Coordinates of the information plane."""

    relevance: Float[Array, ""]
    """What the prediction tells of y, nats (over log 2: bits)."""
    complexity: Float[Array, ""]
    """What the code tells of x."""


def information_plane(
    x: Float[ArrayLike, "n *event"],
    y: Float[ArrayLike, "n m"],
    code: Code,
    *,
    widths: Widths = UNIT,
    normalized: bool = False,
) -> Plane:
    """Where an encoder stands between remembering x and predicting y.

    Relevance is ½ log(var y / mean squared error), summed over the targets: I(y; t) of
    jointly Gaussian y and prediction. Complexity is the Cauchy–Schwarz information of x
    and t; a compression ratio is 1 less what it is over what it is at beta = 0.

    Args:
      x, y, code: of a sample, the code without noise as a rule.
      widths: of the kernels. With t in units of its own `median_distance` the
        complexity does not fall where codes only become smaller.
      normalized: of the complexity, as in `paired.cauchy_schwarz_information`.

    Returns:
      `Plane`.

    Raises:
      ValueError: shapes that do not fit.

    Example:
      >>> y = jnp.array([[-1.0], [1.0]])
      >>> plane = information_plane(y, y, coded(y, None, lambda t: t / 2))
      >>> round(float(plane.relevance), 4)  # log 2
      0.6931

    References:
      Yu et al. 2024, Fig. 1.
    """
    x, y = floating("x", x), floating("y", y)
    error = jnp.mean((y - code.prediction) ** 2, axis=0)
    relevance = 0.5 * jnp.sum(jnp.log(jnp.var(y, axis=0)) - jnp.log(error))
    sides = x.reshape(len(x), -1), code.t, widths.x, widths.t
    return Plane(relevance, _cs(*sides, normalized=normalized))
