"""Perceptrons on images, and how far their features of training images lie off."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments import kit
from kljax.data.pool import Pool
from kljax.divergences import label_cross_entropy
from kljax.models.dense import MLP
from kljax.models.functional import pure
from kljax.theory.layers import layer_bounds
from kljax.training import Loss, Player, TrainState, init_state, taken
from kljax.typing import Array, PyTree

DISTANCES = ("KL", "bound", "W1", "W bound")
"""What `layer_bounds` tells, in its order."""


class Lab:
    """Every seed's images, the networks trained on them, and what they show."""

    def __init__(self, study: kit.Study):
        self.study, self.config = study, study.config
        pool = Pool.load(self.config.data, fetch=self.config.fetch)
        study.pin(data=pool.sha256)
        self.x = jnp.asarray(pool.x.reshape(len(pool.x), -1))
        self.y, self.classes = jnp.asarray(pool.y), pool.classes
        each = self.config.points // self.classes
        most = max(self.config.sizes) // self.classes
        parts = (pool.balanced(s, each, each, most) for s in study.seeds)
        # Rows of images, [seed, class, n].
        self.test, self.unseen, self.train = map(np.stack, zip(*parts))

    def model(self, width: int) -> tuple[Any, Any]:
        """`apply` and `initial` of hidden layers of that width."""
        inside = (width,) * self.config.layers
        sizes = self.x.shape[1], *inside, self.classes
        return pure(lambda rngs: MLP(sizes, rngs=rngs))

    def trained(
        self, width: int, settings: list[tuple[int, float]]
    ) -> dict[tuple[int, float], PyTree]:
        """Parameters of all seeds, stacked, by size and dropout.

        A seed starts all of its networks alike.
        """
        config, seeds, (apply, initial) = (
            self.config,
            self.study.seeds,
            self.model(width),
        )

        def players(own: dict[str, Any]) -> list[Player]:
            def loss(params, *, state, frozen, batch, key):
                pick, drop = jax.random.split(key)
                place = jax.random.randint(pick, (config.batch,), 0, own["n"])
                x, y = (one[own["rows"][place]] for one in frozen)
                logits = apply(params, x, dropout=own["dropout"], key=drop)
                return Loss(label_cross_entropy(y, logits))

            return [Player("model", loss, optax.adam(config.rate))]

        def state(own: dict[str, Any]) -> TrainState:
            key = jax.random.key(own["seed"])
            return init_state(key, {"model": initial(key)}, players(own))

        members = {}
        for (n, rate), (i, seed) in kit.grid(settings, enumerate(seeds)):
            rows = self.train[i, :, : n // self.classes].ravel()
            rows = np.resize(rows, max(config.sizes))
            own = {"rows": rows, "n": n, "dropout": rate, "seed": seed}
            members[n, rate, seed] = own
        label, data = ("train", width), (self.x, self.y)
        ends = self.study.sweep(
            label, players, members, state, steps=config.steps, frozen=data
        )
        ends = jax.tree.map(
            lambda x: x.reshape(len(settings), len(seeds), *x.shape[1:]),
            ends.params["model"],
        )
        return {one: taken(ends, i) for i, one in enumerate(settings)}

    @partial(jax.jit, static_argnums=(0, 1))
    def far(self, width: int, nets: PyTree, x: Array, rows: Array, test: Array) -> Any:
        """`LayerBounds` of every network, from images of these rows to test images."""
        y = [np.repeat(np.arange(self.classes), one.shape[2]) for one in (rows, test)]
        apply = self.model(width)[0]

        def of(params: PyTree, *sides: Array) -> Any:
            kernels = [layer["kernel"] for layer in params["layers"].values()]
            norms = jnp.stack([jnp.linalg.norm(one, ord=2) for one in kernels])
            given = zip((x[one.ravel()] for one in sides), y)
            return layer_bounds(apply, params, *given, norms=norms)

        return jax.vmap(of)(nets, rows, test)

    @partial(jax.jit, static_argnums=(0, 1))
    def judged(self, width: int, nets: PyTree, x: Array, y: Array) -> Any:
        """Errors in percent, and losses, of every network."""
        logits = jax.vmap(self.model(width)[0])(nets, x)
        loss = label_cross_entropy(y, logits).mean(-1)
        return 100 * (logits.argmax(-1) != y).mean(-1), loss

    def measured(self, width: int, n: int, nets: PyTree) -> dict[str, Any]:
        """Distances `[seeds, layers]`, also of unseen images, and gaps `[seeds]`.

        As many unseen images are compared as training images, so that both estimates
        err alike.
        """
        own, found = self.train[:, :, : n // self.classes], {}
        same = min(own.shape[2], self.unseen.shape[2])
        for name, rows in (("", own), ("unseen ", self.unseen)):
            seen = self.far(width, nets, self.x, rows[:, :, :same], self.test)
            found |= {name + k: x for k, x in zip(DISTANCES, seen)}
        flat = [one.reshape(len(one), -1) for one in (self.test, own)]
        (error, loss), before = (
            self.judged(width, nets, self.x[rows], self.y[rows]) for rows in flat
        )
        found |= {
            "error": error,
            "gap": error - before[0],
            "loss gap": loss - before[1],
        }
        found["excess"] = found["KL"] - found["unseen KL"]
        return jax.device_get(found)
