"""A mixture of experts: every token goes to a few of many MLPs, as a router says.

An expert computes the tokens that were sent to it and no others. Shapes are static, so
it has room for a number of them that is known beforehand, its capacity; what goes
beyond is dropped and counted.

References: Shazeer et al. 2017, "Outrageously large neural networks"; Lepikhin et al.
2021, "GShard"; Fedus et al. 2022, "Switch transformers"; Jiang et al. 2024, "Mixtral
of experts".
"""

import math
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from kljax.models.layers import MLP, Dense, wide
from kljax.typing import Array, Bool, Float, Int

__all__ = ["Mixture", "Routing"]


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Routing:
    """What the routers did with the tokens that count; the leading axis is the layers.

    Attributes:
      load: the share of the tokens that chose each expert; sums to the experts per
        token. No gradient comes from it.
      probability: each expert's mean probability among all.
      dropped: how many choices (one of a token, for one expert) found no room.
    """

    load: Float[Array, "*l e"]
    probability: Float[Array, "*l e"]
    dropped: Int[Array, "*l"]


class Mixture(MLP):
    """`sum_e w_e MLP_e(x)` over the likeliest experts of a token.

    `w` is the softmax of the router over the `chosen` largest of its outputs; without
    `normalized` the softmax over all of them. A choice that is dropped adds nothing,
    and the weights of the token's other experts stay as they are.

    Args:
      width, hidden, inside: of every expert; inside are `kind` and `activation` of
        `MLP`.
      count: how many experts there are.
      chosen: how many of them a token goes to.
      normalized: the weights of the chosen ones sum to 1.
      capacity_factor: an expert has room for so many times its even share of a call's
        choices, `ceil(capacity_factor * chosen * tokens / count)`; None: for all.
      rngs: random streams for the initial values.
      options: `bias` and `shrink` of `MLP`.

    Example:
      >>> mixture = Mixture(8, 16, "gated", "silu", count=4, chosen=2, rngs=nnx.Rngs(0))
      >>> out, routing = mixture(jnp.ones((2, 3, 8)))
      >>> out.shape, float(routing.load.sum()), int(routing.dropped)
      ((2, 3, 8), 2.0, 0)
    """

    def __init__(
        self,
        width: int,
        hidden: int,
        *inside: str,
        count: int,
        chosen: int,
        normalized: bool = True,
        capacity_factor: float | None = None,
        rngs: nnx.Rngs,
        **options: Any,
    ):
        options |= {"experts": (count,), "rngs": rngs}
        super().__init__(width, hidden, *inside, **options)
        self.count, self.chosen, self.normalized = count, chosen, normalized
        self.capacity_factor = capacity_factor
        self.router = Dense(width, count, rngs=rngs)

    def __call__(
        self,
        x: Float[Array, "b t d"],
        where: Bool[Array, "b t"] | None = None,
        *,
        exact: bool = False,
    ) -> tuple[Float[Array, "b t d"], Routing]:
        """The layer's output, and what the router did.

        Args:
          x: one vector per token.
          where: which tokens count; the others take no room.
          exact: drop nothing, whatever the capacity: what a token becomes then does
            not depend on the others, as decoding from a cache needs it.
        """
        rows = x.reshape(-1, x.shape[-1])
        n = len(rows)
        counted = jnp.ones(n, bool) if where is None else where.reshape(n)
        weights, experts, probability = self.routed(rows)
        dropped = jnp.zeros((), jnp.int32)
        if 2 * n * self.chosen <= self.count:
            out = self._looked_up(rows, weights, experts)
        elif exact or self.capacity(n) >= n:
            out = self._everywhere(rows, weights, experts)
        else:
            out, dropped = self._sent(rows, weights, experts, counted)
        share = counted.astype(probability.dtype) / jnp.maximum(counted.sum(), 1)
        hot = jax.nn.one_hot(experts, self.count, dtype=probability.dtype)
        probability = jnp.where(counted[:, None], probability, 0)
        return out.reshape(x.shape), Routing(
            load=jnp.einsum("n,nke->e", share, hot),
            probability=jnp.einsum("n,ne->e", share, probability),
            dropped=dropped,
        )

    def capacity(self, tokens: int) -> int:
        """How many tokens an expert has room for, in a call of so many."""
        if self.capacity_factor is None:
            return tokens
        even = self.chosen * tokens / self.count
        return min(tokens, math.ceil(self.capacity_factor * even))

    def routed(self, x: Float[Array, "n d"]) -> tuple[Array, Array, Array]:
        """Weights and numbers `[n, k]` of the chosen, probabilities of all `[n, e]`."""
        logits = self.router(x.astype(wide(x.dtype)))
        top, chosen = jax.lax.top_k(logits, self.chosen)
        among = top if self.normalized else logits
        weights = jnp.exp(top - jax.nn.logsumexp(among, axis=-1, keepdims=True))
        return weights.astype(x.dtype), chosen, jax.nn.softmax(logits, axis=-1)

    def _looked_up(self, rows: Array, weights: Array, experts: Array) -> Array:
        """Every choice by itself: of few tokens most experts are not even read."""
        n, d = rows.shape
        each = jnp.repeat(rows, self.chosen, axis=0)[:, None]
        out = super().__call__(each, experts.reshape(-1))
        return jnp.einsum("nk,nkd->nd", weights, out.reshape(n, -1, d))

    def _everywhere(self, rows: Array, weights: Array, experts: Array) -> Array:
        """All experts compute all tokens: the form that has room for any choice."""
        hot = jax.nn.one_hot(experts, self.count, dtype=weights.dtype)
        weights = jnp.einsum("nk,nke->ne", weights, hot)
        return jnp.einsum("ne,end->nd", weights, super().__call__(rows[None]))

    def _sent(
        self, rows: Array, weights: Array, experts: Array, counted: Array
    ) -> tuple[Array, Array]:
        """Every choice to a place of its expert, while there are places."""
        n, d = rows.shape
        room = self.capacity(n)
        # The first choices of all tokens go before the second ones, as in GShard.
        choices, counted = experts.T.reshape(-1), jnp.tile(counted, self.chosen)
        hot = jax.nn.one_hot(choices, self.count, dtype=jnp.int32) * counted[:, None]
        before = jnp.sum((jnp.cumsum(hot, axis=0) - hot) * hot, axis=-1)
        kept = counted & (before < room)
        nowhere = self.count * room
        place = jnp.where(kept, choices * room + before, nowhere)
        token = jnp.tile(jnp.arange(n), self.chosen)
        of = jnp.full(nowhere, n).at[place].set(token, mode="drop")
        sent = rows.at[of].get(mode="fill", fill_value=0)
        out = super().__call__(sent.reshape(self.count, room, d)).reshape(-1, d)
        back = out.at[place].get(mode="fill", fill_value=0).reshape(-1, n, d)
        dropped = jnp.sum(counted & ~kept, dtype=jnp.int32)
        return jnp.einsum("nk,knd->nd", weights, back), dropped
