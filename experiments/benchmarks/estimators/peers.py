"""What others offer for KL(p‖q) from two samples, as a user would call it.

Each is a function of both samples and a seed that returns a value and a standard error
of the average that it is (no peer has an interval for its bias). Every one sees columns
brought to one scale, chooses its own settings on held-out points where it has any, and
is cut at 0, as ours is.
"""

import functools
from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
import numpy as np
import optax
from scipy import special, stats

__all__ = ["PEERS"]

Found = tuple[float, float]
Peer = Callable[[np.ndarray, np.ndarray, int], Found]

_KERNEL_POINTS = 4_000
"""Of a side, at most: a kernel density estimate costs their square."""
_NEIGHBOR_POINTS = 20_000


def _mean(v: np.ndarray) -> Found:
    return float(max(v.mean(), 0.0)), float(v.std() / np.sqrt(len(v)))


def _alike(peer: Peer) -> Peer:
    """In units of the pooled standard deviations; whole numbers spread over cells."""

    @functools.wraps(peer)
    def call(x_p: np.ndarray, x_q: np.ndarray, seed: int) -> Found:
        rng = np.random.default_rng([seed, 7])
        if x_p.dtype.kind in "iu":
            x_p, x_q = (x + rng.uniform(-0.5, 0.5, x.shape) for x in (x_p, x_q))
        both = np.concatenate([x_p, x_q])
        center, scale = both.mean(axis=0), both.std(axis=0) + 1e-300
        return peer((x_p - center) / scale, (x_q - center) / scale, seed)

    return call


def _some(x: np.ndarray, most: int, seed: int) -> np.ndarray:
    return np.random.default_rng([seed, 8]).permutation(x)[:most]


@_alike
def scikit_learn(x_p: np.ndarray, x_q: np.ndarray, seed: int) -> Found:
    """Its KDE, the bandwidth of each side from a grid by held-out likelihood."""
    from sklearn.neighbors import KernelDensity

    x_p, x_q = (_some(x, _KERNEL_POINTS, seed) for x in (x_p, x_q))
    d = x_p.shape[1]
    laws = []
    for x in (x_p[::2], x_q):
        a, b = x[:1000:2], x[1:1000:2]
        scott = len(x) ** (-1 / (d + 4))
        grid = scott * np.array([0.3, 0.5, 0.7, 1.0, 1.4])
        score = [KernelDensity(bandwidth=h).fit(a).score(b) for h in grid]
        laws.append(KernelDensity(bandwidth=grid[int(np.argmax(score))]).fit(x))
    held = x_p[1::2]
    return _mean(laws[0].score_samples(held) - laws[1].score_samples(held))


@_alike
def scipy_kde(x_p: np.ndarray, x_q: np.ndarray, seed: int) -> Found:
    """`scipy.stats.gaussian_kde`, Scott's rule with the whole covariance."""
    x_p, x_q = (_some(x, _KERNEL_POINTS, seed) for x in (x_p, x_q))
    held = x_p[1::2].T
    laws = [stats.gaussian_kde(x.T) for x in (x_p[::2], x_q)]
    return _mean(laws[0].logpdf(held) - laws[1].logpdf(held))


def _neighbors(x: np.ndarray, y: np.ndarray, k: int) -> np.ndarray:
    """Distances from each point of x to its k nearest ones of y, `[n, k]`."""
    from sklearn.neighbors import NearestNeighbors

    how = "kd_tree" if x.shape[1] <= 5 else "brute"
    return NearestNeighbors(n_neighbors=k, algorithm=how).fit(y).kneighbors(x)[0]


@_alike
def npeet(x_p: np.ndarray, x_q: np.ndarray, seed: int) -> Found:
    """NPEET's `kldiv`, k = 3: Wang, Kulkarni, Verdú (2009), Eq. 5."""
    x_p, x_q = (_some(x, _NEIGHBOR_POINTS, seed) for x in (x_p, x_q))
    (n, d), m = x_p.shape, len(x_q)
    rho, nu = _neighbors(x_p, x_p, 4)[:, 3], _neighbors(x_p, x_q, 3)[:, 2]
    v = d * np.log(np.maximum(nu, 1e-12) / np.maximum(rho, 1e-12))
    return _mean(v + np.log(m / (n - 1)))


@_alike
def wang(x_p: np.ndarray, x_q: np.ndarray, seed: int) -> Found:
    """Wang, Kulkarni, Verdú (2009), Eq. 25: one radius for both counts, k from 5 on."""
    x_p, x_q = (_some(x, _NEIGHBOR_POINTS, seed) for x in (x_p, x_q))
    n, m, most = len(x_p), len(x_q), 200
    k_p, k_q = min(most, n - 2), min(most, m - 1)
    own = _neighbors(x_p, x_p, k_p + 1)[:, 1:]
    other = _neighbors(x_p, x_q, k_q)
    radius = np.maximum(own[:, 4], other[:, 4])[:, None] * (1 + 1e-12)
    counts = [(gaps <= radius).sum(axis=1) for gaps in (own, other)]
    v = special.digamma(counts[0]) - special.digamma(counts[1])
    return _mean(v + np.log(m / (n - 1)))


@_alike
def kliep(x_p: np.ndarray, x_q: np.ndarray, seed: int) -> Found:
    """KLIEP: a mixture of kernels as the ratio (Sugiyama et al. 2008)."""
    x_p = _some(x_p, 20_000, seed)
    half, test = x_p[::2], x_p[1::2]
    centers = half[:100]
    gaps = lambda x: ((x**2).sum(1)[:, None] - 2 * x @ centers.T  # noqa: E731
                      + (centers**2).sum(1))  # fmt: skip
    to_half, to_test, to_q = gaps(half), gaps(test), gaps(x_q)
    middle = np.median(to_half)

    def solved(width: float, rows: np.ndarray) -> np.ndarray:
        k, b = np.exp(-rows / width), np.exp(-to_q / width).mean(axis=0) + 1e-12
        alpha = np.ones(len(b)) / b.sum()
        for _ in range(200):
            alpha = alpha * (k / (k @ alpha + 1e-300)[:, None]).mean(axis=0) / b
            alpha /= alpha @ b
        return alpha

    def log_ratio(alpha: np.ndarray, width: float, rows: np.ndarray) -> np.ndarray:
        return np.log(np.exp(-rows / width) @ alpha + 1e-300)

    widths = middle * np.array([0.1, 0.3, 1.0, 3.0])
    cut = len(half) // 2
    score = [
        log_ratio(solved(w, to_half[:cut]), w, to_half[cut:]).mean() for w in widths
    ]
    width = widths[int(np.argmax(score))]
    return _mean(log_ratio(solved(width, to_half), width, to_test))


# ---------------------------------------------------------------- neural critics

_STEPS, _LOOKS, _BATCH, _WIDTH = 1500, 15, 256, 64
_COLUMNS = 8, 64, 128


def _donsker_varadhan(t_p: jax.Array, t_q: jax.Array) -> jax.Array:
    return jnp.mean(t_p) - jax.nn.logsumexp(t_q) + jnp.log(t_q.size)


def _nwj(t_p: jax.Array, t_q: jax.Array) -> jax.Array:
    return jnp.mean(t_p) - jnp.mean(jnp.exp(jnp.minimum(t_q, 30.0))) + 1


def _network(params: dict, x: jax.Array) -> jax.Array:
    h = jax.nn.relu(x @ params["a"] + params["b"])
    h = jax.nn.relu(h @ params["c"] + params["d"])
    return (h @ params["e"])[:, 0] + params["f"]


@functools.partial(jax.jit, static_argnums=0)
def _trained(bound: Callable, key: jax.Array, data: tuple, dims: jax.Array) -> tuple:
    """The critic that does best on validation, and its values on the test points."""
    (train_p, check_p, test_p), (train_q, check_q, test_q) = data
    width, columns = _WIDTH, train_p.shape[1]
    keys = jax.random.split(key, 4)
    draw = lambda k, a, b: jax.random.normal(k, (a, b)) * (2 / a) ** 0.5  # noqa: E731
    params = {
        "a": jax.random.normal(keys[0], (columns, width)) * (2 / dims) ** 0.5,
        "b": jnp.zeros(width),
        "c": draw(keys[1], width, width),
        "d": jnp.zeros(width),
        "e": draw(keys[2], width, 1) * 0.1,
        "f": jnp.zeros(()),
    }
    rule = optax.adamw(1e-3, weight_decay=1e-3)

    def loss(params: dict, x: jax.Array, y: jax.Array) -> jax.Array:
        return -bound(_network(params, x), _network(params, y))

    def step(state: tuple, key: jax.Array) -> tuple:
        params, opt = state
        k_p, k_q = jax.random.split(key)
        x = train_p[jax.random.randint(k_p, (_BATCH,), 0, len(train_p))]
        y = train_q[jax.random.randint(k_q, (_BATCH,), 0, len(train_q))]
        updates, opt = rule.update(jax.grad(loss)(params, x, y), opt, params)
        return (optax.apply_updates(params, updates), opt), None

    def look(carried: tuple, keys: jax.Array) -> tuple:
        state, best, kept = carried
        state, _ = jax.lax.scan(step, state, keys)
        found = -loss(state[0], check_p, check_q)
        better = found > best
        kept = jax.tree.map(lambda a, b: jnp.where(better, a, b), state[0], kept)
        return (state, jnp.where(better, found, best), kept), None

    every = jax.random.split(keys[3], (_LOOKS, _STEPS // _LOOKS))
    start = (params, rule.init(params)), -jnp.inf, params
    (_, _, kept), _ = jax.lax.scan(look, start, every)
    return _network(kept, test_p), _network(kept, test_q)


def _critic(bound: Callable) -> Peer:
    def call(x_p: np.ndarray, x_q: np.ndarray, seed: int) -> Found:
        rng = np.random.default_rng([seed, 9])
        parts = []
        dims = x_p.shape[1]
        columns = next(c for c in _COLUMNS if c >= dims)
        for x in (x_p, x_q):
            x = rng.permutation(x).astype(np.float32)
            x = np.pad(x, ((0, 0), (0, columns - dims)))  # few shapes to compile
            ends = [int(0.5 * len(x)), int(0.65 * len(x))]
            parts.append(tuple(map(jnp.asarray, np.split(x, ends))))
        t_p, t_q = _trained(
            bound, jax.random.key(seed), tuple(parts), jnp.float32(dims)
        )
        value = float(bound(t_p, t_q))
        w = np.exp(np.minimum(np.asarray(t_q, float), 30.0))
        w /= w.mean() if bound is _donsker_varadhan else 1
        error = np.sqrt(np.var(t_p) / len(t_p) + w.var() / len(w))
        return max(value, 0.0), float(error)

    return _alike(call)


PEERS: Mapping[str, Peer] = {
    "scikit-learn KDE": scikit_learn,
    "SciPy KDE": scipy_kde,
    "kNN (NPEET)": npeet,
    "kNN (Wang)": wang,
    "KLIEP": kliep,
    "MINE": _critic(_donsker_varadhan),
    "NWJ": _critic(_nwj),
}
