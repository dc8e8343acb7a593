"""What is known exactly: a linear network, noisy layers, a Gibbs algorithm."""

import math
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from scipy import stats

from kljax.theory import sdpi
from kljax.theory.generalization import gibbs, gibbs_bound, kl_bound
from kljax.theory.linear_network import LinearNetwork
from kljax.typing import Array

RANKS = (20, 10, 5, 2, 1)
INPUT, LAST, SIGN, GAP = "input", "last", "right or wrong", "true gap"
EXACT = [INPUT, *(f"rank {r}" for r in RANKS[1:-1]), LAST, SIGN]
"""Layers of the linear network, from the input on."""


@partial(jax.jit, static_argnums=1)
def _linear(key: Array, draws: int) -> dict[str, dict[str, Array]]:
    net = LinearNetwork.draw(key, draws, jnp.eye(RANKS[0])[0], 50.0)
    kls = {name: net.kl(net.rows(r)) for name, r in zip(EXACT, RANKS)}
    kls |= {SIGN: net.sign_kl()}
    found = {k: {"KL": x, "bound": kl_bound(x)} for k, x in kls.items()}
    found[INPUT]["W bound"] = jnp.linalg.norm(net.w, axis=-1) * net.w1()[1]
    found[LAST]["W bound"] = net.last_w1()
    found[GAP] = {"bound": net.zero_one_gap(), "W bound": net.logistic_gap()}
    return jax.tree.map(jnp.mean, found)


def linear(draws: int, seed: int) -> dict[str, dict[str, float]]:
    """The linear network at |mu| = s = 1, d = 20, n = 50: means over draws of w."""
    return jax.tree.map(float, _linear(jax.random.key(seed), draws))


def contraction() -> dict[str, float]:
    """The exact coefficient of a channel over the formula's."""
    bits = np.array([*np.ndindex(2, 2, 2)])
    signs, chance = 2 * bits - 1, np.where(bits, 0.7, 0.3).prod(axis=1)
    shown = (signs[:, None] * bits).reshape(-1, 3)  # each sign is erased or not
    values, place = np.unique(shown, axis=0, return_inverse=True)
    erased = np.zeros((8, len(values)))
    np.add.at(erased, (np.repeat(range(8), 8), place.ravel()), np.tile(chance, 8))
    y = np.linspace(-12, 14, 4001)
    noisy = np.stack([stats.norm.pdf(y, r) for r in (0, 2)]) * (y[1] - y[0])
    formulas = sdpi.log_eta_dropout(0.3, 3), jax.jit(sdpi.log_eta_gaussian)(2.0)
    find = jax.jit(sdpi.log_eta_channel)
    with np.errstate(divide="ignore"):
        exact = [find(np.log(table)) for table in (erased, noisy)]
    ratios = (math.exp(a - b) for a, b in zip(exact, formulas))
    return dict(zip(("dropout", "Gaussian noise"), ratios))


def coins(gamma: float) -> dict[str, float]:
    """Five guesses of a coin that shows 1 with probability 0.7, from eight throws."""
    loss = np.abs(np.linspace(0, 1, 5)[:, None] - np.arange(2))
    given = np.full(5, -math.log(5)), loss, np.log([0.3, 0.7]), 8, gamma
    found = jax.tree.map(float, jax.jit(gibbs, static_argnums=3)(*given))
    off = abs(found.gap - (found.information + found.lautum) / gamma)
    bounds = kl_bound(found.information / 8), gibbs_bound(gamma, 8.0)
    values = off, *(found.gap / one for one in bounds)
    return dict(zip(("off", "of sqrt", "of gamma"), map(float, values)))
