"""What needs no transformer: the paper's tables, the fitter, and exact learners."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from kljax.theory.compute_optimal import frontier
from kljax.theory.scaling import PowerLaw, power_law
from kljax.theory.sources import markov_contexts, zipf_contexts
from kljax.training.descent import descended
from kljax.typing import PyTree

BY_COMPUTE = {
    "8x8": PowerLaw(3.13, 0.19, np.log(1.8e-8)),
    "16x16": PowerLaw(2.64, 0.16, np.log(1.6e-8)),
    "32x32": PowerLaw(2.21, 0.10, np.log(3.6e-9)),
    "VQ 16x16": PowerLaw(4.09, 0.11, np.log(6.1e-7)),
    "VQ 32x32": PowerLaw(3.17, 0.12, np.log(2.6e-6)),
}
"""L(C) of images, nats per token by PF-days: table 1."""
TOKENS = (192, 768, 3072, 256, 1024)
PUBLISHED = dict(zip(BY_COMPUTE, (1.9e3, 1.7e10, 2.7e26, 4.7e15, 3.1e19)))
"""PF-days at which a nat per image is left: table 3."""
BY_HAND = dict(zip(BY_COMPUTE, (1.87e4, 1.73e10, 2.69e26, 4.77e15, 3.17e19)))
"""The same as it follows from table 1."""
COMPUTE = np.geomspace(1e-6, 10, 12)
"""PF-days at which the fitter is tried."""
EXPONENTS = ((0.34, 0.28), (0.24, 0.4), (0.2, 0.47))
"""(a, b) of L = 1 + N^-a + E^-b."""


def per_image() -> dict[str, float]:
    """The scales of the laws per image."""
    every = zip(BY_COMPUTE.items(), TOKENS)
    return {k: float(np.exp(law.per(n).log_scale)) for (k, law), n in every}


def recovery(noise: float, draws: int) -> dict[str, dict[str, float]]:
    """How far fits to 12 noisy points of each law are off."""
    laws = np.array(list(BY_COMPUTE.values()))  # floor, alpha, log of the scale
    floor, alpha, log_scale = laws.T[:, :, None]
    clean = floor + np.exp(alpha * (log_scale - np.log(COMPUTE)))
    shape = len(laws), draws if noise else 1, len(COMPUTE)
    random = np.random.default_rng(0).normal(size=shape)
    fits = power_law(COMPUTE, clean[:, None] * np.exp(noise * random))
    low, high = np.moveaxis(fits.floor_interval, -1, 0)
    off = np.maximum(abs(fits.law.floor - floor), abs(fits.law.alpha - alpha))
    found = {
        "off": off.max(axis=1),
        "sd of L_inf": np.std(fits.law.floor, axis=1),
        "sd of alpha": np.std(fits.law.alpha, axis=1),
        "covered": ((low <= floor) & (floor <= high)).mean(axis=1),
    }
    return {
        name: {k: float(v[i]) for k, v in found.items()}
        for i, name in enumerate(BY_COMPUTE)
    }


def betas() -> dict[str, float]:
    """Errors of beta from the frontier of exact learning curves."""
    size, tokens = np.geomspace(1e4, 1e9, 26), np.geomspace(0.1, 1e15, 600)
    found = {}
    for a, b in EXPONENTS:
        loss = 1 + size[:, None] ** -a + tokens**-b
        edge = frontier(6 * size[:, None] * tokens, loss, size, 1.0)
        found[f"{a:g}, {b:g}"] = abs(edge.beta - b / (a + b))
    return found


def counted(
    exponent: float, contexts: int, samples: np.ndarray, seed: int, repeats: int = 1
) -> dict[str, Any]:
    """Loss of counts of a Zipf law of contexts by the number of samples."""
    rng = np.random.default_rng([seed, int(10 * exponent)])
    source = zipf_contexts(rng, exponent, contexts, 16)
    loss = np.mean([source.counted(rng, samples) for _ in range(repeats)], axis=0)
    return {"x": samples, "loss": loss, "H": source.entropy}


def memorized(
    widths: tuple[int, ...], steps: int, symbols: int, seed: int
) -> dict[str, Any]:
    """Loss of perceptrons on all contexts of a Markov source of order 2, exact."""
    source = markov_contexts(np.random.default_rng(seed), symbols)
    mass = jnp.asarray(source.p[:, None] * source.law, jnp.float32)
    key, rng = jax.random.key(seed), np.random.default_rng(seed)
    rule = optax.adam(optax.cosine_decay_schedule(1e-2, steps))

    def loss(params: PyTree, key: Any = None) -> Any:
        first, second = params["pair"]
        x = jax.nn.gelu(first[:, None] + second).reshape(symbols**2, -1)
        x = jax.nn.gelu(x @ params["map"] + params["bias"])
        return -(mass * jax.nn.log_softmax(x @ params["head"] + params["offset"])).sum()

    def initial(width: int) -> PyTree:
        draw = lambda *shape: np.float32(rng.normal(size=shape))  # noqa: E731
        return {
            "pair": draw(2, symbols, width),
            "map": draw(width, width) * np.float32(width**-0.5),
            "bias": np.zeros(width, np.float32),
            "head": draw(width, symbols) * np.float32(width**-0.5),
            "offset": np.zeros(symbols, np.float32),
        }

    every = [initial(width) for width in widths]
    end = jax.jit(lambda p: descended(loss, p, rule, [steps], key=key, watch=loss)[0])
    found = [float(end(params)) for params in every]
    count = [sum(x.size for x in jax.tree.leaves(params)) for params in every]
    return {"x": np.array(count, float), "loss": np.array(found), "H": source.entropy}
