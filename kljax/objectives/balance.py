"""The balance of a mixture of experts: routers that send the tokens everywhere.

    L = e sum_i f_i P_i

over `e` experts, with `f_i` the share of the tokens that chose expert `i` and `P_i` the
mean of its probability. Even routing gives the number of experts per token, the least
where `f` and `P` agree; the gradient is that of `P`.

References: Fedus et al. 2022, "Switch transformers", Eqs. 4 to 6; Jiang et al. 2024,
"Mixtral of experts" (several experts per token).
"""

import jax.numpy as jnp

from kljax.arguments import floating
from kljax.typing import Array, ArrayLike, Float

__all__ = ["balance_loss"]


def balance_loss(
    load: Float[ArrayLike, "*l e"], probability: Float[ArrayLike, "*l e"]
) -> tuple[Float[Array, ""], dict[str, Array]]:
    """How unevenly a batch uses the experts; to be added with a small coefficient.

    It belongs to the batch and not to an example: add it to the loss of every example,
    whose weighted mean then holds it once.

    Args:
      load: share of the tokens that chose each expert, `Routing.load` of
        `kljax.models.mixture`.
      probability: mean probability of each expert. Layers on leading axes are averaged
        before the product, as the implementation of Mixtral in transformers does; for
        Switch's sum over layers call this for each.

    Returns:
      The loss, and "router/largest_load": the largest share among all layers and
      experts, in units of the even one.

    Raises:
      ValueError: shapes that differ, or no experts.

    Example:
      >>> even = jnp.full(4, 0.25)
      >>> loss, metrics = balance_loss(2 * even, even)
      >>> float(loss), float(metrics["router/largest_load"])
      (2.0, 1.0)
    """
    load = floating("load", load)
    probability = floating("probability", probability)
    if load.shape != probability.shape or not load.ndim or not load.size:
        raise ValueError(
            f"load has shape {load.shape} and probability {probability.shape}; "
            "expected [e] or [l, e], the same for both"
        )
    experts = load.shape[-1]
    f, p = (x.reshape(-1, experts).mean(axis=0) for x in (load, probability))
    even = load.sum(axis=-1, keepdims=True) / experts
    return experts * jnp.sum(f * p), {"router/largest_load": jnp.max(load / even)}
