"""Networks that teach each other while they learn, with a balance of the two KLs.

    L_i = -log q_i(y_i) + a T^2 (d_i KL(p_i || q_i) + n_i KL(q_i || p_i))

p is what a peer says and q what the network that learns says, both at temperature T;
nothing flows back into the peer. The weights (d_i, n_i) of an example are one of two
pairs, by which of the two networks is the more confident one:

    deep mutual learning, and BD-KD's teacher    [[1, 0], [1, 0]]
    both KLs alike                               [[1, 1], [1, 1]]
    BD-KD's student                              bd_kd(delta, nu)

T^2 keeps the size of both gradients at any T. Compare at equal total weight: `bd_kd`
with delta = nu = 2 couples 1.5 times as much as both KLs alike.

References: Amara et al. 2022, "BD-KD: Balancing the divergences for online knowledge
distillation"; Zhang et al. 2018, "Deep mutual learning" (Eq. 7 for several peers).
"""

from typing import Any

import jax
import jax.numpy as jnp

from kljax.arguments import floats, legal, real
from kljax.divergences import entropy, forward_kl, label_cross_entropy, reverse_kl
from kljax.kernels.weights import weigh
from kljax.typing import Array, ArrayLike, Float, Int

__all__ = ["balance", "bd_kd", "mutual_loss"]

Weights = Float[ArrayLike, "2 2"]


def bd_kd(delta: ArrayLike = 2.0, nu: ArrayLike = 2.0) -> Float[Array, "2 2"]:
    """The weights of BD-KD's student: a KL counts more where it is the remedy.

    A student that is more confident than its teacher is widened, by delta times the
    forward KL, which punishes what it leaves out; any other is sharpened, by nu times
    the reverse KL. With delta = nu = 1 both KLs count alike.

    Args:
      delta, nu: >= 1, may be traced. The paper's are not known to us; nor is, beyond
        doubt, which of the two cases has which KL: ``bd_kd()[::-1]`` is the opposite.

    Returns:
      ``[[1, nu], [delta, 1]]``: (forward, reverse) of a student that is not the more
      confident one, and of one that is.

    Example:
      >>> bd_kd(3.0, 2.0).tolist()
      [[1.0, 2.0], [3.0, 1.0]]
    """
    return jnp.array([[1.0, nu], [delta, 1.0]])


def balance(
    peer_logits: Float[ArrayLike, "*b v"],
    own_logits: Float[ArrayLike, "*b v"],
    weights: Weights,
    *,
    temperature: ArrayLike = 1.0,
    sharpness: ArrayLike | None = None,
) -> tuple[Float[Array, "*b"], Float[Array, "*b"]]:
    """Weights of the forward and the reverse KL, by the entropy gap H(p) - H(q).

    Args:
      peer_logits: of the network that is listened to, p.
      own_logits: of the network that learns, q.
      weights: >= 0, (forward, reverse) where the gap is 0 or less, as where p = q, and
        where it is above 0: there q is the more confident one. May be traced.
      temperature: divides both sides' logits.
      sharpness: None, or k > 0 for a gradual rule: the second pair has the share
        sigmoid(k gap). Early on, when all predictions are flat, the sign is a coin's.

    Returns:
      Two arrays of the shape of the rows, without a gradient.

    Raises:
      ValueError: weights that are not [2, 2], or known to be negative.

    Example:
      >>> flat, sharp = jnp.zeros(3), jnp.arange(3.0)
      >>> [float(w) for w in balance(flat, sharp, bd_kd())]
      [2.0, 1.0]
    """
    table = real("weights", weights)
    if table.shape != (2, 2):
        raise ValueError(f"weights must be [2, 2], got shape {table.shape}")
    table = legal("weights", table, lambda x: x < 0, ">= 0")
    gap = _entropy_gap(peer_logits, own_logits, temperature)
    # A NaN is not above 0, but the divergences that it weighs are NaN as well.
    share = (gap > 0).astype(gap.dtype)
    if sharpness is not None:
        share = jax.nn.sigmoid(sharpness * gap)
    first, second = table.astype(gap.dtype)
    found = first + share[..., None] * (second - first)
    return found[..., 0], found[..., 1]


def _entropy_gap(peer: ArrayLike, own: ArrayLike, temperature: ArrayLike) -> Array:
    """H(p) - H(q), above 0 where q is the more confident one; without a gradient."""
    of = [entropy(logits, temperature=temperature) for logits in (peer, own)]
    return jax.lax.stop_gradient(of[0] - of[1])


def mutual_loss(
    peer_logits: Float[ArrayLike, "b v"] | Float[ArrayLike, "k b v"],
    own_logits: Float[ArrayLike, "b v"],
    labels: Int[ArrayLike, " b"],
    weights: Weights,
    *,
    coupling: ArrayLike = 1.0,
    temperature: ArrayLike = 1.0,
    sharpness: ArrayLike | None = None,
) -> tuple[Float[Array, " b"], dict[str, Array]]:
    """What one network of several learns by: its labels, and what its peers say.

    Args:
      peer_logits: of the peer, p; of several ones `[k, b, v]`, whose terms are
        averaged. Their gradient is cut off here.
      own_logits: of the network that learns, q.
      labels: of the examples; a negative one has no part in the labels' term.
      weights: of the two KLs, as in `balance`; zeros: the network learns alone.
      coupling: a >= 0, what the peers count beside the labels; may be traced.
      temperature: T > 0 of the divergences; the labels' term is at 1. May be traced.
      sharpness: as in `balance`.

    Returns:
      The loss per example in nats, and metrics per example (means over the peers):
      "mutual/cross_entropy", "mutual/forward_kl" and "mutual/reverse_kl" (at
      temperature T, without weights), and "mutual/confident", 1 where this network is
      the more confident one.

    Raises:
      ValueError, TypeError: shapes that do not fit, weights as in `balance`.

    Example:
      >>> loss, _ = mutual_loss(jnp.zeros((2, 4)), jnp.zeros((2, 4)), jnp.array([0, 3]),
      ...                       bd_kd())
      >>> [round(float(x), 4) for x in loss]  # log 4
      [1.3863, 1.3863]

    References:
      Amara et al. 2022: the student's loss with `bd_kd`, the teacher's with
      ``[[1, 0], [1, 0]]``. Zhang et al. 2018, Eqs. 4 to 7. The equation numbers of
      BD-KD are left out: its text was not to be had.
    """
    peers = jax.lax.stop_gradient(floats("peer_logits", peer_logits))
    own = floats("own_logits", own_logits)
    if own.ndim != 2 or peers.shape[-2:] != own.shape or peers.ndim not in (2, 3):
        raise ValueError(
            "peer_logits must be [b, v] or [k, b, v] and own_logits [b, v], got "
            f"{peers.shape} and {own.shape}"
        )
    hard = label_cross_entropy(labels, own)

    warmth: dict[str, Any] = {"temperature": temperature}

    def heard(peer: Array) -> dict[str, Array]:
        forward, reverse = (
            forward_kl(peer, own, **warmth),
            reverse_kl(peer, own, **warmth),
        )
        d, n = balance(peer, own, weights, sharpness=sharpness, **warmth)
        return {
            "soft": weigh(d, forward) + weigh(n, reverse),
            "forward_kl": forward,
            "reverse_kl": reverse,
            "confident": (_entropy_gap(peer, own, temperature) > 0).astype(d.dtype),
        }

    every = [heard(peer) for peer in peers.reshape(-1, *own.shape)]
    found = jax.tree.map(lambda *terms: sum(terms) / len(terms), *every)
    soft = found.pop("soft")
    scale = jnp.asarray(coupling * jnp.asarray(temperature) ** 2, soft.dtype)
    loss = hard + weigh(jnp.broadcast_to(scale, soft.shape), soft)
    metrics = {"cross_entropy": hard, **found}
    return loss, jax.lax.stop_gradient({f"mutual/{k}": v for k, v in metrics.items()})
