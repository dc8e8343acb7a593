"""Bounds on the gap of test and training risk, by layer; the Gibbs algorithm.

For n independent pairs Z_i = (X_i, Y_i), weights W learnt from them, features T_l of
layer l = 0..L (T_0 = X, T_L the output) and a loss of (T_L, Y),

    gap = E [risk on a fresh pair − mean loss on Z_1..Z_n].

Given W, a training pair's (T_l, Y) has the law P_l, a fresh pair's Q_l. The gap is the
mean over W of a difference of expectations under the two, whichever l is looked at: so
it is bounded by their distance at every layer,

    |gap| <= E_W sqrt(2 sigma^2 KL(P_l‖Q_l)),   falling in l by data processing,
    |gap| <= rho E_W [norms behind l] W_1(P_l, Q_l).

The conditioning on W is what matters: averaged over W both laws are the same.

References: He and Goldfeld 2024, "Information-theoretic generalization bounds for deep
neural networks", arXiv 2404.03176; its text was not to be had, so that statements are
those of its abstract in the form that can be proved, and derivations are ours. Bu, Zou
and Veeravalli (2020) for the bound by single pairs (l = 0). What a linear network's
laws are is in `kljax.theory.linear_network`, coefficients of noisy layers in
`kljax.theory.sdpi`, estimates for trained networks in `kljax.theory.layers`.
"""

import itertools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from kljax.arguments import floating, legal, whole
from kljax.divergences import forward_kl
from kljax.theory.posterior import expected, posterior
from kljax.theory.sdpi import log_eta_dropout
from kljax.typing import Array, ArrayLike, Float, Int

__all__ = [
    "Gibbs",
    "contracted_kl",
    "depth_bound",
    "gibbs",
    "gibbs_bound",
    "grid_bound",
    "kl_bound",
    "norms_behind",
    "samples_of",
    "wasserstein_bound",
]

MOST = 200_000
"""Multisets of outcomes; more are not enumerated."""


def kl_bound(
    kl: Float[ArrayLike, "*#b"], sigma: Float[ArrayLike, "*#b"] = 0.5
) -> Float[Array, "*b"]:
    """``sqrt(2 sigma^2 KL)``: what a sub-Gaussian loss can gain by a change of law.

    The bound on the gap is the mean of this over W (and over i); the root of the mean
    KL is a larger one.

    Args:
      kl: KL(P_l‖Q_l) for each W, nats, >= 0.
      sigma: the loss is sigma-sub-Gaussian under Q_l; 1/2 for a loss in [0, 1]. A
        squared loss in general is not, of any sigma.

    Returns:
      In units of the loss.

    Raises:
      ValueError: a negative KL or sigma that is known.

    Example:
      >>> float(kl_bound(0.5))
      0.5
    """
    kl = legal("kl", floating("kl", kl), lambda x: x < 0, "at least 0")
    sigma = legal("sigma", floating("sigma", sigma), lambda x: x < 0, "at least 0")
    return sigma * jnp.sqrt(2 * kl)


def norms_behind(norms: Float[ArrayLike, "*b n"]) -> Float[Array, "*b m"]:
    """``prod_{j>l} norms_j`` for l = 0..L: how far the output moves per unit at l.

    Args:
      norms: Lipschitz constants of layers 1..L, `[..., L]`: of a dense layer the
        largest singular value of its weights times the slope of what follows (1 for
        ReLU and tanh).

    Returns:
      `[..., L + 1]`; 1 at the output.

    Example:
      >>> norms_behind([3.0, 2.0]).tolist()
      [6.0, 2.0, 1.0]
    """
    norms = legal("norms", floating("norms", norms), lambda x: x < 0, "at least 0")
    padded = jnp.concatenate([norms, jnp.ones_like(norms[..., :1])], axis=-1)
    return jnp.flip(jnp.cumprod(jnp.flip(padded, -1), axis=-1), -1)


def wasserstein_bound(
    w1: Float[ArrayLike, "*b m"],
    norms: Float[ArrayLike, "*b n"],
    *,
    lipschitz: float = 1.0,
    labels_move: bool = False,
) -> Float[Array, "*b m"]:
    """``rho prod_{j>l} norms_j W_1(P_l, Q_l)`` for each layer.

    A map that stretches by at most norms_l moves W_1 by at most that factor, so the
    bound never rises with l. With `labels_move` the product is max(1, product), and it
    may rise on the way. **In both forms the output has the least bound of all layers**:
    a smaller one inside, a "funnel", is a sign that W_1 or the norms are estimates. The
    layer of the least W_1 itself is no property of the network's function: scaling one
    layer of a ReLU network down and the next one up moves it anywhere.

    Args:
      w1: W_1 at layers 0..L, `[..., L + 1]`.
      norms: of layers 1..L, as in `norms_behind`.
      lipschitz: rho, of the loss: sqrt(2) for the cross-entropy of logits, 1 for the
        logistic loss of a margin.
      labels_move: whether W_1 is that of pairs (features, label) and may move labels;
        False for transport within classes.

    Returns:
      `[..., L + 1]` for each W, in units of the loss.

    Raises:
      ValueError: not one norm fewer than layers.

    Example:
      >>> wasserstein_bound([3.0, 1.0, 1.0], [0.5, 2.0]).tolist()
      [3.0, 2.0, 1.0]
    """
    w1, norms = floating("w1", w1), floating("norms", norms)
    behind = norms_behind(norms)
    if w1.shape[-1:] != behind.shape[-1:]:
        raise ValueError(
            f"w1 has shape {w1.shape}, layers 0 to L last, and norms "
            f"{norms.shape}; expected those of layers 1 to L"
        )
    behind = jnp.maximum(behind, 1) if labels_move else behind
    return lipschitz * behind * w1


def contracted_kl(
    kl_labels: Float[ArrayLike, "*#b"],
    kl_inputs: Float[ArrayLike, "*#b"],
    log_eta: Float[ArrayLike, "*#b"],
) -> Float[Array, "*b"]:
    """``I(Y;W) + eta I(X;W|Y)``: a bound on the KL behind noisy layers.

    Labels pass without noise: what W knows of Y_i is not contracted, and to forget the
    first term is the classic mistake.

    Args:
      kl_labels: I(Y_i; W), nats.
      kl_inputs: I(X_i; W | Y_i), nats.
      log_eta: the sum of the layers' logarithms, see `kljax.theory.sdpi`.

    Example:
      >>> float(contracted_kl(0.25, 1.0, jnp.log(0.5)))
      0.75
    """
    y, x = floating("kl_labels", kl_labels), floating("kl_inputs", kl_inputs)
    return y + jnp.exp(floating("log_eta", log_eta)) * x


def grid_bound(
    weights: Float[ArrayLike, "*#b"],
    levels: Float[ArrayLike, "*#b"],
    n: Float[ArrayLike, "*#b"],
    *,
    log_eta: Float[ArrayLike, "*#b"] = 0.0,
    sigma: Float[ArrayLike, "*#b"] = 0.5,
) -> Float[Array, "*b"]:
    """``sqrt(2 sigma^2 eta weights log(levels) / n)``: weights on a finite grid.

    With so many levels per weight I(S; W) is at most weights · log(levels) whatever the
    algorithm. Labels are taken to be contracted, too (I(Y;W) = 0 or counted apart).

    Args:
      weights: how many there are.
      levels: of each.
      n: training pairs.
      log_eta: the sum of the layers' logarithms, see `kljax.theory.sdpi`.
      sigma: as in `kl_bound`.

    Example:
      >>> round(float(grid_bound(1e4, 16, 1e4)), 4)
      1.1774
    """
    count, k, n = (
        legal(name, floating(name, x), lambda x: x <= 0, "positive")
        for name, x in (("weights", weights), ("levels", levels), ("n", n))
    )
    known = jnp.exp(floating("log_eta", log_eta)) * count * jnp.log(k)
    return kl_bound(known / n, sigma)


def depth_bound(
    depth: Float[ArrayLike, "*#b"],
    weights: Float[ArrayLike, "*#b"],
    levels: Float[ArrayLike, "*#b"],
    n: Float[ArrayLike, "*#b"],
    *,
    delta: Float[ArrayLike, "*#b"],
) -> tuple[Float[Array, "*b"], Float[Array, "*b"]]:
    """`grid_bound` of a loss in [0, 1] for layers of equal width behind dropout.

    At a fixed number of weights the width is sqrt(weights / depth): the deeper, the
    narrower, and the less passes. What makes the bound small is that little of the
    input reaches the output at all: eta bounds that, too. At delta <= 1/2 there is an
    effect below a width of about 15 alone.

    Args:
      depth: layers.
      weights, levels, n: as in `grid_bound`.
      delta: share of units that are zeroed, in [0, 1].

    Returns:
      The bound, and log eta of all layers.

    Example:
      >>> bound, log_eta = depth_bound(8.0, 1e4, 16, 1e4, delta=0.9)
      >>> round(float(bound), 4)
      1.0679
    """
    depth = legal("depth", floating("depth", depth), lambda x: x <= 0, "positive")
    width = jnp.sqrt(floating("weights", weights) / depth)
    log_eta = depth * log_eta_dropout(delta, width)
    return grid_bound(weights, levels, n, log_eta=log_eta), log_eta


def gibbs_bound(
    gamma: Float[ArrayLike, "*#b"],
    n: Float[ArrayLike, "*#b"],
    *,
    log_eta: Float[ArrayLike, "*#b"] = 0.0,
    sigma: Float[ArrayLike, "*#b"] = 0.5,
) -> Float[Array, "*b"]:
    """``2 sigma^2 gamma eta / n``: the gap of the Gibbs algorithm, at most.

    From gap <= sqrt(2 sigma^2 eta I / n) and I <= gamma gap; for a loss in [0, 1]
    gamma / (2 n). Arguments as in `gibbs` and `grid_bound`.

    Example:
      >>> float(gibbs_bound(3.0, 8.0))
      0.1875
    """
    gamma, n, sigma = (
        floating(name, x) for name, x in (("gamma", gamma), ("n", n), ("sigma", sigma))
    )
    return 2 * sigma**2 * gamma * jnp.exp(floating("log_eta", log_eta)) / n


class Gibbs(NamedTuple):
    """The Gibbs algorithm on a finite model, exactly, for each gamma."""

    gap: Float[Array, "*b"]
    """Test risk minus training risk; ``(information + lautum) / gamma``."""
    risk: Float[Array, "*b"]
    """On a fresh outcome."""
    information: Float[Array, "*b"]
    """I(W; S) = KL of the joint law from the product, nats."""
    lautum: Float[Array, "*b"]
    """KL of the product from the joint law, nats."""


def samples_of(n: int, outcomes: int) -> Int[np.ndarray, "m k"]:
    """How often each outcome comes, in every multiset of n draws, one a row.

    Raises:
      ValueError: n < 0, no outcome, or more than 200,000 multisets.

    Example:
      >>> samples_of(2, 2).tolist()
      [[0, 2], [1, 1], [2, 0]]
    """
    whole("n", n, 0), whole("outcomes", outcomes)
    count = math.comb(n + outcomes - 1, outcomes - 1)
    if count > MOST:
        raise ValueError(
            f"{count} multisets of {n} draws; at most {MOST} are looked at"
        )
    # Stars and bars: outcomes are parted by bars among n + outcomes − 1 places.
    places = range(n + outcomes - 1)
    bars = np.array([*itertools.combinations(places, outcomes - 1)], int)
    ends = np.full((count, 1), n + outcomes - 1), np.full((count, 1), -1)
    return np.diff(np.concatenate([ends[1], bars, ends[0]], axis=1), axis=1) - 1


def gibbs(
    log_prior: Float[ArrayLike, "k"],
    loss: Float[ArrayLike, "k z"],
    log_p: Float[ArrayLike, "z"],
    n: int,
    gamma: Float[ArrayLike, "*b"],
) -> Gibbs:
    """The gap, the information and the lautum information by enumeration.

    W | S has the law prior(w) exp(−gamma · mean loss on S), normalized. All multisets
    of n outcomes are gone through.

    Args:
      log_prior: log-probabilities of the k hypotheses.
      loss: of every hypothesis on every outcome.
      log_p: log-probabilities of the outcomes.
      n: training examples; static.
      gamma: inverse temperature, > 0; may be traced; an array is done at once.

    Returns:
      A `Gibbs`, in float64 under x64.

    Raises:
      ValueError: shapes, n < 1, too many multisets, or a gamma that is known not to be
        positive.

    Example:
      >>> even, loss = jnp.log(jnp.full(2, 0.5)), jnp.eye(2)
      >>> found = gibbs(even, loss, even, 4, 3.0)
      >>> bool(jnp.isclose(found.gap, (found.information + found.lautum) / 3.0))
      True

    Reference: Aminian et al. 2021, "An exact characterization of the generalization
    error for the Gibbs algorithm", Theorem 1, for gap = (I + Lautum) / gamma.
    """
    prior, p = floating("log_prior", log_prior), floating("log_p", log_p)
    loss = floating("loss", loss)
    if (loss.shape, prior.ndim, p.ndim) != ((*prior.shape, *p.shape), 1, 1):
        raise ValueError(
            f"loss has shape {loss.shape}, log_prior {prior.shape} and log_p "
            f"{p.shape}; expected [k, z], [k] and [z]"
        )
    gamma = floating("gamma", gamma)
    gamma = legal("gamma", gamma, lambda x: x <= 0, "positive")
    draws = jnp.asarray(samples_of(whole("n", n), p.size), loss.dtype)
    log_ways = math.lgamma(n + 1) - jax.scipy.special.gammaln(draws + 1).sum(-1)
    # An outcome that never comes has no part in multisets without it.
    log_s = log_ways + jnp.where(draws == 0, 0, draws * p).sum(-1)
    seen = draws @ loss.T / n  # [m, k]
    true = expected(p, loss)  # [k]

    def one(gamma: Array) -> Gibbs:
        given = posterior(prior, -seen, 1 / gamma)
        alone = jax.nn.logsumexp(log_s[:, None] + given, axis=0)
        alone = jnp.broadcast_to(alone, given.shape)
        risks = expected(given, true), expected(given, seen)
        values = risks[0] - risks[1], risks[0]
        values += forward_kl(given, alone), forward_kl(alone, given)
        return Gibbs(*(expected(log_s, x) for x in values))

    flat = jax.vmap(one)(gamma.reshape(-1))
    return jax.tree.map(lambda x: x.reshape(gamma.shape), flat)
