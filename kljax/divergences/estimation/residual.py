"""What a log-ratio has missed: a small network that is trained to add to it."""

from typing import NamedTuple

import numpy as np

__all__ = ["Residual", "residual"]

_FOLDS = 3
_WIDTH = 48
_EPOCHS, _PATIENCE = 40, 6
_BATCH = 128
_RATE, _DECAY = 4e-3, 1e-3
_MOST = 15_000
"""Points of a side that it is trained on, at most."""


class Residual(NamedTuple):
    """The network's logit at points held out of its training."""

    at_p: np.ndarray
    at_q: np.ndarray


def residual(
    z_p: np.ndarray,
    z_q: np.ndarray,
    v_p: np.ndarray,
    v_q: np.ndarray,
    rng: np.random.Generator,
) -> Residual:
    """Fits ``logit = v + g(z)``, g a network, on two of three folds; g on the third.

    The networks of the three folds train side by side; each keeps what was best on a
    quarter of its own points.

    Args:
      z_p, z_q: inputs `[n, d]`, of size about 1.
      v_p, v_q: the log-ratio so far, `[n]`.
      rng: for folds and first weights.
    """
    n, m = len(z_p), len(z_q)
    z, v = np.concatenate([z_p, z_q]), np.concatenate([v_p, v_q])
    y = np.concatenate([np.ones(n), -np.ones(m)])
    mass = np.concatenate(
        [np.full(n, 0.5 * (n + m) / n), np.full(m, 0.5 * (n + m) / m)]
    )
    v = np.clip(v, -30, 30)
    fold = rng.permutation(n + m) % _FOLDS
    train, check = [], []
    for k in range(_FOLDS):
        rest = rng.permutation(np.flatnonzero(fold != k))[: 2 * _MOST]
        cut = len(rest) // 4
        check.append(rest[:cut])
        train.append(rest[cut:])
    size = min(map(len, train)) // _BATCH * _BATCH or min(map(len, train))
    batch = min(_BATCH, size)
    train = np.stack([rows[:size] for rows in train])
    check = np.stack([rows[: min(map(len, check))] for rows in check])
    net = _Net(_FOLDS, z.shape[1], rng)
    best, kept = net.losses(z[check], v[check], y[check], mass[check]), net.copy()
    waited = 0
    for _ in range(_EPOCHS):
        order = rng.permuted(train, axis=1)
        for start in range(0, size - batch + 1, batch):
            rows = order[:, start : start + batch]
            net.step(z[rows], v[rows], y[rows], mass[rows])
        found = net.losses(z[check], v[check], y[check], mass[check])
        better = found < best - 1e-5
        kept = [
            np.where(better.reshape(-1, 1, 1), a, b) for a, b in zip(net.weights, kept)
        ]
        best = np.where(better, found, best)
        waited = 0 if better.any() else waited + 1
        if waited >= _PATIENCE:
            break
    net.weights = kept
    g = np.zeros(n + m)
    for k in range(_FOLDS):
        rows = np.flatnonzero(fold == k)
        for part in np.array_split(rows, max(1, len(rows) // 10_000)):
            g[part] = net.one(k, z[part])
    return Residual(g[:n], g[n:])


class _Net:
    """One hidden layer with a linear way around it, a net per fold; Adam."""

    def __init__(self, folds: int, d: int, rng: np.random.Generator):
        inner = rng.normal(size=(folds, d, _WIDTH)) * np.sqrt(2 / d)
        self.weights = [
            inner,
            rng.normal(size=(folds, 1, _WIDTH)),
            np.zeros((folds, _WIDTH, 1)),
        ]
        self.first = [np.zeros_like(w) for w in self.weights]
        self.second = [np.zeros_like(w) for w in self.weights]
        self.count = 0

    def copy(self) -> list[np.ndarray]:
        return [w.copy() for w in self.weights]

    def one(self, k: int, z: np.ndarray) -> np.ndarray:
        a, b, c = (w[k] for w in self.weights)
        return (_bent(z @ a + b) @ c)[:, 0]

    def losses(self, z, v, y, mass) -> np.ndarray:
        """Of every fold."""
        a, b, c = self.weights
        t = v + (_bent(z @ a + b) @ c)[..., 0]
        return (mass * np.logaddexp(0, -y * t)).mean(axis=1)

    def step(self, z, v, y, mass) -> None:
        a, b, c = self.weights
        inner = z @ a + b
        hidden = _bent(inner)
        t = v + (hidden @ c)[..., 0]
        slope = -mass * y / (1 + np.exp(np.clip(y * t, -50, 50))) / z.shape[1]
        back = slope[..., None] * c[:, None, :, 0] * (inner > 0)
        grads = (
            z.swapaxes(1, 2) @ back,
            back.sum(axis=1, keepdims=True),
            hidden.swapaxes(1, 2) @ slope[..., None],
        )
        self.count += 1
        one, two = 1 - 0.9**self.count, 1 - 0.999**self.count
        for w, g, m1, m2 in zip(self.weights, grads, self.first, self.second):
            m1 += 0.1 * (g - m1)
            m2 += 0.001 * (g * g - m2)
            w -= _RATE * (m1 / one / (np.sqrt(m2 / two) + 1e-8) + _DECAY * w)


def _bent(x: np.ndarray) -> np.ndarray:
    return np.maximum(x, 0)
