"""A linear network that averages its data: bounds and gap in closed form.

Labels are ±1 with equal chance and X | Y ~ N(Y mu, s^2 I), so that every Z_i = Y_i X_i
is N(mu, s^2 I). The network W_L .. W_1 ends at the vector

    w = (1/n) sum_i Z_i ~ N(mu, s^2/n I),

and depends on the data through it alone. Given w a training point is

    Z_i | w ~ N(w, s^2 (1 − 1/n) I),  a fresh one N(mu, s^2 I),

both independent of the label: I(Y_i; W) = 0. Features of layer l are A_l X, where
A_l = W_l .. W_1 has the rank r_l, and what counts of them is A_l's row space.

Every layer's bound, and the true gap, is then a function of w: means over draws of w,
`LinearNetwork.draw`, are the numbers of `kljax.theory.generalization`. Numbers in
parentheses are those of our derivations. Reference: He and Goldfeld 2024, arXiv
2404.03176, who treat this example; its text was not to be had.
"""

import dataclasses
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import log_ndtr, ndtr

from kljax.arguments import floating, legal
from kljax.divergences import forward_kl
from kljax.typing import Array, ArrayLike, Float, Key

__all__ = ["LinearNetwork", "Margins", "mean_layer_kl"]

_NODES, _WEIGHTS = np.polynomial.hermite_e.hermegauss(64)
Each = Float[Array, "*b"]
Row = Float[ArrayLike, "*#b"]


def mean_layer_kl(rank: Row, n: Row) -> Each:
    """``−(r/2) log(1 − 1/n)``: E KL of a layer whose row space is not learnt (11).

    About r/(2n). At the input, r = d, it is I(Z_i; W). A row space that is drawn from
    the data costs more, see `LinearNetwork.kl`.

    Args:
      rank: r of the layer.
      n: training examples, > 1; 1 gives infinity.

    Example:
      >>> round(float(mean_layer_kl(20, 50)), 4)
      0.202
    """
    n = legal("n", floating("n", n), lambda x: x < 1, "at least 1")
    return -floating("rank", rank) / 2 * jnp.log1p(-1 / n)


class Margins(NamedTuple):
    """The laws of the margin y w·x given w: normal, on training and on fresh data."""

    train_mean: Each
    train_std: Each
    mean: Each
    std: Each


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class LinearNetwork:
    """Trained networks of one problem, a pytree; every method gives a number per w.

    Args:
      w: what the network ends at, `[..., d]`.
      mu: the mean of Z, `[d]`.
      n: training examples, > 1.
      scale: s > 0, the standard deviation of Z along every axis.

    Example:
      >>> key, mu = jax.random.key(0), jnp.eye(20)[0]
      >>> found = LinearNetwork.draw(key, 1000, mu, n=50.0)
      >>> bool((found.kl() > found.last_kl()).all())
      True
    """

    w: Float[Array, "*b d"]
    mu: Float[Array, "d"]
    n: ArrayLike
    scale: ArrayLike = 1.0

    @classmethod
    def draw(
        cls,
        key: Key[Array, ""],
        count: int,
        mu: Float[ArrayLike, "d"],
        n: ArrayLike,
        scale: ArrayLike = 1.0,
    ) -> "LinearNetwork":
        """As many w, each of a data set of its own, without drawing the data."""
        mu = floating("mu", mu)
        noise = jax.random.normal(key, (count, *mu.shape), mu.dtype)
        return cls(
            mu + scale * noise / jnp.sqrt(jnp.asarray(n, mu.dtype)), mu, n, scale
        )

    @property
    def moved(self) -> Float[Array, "*b d"]:
        """w − mu: how far training data lie from fresh ones."""
        return self.w - self.mu

    @property
    def _shrunk(self) -> Any:
        """1 − sqrt(1 − 1/n), by how much training data lie closer together."""
        return -jnp.expm1(jnp.log1p(-1 / jnp.asarray(self.n)) / 2)

    def kl(self, rows: Float[ArrayLike, "*#b r d"] | None = None) -> Each:
        """KL of a layer's features on training data from those on fresh data (10).

        ½ [−r/n − r log(1 − 1/n) + |Pi (w − mu)|²/s²], Pi the projector on A's row
        space; what A does inside of it does not matter.

        Args:
          rows: orthonormal rows that span it, `[..., r, d]`; None for the input.

        Returns:
          Nats, for each w.
        """
        n = jnp.asarray(self.n)
        if rows is None:
            rank, part = self.w.shape[-1], self.moved
        else:
            basis = floating("rows", rows)
            rank = basis.shape[-2]
            part = jnp.einsum("...rd,...d->...r", basis, self.moved)
        spread = -rank * (1 / n + jnp.log1p(-1 / n))
        return (spread + jnp.sum(part**2, axis=-1) / self.scale**2) / 2

    def rows(self, rank: int) -> Float[Array, "*b r d"]:
        """An orthonormal basis of w and the last axes: a layer of that rank.

        Row spaces of the layers before the last one must hold w, which the last one's
        is; those of `rows(r)` are nested.
        """
        d = self.w.shape[-1]
        fixed = jnp.eye(rank - 1, d, dtype=self.w.dtype)[:, ::-1]
        rest = jnp.where(jnp.arange(d) > d - rank, 0, self.w)
        unit = rest / jnp.linalg.norm(rest, axis=-1, keepdims=True)
        shape = *unit.shape[:-1], *fixed.shape
        return jnp.concatenate([jnp.broadcast_to(fixed, shape), unit[..., None, :]], -2)

    def last_kl(self) -> Each:
        """`kl` of the last layer, whose row space is that of w itself (12)."""
        return self.kl(self.rows(1))

    @property
    def margins(self) -> Margins:
        """The laws of y w·x (13)."""
        n, size = jnp.asarray(self.n), jnp.linalg.norm(self.w, axis=-1)
        std = self.scale * size
        return Margins(size**2, std * jnp.sqrt(1 - 1 / n), self.w @ self.mu, std)

    def sign_kl(self) -> Each:
        """KL of "right or wrong" on training data from that on fresh data (13)."""
        m = self.margins
        train, fresh = m.train_mean / m.train_std, m.mean / m.std
        p, q = (jnp.stack([log_ndtr(x), log_ndtr(-x)], -1) for x in (train, fresh))
        return forward_kl(p, q)

    def zero_one_gap(self) -> Each:
        """Error on fresh data minus error on training data (14)."""
        m = self.margins
        return ndtr(-m.mean / m.std) - ndtr(-m.train_mean / m.train_std)

    def logistic_gap(self) -> Each:
        """The same of the loss log(1 + e^(−margin)), by 64 nodes of Gauss–Hermite."""
        m, x = self.margins, jnp.asarray(_NODES, self.w.dtype)
        weights = jnp.asarray(_WEIGHTS / math.sqrt(2 * math.pi), self.w.dtype)
        risk = lambda mean, std: (  # noqa: E731
            jax.nn.softplus(-(mean[..., None] + std[..., None] * x)) @ weights
        )
        return risk(m.mean, m.std) - risk(m.train_mean, m.train_std)

    def linear_gap(self) -> Each:
        """The same of the loss −margin: its mean over w is d s²/n."""
        return jnp.sum(self.w * self.moved, axis=-1)

    def w1(self, layer: Float[ArrayLike, "*#b r d"] | None = None) -> tuple[Each, Each]:
        """Two ends between which W_1 of a layer's features lies (15).

        |A (w − mu)|, what the means alone cost (Jensen), and the W_2 of two Gaussians,
        sqrt(|A (w − mu)|² + s² (1 − sqrt(1 − 1/n))² |A|_F²).

        Args:
          layer: A, `[..., r, d]`; None for the input.

        Returns:
          Lower and upper end, for each w, in units of the features.
        """
        if layer is None:
            low, size = jnp.sum(self.moved**2, -1), self.w.shape[-1]
        else:
            matrix = floating("layer", layer)
            low = jnp.sum(jnp.einsum("...rd,...d->...r", matrix, self.moved) ** 2, -1)
            size = jnp.sum(matrix**2, axis=(-2, -1))
        closer = (self.scale * self._shrunk) ** 2 * size
        return jnp.sqrt(low), jnp.sqrt(low + closer)

    def last_w1(self) -> Each:
        """W_1 of the margins, exactly: that of two normal laws on a line (15).

        ``k sqrt(2/pi) exp(−m²/2k²) + m (1 − 2 Phi(−m/k))``, m the difference of the
        means and k that of the standard deviations.
        """
        m = self.margins
        gap, k = m.train_mean - m.mean, m.std * self._shrunk
        ratio = gap / k
        flat = k * math.sqrt(2 / math.pi) * jnp.exp(-(ratio**2) / 2)
        return flat + gap * (1 - 2 * ndtr(-ratio))
