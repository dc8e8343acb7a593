"""What needs no transformer: the paper's table, the fitter, and tables that are learned.

Two kinds of learner whose loss is exact. Counts of a Zipf law of contexts (their
number never ends, so that the loss is a power law and the entropy) and a perceptron on
all contexts of a small Markov source (which end).
"""

import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from kljax.theory.compute_optimal import frontier, optimal_size
from kljax.theory.scaling import Fit, PowerLaw, power_law
from kljax.typing import Array, Float

BY_COMPUTE = {
    "8x8": PowerLaw(3.13, 0.19, np.log(1.8e-8)),
    "16x16": PowerLaw(2.64, 0.16, np.log(1.6e-8)),
    "32x32": PowerLaw(2.21, 0.10, np.log(3.6e-9)),
    "VQ 16x16": PowerLaw(4.09, 0.11, np.log(6.1e-7)),
    "VQ 32x32": PowerLaw(3.17, 0.12, np.log(2.6e-6)),
}
"""L(C) of images, nats per token and PF-days: table 1."""
TOKENS = dict(zip(BY_COMPUTE, (192, 768, 3072, 256, 1024)))
PER_IMAGE = {
    "8x8": (602, 1.9e3), "16x16": (2026, 1.7e10), "32x32": (6806, 2.7e26),
    "VQ 16x16": (1047, 4.7e15), "VQ 32x32": (3246, 3.1e19),
}  # fmt: skip
"""Table 3: L_inf in nats per image, and the compute at which a nat is left."""
DERIVED = dict(zip(BY_COMPUTE, (1.87e4, 1.73e10, 2.69e26, 4.77e15, 3.17e19)))
"""Table 3's scales as they follow from table 1."""
COMPUTE = np.geomspace(1e-6, 10, 12)
"""PF-days at which the fitter is tried."""
EXPONENTS = ((0.34, 0.28), (0.24, 0.4), (0.2, 0.47))
"""(a, b) of L = 1 + N^-a + E^-b."""


def per_image() -> dict[str, tuple[float, float]]:
    """Floor and scale per image, by kind, from the laws per token."""
    found = {name: law.per(TOKENS[name]) for name, law in BY_COMPUTE.items()}
    return {k: (float(v.floor), float(np.exp(v.log_scale))) for k, v in found.items()}


def recovery(noise: float, draws: int) -> dict[str, dict[str, float]]:
    """Errors of the fit to 12 points of each law: mean and deviation over draws."""
    rng, found = np.random.default_rng(0), {}
    for name, law in BY_COMPUTE.items():
        clean = np.asarray(law(COMPUTE))
        loss = clean * np.exp(noise * rng.normal(size=(draws, len(clean))))
        fits = power_law(COMPUTE, loss)
        floor, alpha = np.asarray(fits.law.floor), np.asarray(fits.law.alpha)
        low, high = np.asarray(fits.floor_interval).T
        found[name] = {
            "L_inf off": float(np.abs(floor - law.floor).max()),
            "alpha off": float(np.abs(alpha - law.alpha).max()),
            "sd of L_inf": float(floor.std()),
            "sd of alpha": float(alpha.std()),
            "covered": float(((low <= law.floor) & (law.floor <= high)).mean()),
        }
    return found


def betas() -> dict[str, tuple[float, float]]:
    """beta of the frontier of exact learning curves, and b / (a + b)."""
    size, found = np.geomspace(1e4, 1e9, 26), {}
    for a, b in EXPONENTS:
        best = np.asarray(optimal_size(6.0, (1.0, a), (1.0, b)))  # N of C = 6
        center = (size / best) ** ((a + b) / b)  # N_opt(C) = N: C / 6
        tokens = center[:, None] / size[:, None] * np.geomspace(1e-3, 1e3, 200)
        loss = 1 + size[:, None] ** -a + tokens**-b
        fit = frontier(6 * size[:, None] * tokens, loss, size, 1.0)
        found[f"{a:g}, {b:g}"] = fit.beta, b / (a + b)
    return found


def counted(
    exponent: float, contexts: int, samples: Float[np.ndarray, " d"], seed: int
) -> dict[str, Any]:
    """Exact loss of smoothed counts after so many samples (Krichevsky-Trofimov).

    Contexts have probabilities k^-(1 + exponent) and each its own law of 16 symbols,
    drawn from Dirichlet(1/2). The loss falls as D^-(exponent / (1 + exponent)).
    """
    rng, symbols = np.random.default_rng([seed, int(10 * exponent)]), 16
    p = np.arange(1, contexts + 1) ** -(1 + exponent)
    p /= p.sum()
    law = rng.standard_gamma(0.5, (contexts, symbols)) + 1e-300
    law /= law.sum(axis=1, keepdims=True)
    drawn = np.searchsorted(p.cumsum(), rng.random(int(max(samples))) * p.sum())
    drawn = drawn.clip(max=contexts - 1)
    under = law.cumsum(axis=1)[drawn]
    symbol = (rng.random((len(drawn), 1)) * under[:, -1:] > under).sum(axis=1)
    cells = drawn * symbols + symbol.clip(max=symbols - 1)
    counts, loss = np.zeros(contexts * symbols), []
    for start, stop in itertools.pairwise([0, *map(int, samples)]):
        counts += np.bincount(cells[start:stop], minlength=len(counts))
        table = counts.reshape(law.shape) + 0.5
        log_q = np.log(table / table.sum(axis=1, keepdims=True))
        loss.append(float(-(p * (law * log_q).sum(axis=1)).sum()))
    entropy = float(-(p * (law * np.log(law)).sum(axis=1)).sum())
    return {"x": np.asarray(samples, float), "loss": np.array(loss), "H": entropy}


def memorized(
    widths: tuple[int, ...], steps: int, symbols: int, seed: int
) -> dict[str, Any]:
    """Exact loss of perceptrons on all contexts of a Markov source of order 2."""
    rng = np.random.default_rng(seed)
    law = rng.dirichlet(np.full(symbols, 1 / 3), (symbols, symbols))
    p = np.full((symbols, symbols), symbols**-2)
    for _ in range(200):  # the stationary law of pairs
        p = np.einsum("ab,abc->bc", p, law)
    entropy = float(-(p[..., None] * law * np.log(np.maximum(law, 1e-300))).sum())
    target = jnp.asarray(p[..., None] * law, jnp.float32)

    def perceptron(width: int) -> tuple[Float[Array, ""], int]:
        keys = jax.random.split(jax.random.key(seed), 3)
        draw = lambda key, *shape: jax.random.normal(key, shape)  # noqa: E731
        params = {
            "pair": draw(keys[0], 2, symbols, width),
            "map": draw(keys[1], width, width) * width**-0.5,
            "bias": jnp.zeros(width),
            "head": draw(keys[2], width, symbols) * width**-0.5,
            "offset": jnp.zeros(symbols),
        }

        def loss(params):
            first, second = params["pair"]
            x = jax.nn.gelu(first[:, None] + second)
            x = jax.nn.gelu(x @ params["map"] + params["bias"])
            logits = x @ params["head"] + params["offset"]
            return -(target * jax.nn.log_softmax(logits)).sum()

        rule: Any = optax.adam(optax.cosine_decay_schedule(1e-2, steps))

        def step(carried, _):
            params, state = carried
            updates, state = rule.update(jax.grad(loss)(params), state)
            return (optax.apply_updates(params, updates), state), None

        run = lambda params: jax.lax.scan(  # noqa: E731
            step, (params, rule.init(params)), length=steps
        )[0][0]
        count = sum(x.size for x in jax.tree.leaves(params))
        return jax.jit(lambda params: loss(run(params)))(params), count

    found = [perceptron(width) for width in widths]
    loss, count = (np.array(x, float) for x in zip(*found))
    return {"x": count, "loss": loss, "H": entropy}


def fitted(curve: dict[str, Any]) -> Fit:
    """The power law of a curve."""
    return power_law(curve["x"], curve["loss"])
