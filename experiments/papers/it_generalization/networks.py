"""Perceptrons on images, and how far their features of training images lie off."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from scipy import stats

from experiments import kit
from experiments.papers.it_generalization.known import INPUT
from kljax.data.pool import Pool
from kljax.divergences import label_cross_entropy
from kljax.models.dense import MLP
from kljax.models.functional import pure
from kljax.theory.layers import layer_bounds
from kljax.training import Loss, Player, TrainState, init_state, taken
from kljax.typing import Array, PyTree

OUTPUT = "output"
TITLES = {
    "bound": "KL bound", "KL": "KL, nats", "W bound": "W bound, nats",
    "unseen KL": "unseen: KL", "unseen bound": "unseen: KL bound",
    "unseen W bound": "unseen: W bound", "W1": "W1", "unseen W1": "unseen: W1",
    "excess": "KL excess", "gap": "gap of errors, %",
    "loss gap": "gap of losses, nats", "error": "test error, %",
}  # fmt: skip
NAME = "n={}, dropout {:g}"
"""Of networks, by size and dropout."""
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

        # One network after the other: jaxlib 0.10 waits for ever on two cores of a CPU
        # where large batches of triangular solves run side by side.
        return jax.lax.map(lambda one: of(*one), (nets, rows, test))

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


def networks(study: kit.Study) -> dict[str, Any]:
    """Scores of layers by width, and of networks by size and dropout."""
    config, lab, layers, nets = study.config, Lab(study), {}, {}
    names = [INPUT, *(f"hidden {i + 1}" for i in range(config.layers)), OUTPUT]
    for width in config.widths:
        settings = kit.grid(config.sizes, config.dropout)
        settings = settings if width == config.widths[0] else settings[:1]
        params = lab.trained(width, settings)
        for n, rate in settings:
            own = params[n, rate]
            work = lambda: lab.measured(width, n, own)  # noqa: B023, E731
            seen = study.once(("measured", width, n, rate), work)
            at_layer = {k: x.T for k, x in seen.items() if x.ndim == 2}
            for i, seed in enumerate(study.seeds):
                if (n, rate) == settings[0]:
                    layers |= {
                        (name, seed, f"width {width}"): {
                            k: x[j, i] for k, x in at_layer.items()
                        }
                        for j, name in enumerate(names)
                    }
                if width == config.widths[0]:
                    last = {k: x[-1] for k, x in at_layer.items()}
                    row = {k: x[i] for k, x in (seen | last).items()}
                    nets[NAME.format(n, rate), seed] = row
    layered = kit.Scores(layers, titles=TITLES, factor="widths")
    scores = kit.Scores(nets, titles=TITLES)
    by = lambda scores, k: np.stack([scores.values(k, m) for m in scores.methods])  # noqa: E731

    def inside(key: str) -> dict[str, float]:
        """Shares of networks in which the least one is at neither end."""
        place = lambda scores: by(scores, key).argmin(axis=0) % (len(names) - 1)  # noqa: E731
        return layered.by_level(lambda scores: float((place(scores) > 0).mean()))

    # From the input on where the first hidden layer is no wider than that.
    first = {f"width {w}": int(w > lab.x.shape[1]) for w in config.widths}

    def falling(key: str) -> dict[str, float]:
        found = {w: by(layered.at(w), key)[skip:] for w, skip in first.items()}
        return {w: float((np.diff(x, axis=0) <= 0).mean()) for w, x in found.items()}

    ranks = {
        (k, seed): {"rank": stats.spearmanr(a, b).statistic}
        for k in ("KL", "unseen KL", "excess")
        for seed, a, b in zip(study.seeds, by(scores, k).T, by(scores, "gap").T)
    }
    plain = {n: NAME.format(n, config.dropout[0]) for n in sorted(config.sizes)}
    return {
        "layers": layered,
        "networks": scores,
        "funnel": {key: inside(key) for key in ("W1", "W bound")},
        "falling": {key: falling(key) for key in ("KL", "excess")},
        "memory": {f"n={n}": scores.estimate("excess", k) for n, k in plain.items()},
        "ranks": kit.Scores(ranks, titles={"rank": "rank correlation with the gap"}),
    }
