"""Mixtures of coins, of linear models, of random networks; chains, and digits."""

import dataclasses
import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from scipy import special, stats
from sklearn.datasets import load_diabetes

from experiments import kit
from kljax.data.pool import Pool
from kljax.models.dense import normal_mlp
from kljax.theory import boolean, conjugate, universal
from kljax.theory.stationary import corrected_covariance, stationary_variance
from kljax.training import stacked, taken
from kljax.training.descent import descended
from kljax.training.langevin import posterior_predictive, snapshots
from kljax.typing import Array, PyTree

BITS, NOISE = 7, 0.05
"""Inputs of the Boolean functions, and the share of their labels that are wrong."""
POINTS = boolean.boolean_inputs(BITS)
CONSTANT, PARITY, RANDOM = "constant", "parity", "random"
FUNCTIONS = {
    CONSTANT: np.ones(len(POINTS), bool),
    "one bit": POINTS[:, 0] > 0,
    "two bits": (POINTS[:, :2] > 0).all(axis=1),
    "majority": POINTS.sum(axis=1) > 0,
    PARITY: POINTS.prod(axis=1) > 0,
    RANDOM: None,  # another one for every seed
}
STOPS = (1, 5, 20, 50, 100, 200)
"""After how many labels the regret is looked at."""
GUESS = math.log(2) + NOISE * math.log(NOISE) + (1 - NOISE) * math.log1p(-NOISE)
"""What a fair coin pays per label beyond whoever knows their law, in nats."""
COIN = 0.01
"""Prior weight of a fair coin beside the networks, where it has one."""
COINS = ((0.5, 100), (0.1, 1000), (0.01, 10_000))
QUADRATIC = ((1.0, 0.1), (4.0, 0.1), (1.0, 0.5))
"""Curvatures and steps of chains."""


@functools.partial(jax.jit, static_argnames=("networks", "width"))
def _mixed(
    key: Array, truths: Array, x: Array, flipped: Array, networks: int, width: int
) -> dict[str, Array]:
    model = normal_mlp((BITS, width, 1))
    models = boolean.drawn_functions(model, POINTS, key, networks)

    def one(truth: Array) -> dict[str, Array]:
        run = lambda x, no: boolean.label_regret(models, truth, x, no, NOISE, STOPS)  # noqa: E731
        found = jax.vmap(run)(x, flipped)
        far = boolean.label_divergence(models, truth, NOISE)
        return {
            "regret": found.regret,
            "one_step": found.one_step,
            "soft": universal.soft_bound(far, jnp.array(STOPS)),
            "ball": universal.kl_ball_bound(far, STOPS[-1]).bound,
            "far": jnp.sort(far),
        }

    return jax.lax.map(one, truths)


def mixed(networks: int, width: int, runs: int, seed: int) -> dict[str, np.ndarray]:
    """All functions, `[functions, ...]`, predicted by one class of networks."""
    rng = np.random.default_rng([seed, 1])
    truths = [
        rng.random(len(POINTS)) < 0.5 if truth is None else truth
        for truth in FUNCTIONS.values()
    ]
    shape = runs, STOPS[-1]
    x, flipped = rng.integers(0, len(POINTS), shape), rng.random(shape) < NOISE
    given = jax.random.key(seed), jnp.asarray(truths), x, flipped, networks, width
    found: Any = jax.tree.map(np.asarray, _mixed(*given))
    summed = np.sum(found.pop("one_step"), axis=-1, dtype=np.float64)
    last = found["regret"][..., -1]
    found["off"] = np.abs(summed / last - 1).max(axis=1)
    wrong = flipped.sum(axis=1)
    log_p = wrong * math.log(NOISE) + (shape[1] - wrong) * math.log1p(-NOISE)
    coin = log_p + shape[1] * math.log(2)  # its regret on the same labels
    shares = math.log1p(-COIN) - last, math.log(COIN) - coin
    found["coin"] = -np.logaddexp(*shares).mean(axis=1)
    return found | {"regret": found["regret"].mean(axis=1)}


# --------------------------------------------------------- closed forms, linear chains


def coins() -> dict[tuple, dict[str, float]]:
    """Regret of the uniform mixture of coins, and its bounds; in float64."""

    @jax.jit
    @jax.vmap
    def bounds(theta: Array, n: Array) -> tuple[Array, Array]:
        models = conjugate.bernoulli_models(theta, 200_000, limit=12.0)
        given = models[0], n, models[1]
        return universal.soft_bound(*given), universal.kl_ball_bound(*given).bound

    rows = {}
    for (theta, n), soft, ball in zip(COINS, *bounds(*np.transpose(COINS))):
        exact = conjugate.bernoulli_regret(theta, n)
        law = 0.5 * math.log(n / (2 * math.pi * math.e * theta * (1 - theta)))
        row = {"exact": exact, "Clarke-Barron": law, "soft": soft, "ball": ball}
        row |= {"soft gap": soft - exact, "ball gap": ball - exact}
        rows[theta, n] = {name: float(value) for name, value in row.items()}
    return rows


def one_by_one(theta: float, n: int) -> float:
    """What single predictions of a coin, (k + 1) / (t + 2), are expected to cost."""
    total = 0.0
    for t in range(n):
        k = np.arange(t + 1)
        q = (k + 1) / (t + 2)
        cost = special.rel_entr(theta, q) + special.rel_entr(1 - theta, 1 - q)
        total += float(stats.binom.pmf(k, t, theta) @ cost)
    return total


def regression(sizes: tuple[int, ...], draws: int, seed: int) -> dict[str, dict]:
    """Exact and simulated regret by number of parameters, the first ones the same."""
    rng, rows, n, noise = np.random.default_rng([seed, 2]), {}, 50, 0.25
    wide, theta = rng.normal(size=(n, max(sizes))), rng.normal(size=max(sizes))
    for d in sizes:
        scale = np.arange(1, d + 1) ** -1.5
        x = wide[:, :d] * np.sqrt(scale / scale.sum())
        f = x @ theta[:d]
        found = jax.jit(conjugate.linear_regret)(x, f, noise, 1.0)
        y = f + math.sqrt(noise) * rng.normal(size=(draws, n))
        law = stats.multivariate_normal(np.zeros(n), noise * np.eye(n) + x @ x.T)
        paid = stats.norm.logpdf(y, f, math.sqrt(noise)).sum(axis=1) - law.logpdf(y)
        row = {
            "exact": found.regret,
            "soft": found.soft_bound,
            "counted": found.dimensions,
        }
        row["gap"] = paid.mean() - found.regret
        rows[str(d)] = {name: float(value) for name, value in row.items()}
    return rows


def quadratic(chains: int, seed: int) -> dict[str, float]:
    """variance of chains on a quadratic energy, over that of (16)"""

    def chain(key: Array, a: Array, eta: Array) -> Array:
        energy = lambda x, key: a * x**2 / 2  # noqa: E731
        return snapshots(energy, jnp.zeros(()), eta, key=key, keep=4, thin=50, burn=50)

    a, eta = jnp.array(QUADRATIC).T
    keys = jax.random.split(jax.random.key(seed), (len(a), chains))
    found = jax.jit(jax.vmap(jax.vmap(chain, (0, None, None))))(keys, a, eta)
    wanted = jax.jit(stationary_variance)(a, eta)
    ratio = np.reshape(found, (len(a), -1)).var(axis=1) / np.asarray(wanted)
    names = [f"a = {a:g}, η = {eta:g}" for a, eta in QUADRATIC]
    return dict(zip(names, map(float, ratio)))


def diabetes(chains: int, thin: int, seed: int) -> dict[str, float]:
    """Linear regression by mini-batches, against its posterior; errors, relative."""
    x, y = map(np.asarray, load_diabetes(return_X_y=True))
    x, y = (z / z.std(axis=0) for z in (x - x.mean(axis=0), y - y.mean()))
    noise, prior, eta, (n, d), b = 0.5, 0.05, 1e-4, x.shape, 64
    features, data = jnp.float32(x), jnp.float32(y)

    def energy(theta: Array, key: Array) -> Array:
        rows = jax.random.randint(key, (b,), 0, n)
        errors = features[rows] @ theta - data[rows]
        fit = n / b * jnp.sum(errors**2) / noise
        return (fit + jnp.sum(theta**2) / prior) / 2

    def chain(key: Array) -> Array:
        given = {"keep": 10, "thin": thin, "burn": 5 * thin}
        return snapshots(energy, jnp.zeros(d), eta, key=key, **given)

    keys = jax.random.split(jax.random.key(seed), chains)
    theta = np.asarray(jax.jit(jax.vmap(chain))(keys), np.float64).reshape(-1, d)
    # Gradients of single examples are features times these: their mean covariance.
    slopes = (theta @ x.T - y) / noise
    second = n * (x.T * (slopes**2).mean(axis=0)) @ x
    mean = slopes @ x
    batches = (second - mean.T @ mean / len(theta)) / b
    exact = jax.jit(conjugate.linear_posterior)(x, y, noise, prior)
    exact = jax.tree.map(np.asarray, exact)
    raw = np.cov(theta.T)
    right = corrected_covariance(raw, eta, batches)
    off = lambda a, b: float(np.linalg.norm(a - b) / np.linalg.norm(b))  # noqa: E731
    root = np.linalg.cholesky(np.linalg.inv(exact.cov))
    white = lambda s: off(root.T @ s @ root, np.eye(d))  # noqa: E731
    return {
        "mean": off(theta.mean(axis=0), exact.mean),
        "covariance": off(right, exact.cov),
        "uncorrected": off(raw, exact.cov),
        "whitened": white(right),
        "whitened, uncorrected": white(raw),
    }


# ------------------------------------------------------------------------------ digits

ENSEMBLE, MODE = "mixture", "MAP"
LOGITS, WEIGHTS, SINGLE = "mean of logits", "mean of weights", "one snapshot"
SAME = "MAP, same prior"
PREDICTORS = (ENSEMBLE, MODE, SAME, LOGITS, WEIGHTS, SINGLE)
WRONG, RIGHT, TOLD = 0.3, "right labels", "30 % wrong"
UNTOLD = f"{TOLD}, untold"


@dataclasses.dataclass(frozen=True)
class Learning:
    """Of a perceptron with one hidden layer and a Gaussian prior."""

    images: tuple[int, int, int] = (300, 200, 1000)
    """To learn from, to choose settings by, to score on; drawn anew for every seed."""
    hidden: int = 32
    steps: int = 4000
    """Of Adam to the mode, and of a chain; only its second half is looked at."""
    batch: int = 50
    keep: int = 20
    spreads: tuple[float, ...] = (2.0, 4.0, 8.0)
    """Of the prior: deviation of a weight times the root of its layer's inputs."""
    chain_rates: tuple[float, ...] = (1e-3, 3e-3)
    """In units in which the prior has variance 1."""
    adam_rates: tuple[float, ...] = (3e-3, 1e-2)
    """With cosine decay."""

    def parts(self, pool: Pool, seed: int) -> dict[str, Any]:
        """Images and labels of a seed: "new" to choose by first, then to score on."""
        train, chosen, test = self.images
        drawn = pool.drawn(seed, images=train + chosen, held_out=test)
        rows, new = drawn.train[:train], np.append(drawn.train[train:], drawn.test)
        data = {"x": pool.x[rows], "y": pool.y[rows]}
        return data | {"new": pool.x[new], "labels": pool.y[new], "seed": seed}

    def posterior(self, own: dict[str, Any], classes: int) -> tuple:
        """A model, its prior, and minus the log-posterior by mini-batches."""
        sizes = math.prod(own["x"].shape[1:]), self.hidden, classes
        apply, initial = normal_mlp(sizes, spread=own["spread"])
        count = len(own["x"])
        loss = optax.losses.softmax_cross_entropy_with_integer_labels

        def energy(theta: PyTree, key: Array) -> Array:
            rows = jax.random.randint(key, (self.batch,), 0, count)
            mean = loss(apply(theta, own["x"][rows]), own["y"][rows]).mean()
            return count * mean + optax.tree.norm(theta, squared=True) / 2

        return apply, initial, energy

    def chain(self, own: dict[str, Any], classes: int) -> dict[str, Array]:
        """What one chain's snapshots say of new images, put together in some ways."""
        apply, initial, energy = self.posterior(own, classes)
        thin = self.steps // (2 * self.keep)
        given = {"keep": self.keep, "thin": thin, "burn": self.steps - thin * self.keep}
        keys = jax.random.split(jax.random.key(own["seed"]))
        theta = snapshots(energy, initial(keys[0]), own["rate"], key=keys[1], **given)
        say = jax.vmap(lambda one: apply(one, own["new"]))(theta)
        return {
            ENSEMBLE: posterior_predictive(lambda z: z, say),
            LOGITS: say.mean(axis=0),
            WEIGHTS: apply(jax.tree.map(lambda w: w.mean(axis=0), theta), own["new"]),
            SINGLE: say[-1],
        }

    def mode(self, own: dict[str, Any], classes: int) -> dict[str, Array]:
        """What the mode says that Adam finds."""
        apply, initial, energy = self.posterior(own, classes)
        keys = jax.random.split(jax.random.key(own["seed"]))
        rule = optax.adam(optax.cosine_decay_schedule(own["rate"], self.steps))
        end = descended(energy, initial(keys[0]), rule, [self.steps], key=keys[1])
        return {MODE: apply(taken(end, 0), own["new"])}

    def tried(
        self, pool: Pool, seeds: tuple[int, ...]
    ) -> tuple[dict[str, np.ndarray], np.ndarray]:
        """Logits `[settings, seeds, images, classes]`, labels `[seeds, images]`."""
        parts = [self.parts(pool, seed) for seed in seeds]
        labels = np.stack([one.pop("labels") for one in parts])
        found = {}
        for work, rates in (
            (self.chain, self.chain_rates),
            (self.mode, self.adam_rates),
        ):
            grid = kit.grid(self.spreads, rates)
            own = [
                part | {"spread": np.float32(spread), "rate": np.float32(rate)}
                for spread, rate in grid
                for part in parts
            ]
            say = _learned(work, pool.classes)(stacked(own))
            shape = len(grid), len(seeds), -1, pool.classes
            found |= {name: np.reshape(z, shape) for name, z in say.items()}
        return found, labels

    def predictions(self, pool: Pool, seeds: tuple[int, ...], seed: int) -> dict:
        """Logits `[seeds, images, classes]` by method and labels, by what is known.

        All have as many settings, and each its own: that of the least log loss on
        images to choose by; of every seed on those of the others. One more mode has the
        prior that was chosen for the mixture.
        """
        rng = np.random.default_rng(seed)
        drawn = rng.integers(0, pool.classes, len(pool.y))
        y = np.where(rng.random(len(pool.y)) < WRONG, drawn, pool.y)
        right, wrong = (
            self.tried(one, seeds) for one in (pool, dataclasses.replace(pool, y=y))
        )
        held, test = np.s_[: self.images[1]], np.s_[self.images[1] :]
        place = np.arange(len(seeds))

        def scored(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
            """Log-likelihood of what is to choose by, `[settings, seeds]`."""
            log_q = special.log_softmax(logits[:, :, held], axis=-1)
            wanted = np.broadcast_to(labels[:, held, None], (*log_q.shape[:-1], 1))
            return np.take_along_axis(log_q, wanted, axis=-1).mean(axis=(-1, -2))

        def picked(data: tuple, by: tuple) -> tuple[dict[str, np.ndarray], np.ndarray]:
            scores = {name: scored(z, by[1]) for name, z in by[0].items()}
            best = {name: kit.tuned(score) for name, score in scores.items()}
            found = {name: z[best[name], place] for name, z in data[0].items()}
            # Settings are in order of their priors, each with all rates.
            prior, per = best[ENSEMBLE] // len(self.chain_rates), len(self.adam_rates)
            of_priors = scores[MODE].reshape(-1, per, len(seeds))
            rates = np.array([*map(kit.tuned, of_priors)])[prior, place]
            found[SAME] = data[0][MODE][per * prior + rates, place]
            return {k: z[:, test] for k, z in found.items()}, data[1][:, test]

        return {
            RIGHT: picked(right, right),
            TOLD: picked(wrong, wrong),
            UNTOLD: picked(wrong, right),
        }


@functools.cache
def _learned(work: Any, classes: int) -> Any:
    return jax.jit(jax.vmap(lambda own: work(own, classes)))
