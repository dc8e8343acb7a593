"""Densities of both samples at points they were not fitted to, weighted together."""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from kljax.divergences.estimation.densities import Fit, LogDensity
from kljax.divergences.estimation.lines import Lines

__all__ = [
    "KERNELS",
    "Held",
    "Space",
    "credits",
    "held_out",
    "likeliest",
    "logistic",
    "ratios",
    "spaces",
]

_FIT = 30_000
"""Points of a side that anything is fitted to, at most; more are all held out."""
_AT_ONCE = 10_000
KERNELS = "kernels"
_LOOKED = 2_000
"""Points of those fitted to that are looked at again, at most."""
_RACE = 6.0
"""Standard errors behind the best one at which a family is given up early."""


class Space(NamedTuple):
    """Coordinates that both samples are seen in, the same map for both."""

    to: Callable[[np.ndarray], np.ndarray]
    log_jacobian: Callable[[np.ndarray], np.ndarray]


class Held(NamedTuple):
    """Log-densities of p and q by family, `[families, n]`, at points of each."""

    names: Sequence[str]
    p_at_p: np.ndarray
    q_at_p: np.ndarray
    p_at_q: np.ndarray
    q_at_q: np.ndarray
    fold_p: np.ndarray
    """Which fold a point was held out in; -1 where it was only fitted to."""
    fold_q: np.ndarray
    excess: np.ndarray
    """By how much the log-density is larger where it was fitted, `[families, 2]`."""
    spent: Mapping[str, float]
    """Seconds by family."""


def spaces(pooled: np.ndarray) -> tuple[Mapping[str, Space], Lines]:
    """As they are, and as normal scores of the pooled sample."""
    lines = Lines.fit(pooled)

    def log_jacobian(x: np.ndarray) -> np.ndarray:
        z = lines.scores(x)
        return (lines.log_density(x) + 0.5 * (z**2 + np.log(2 * np.pi))).sum(axis=-1)

    same = Space(lambda x: x, lambda x: np.zeros(len(x)))
    return {"": same, "scores": Space(lines.scores, log_jacobian)}, lines


def _folds(n: int, count: int, rng: np.random.Generator) -> np.ndarray:
    order = rng.permutation(n)
    if n > 1.5 * _FIT:
        fold = np.full(n, -1)
        fold[order[_FIT:]] = 0
        return fold
    return (np.argsort(order) * count) // n


def held_out(
    x_p: np.ndarray,
    x_q: np.ndarray,
    families: Mapping[str, tuple[Space, Fit]],
    rng: np.random.Generator,
    count: int,
) -> Held:
    """Fits every family to all folds but one and evaluates it on that one.

    A family that is far behind on the first fold is not fitted again; its densities are
    0 from then on.
    """
    import time

    fold_p, fold_q = _folds(len(x_p), count, rng), _folds(len(x_q), count, rng)
    names = list(families)
    shape = lambda x: np.full((len(names), len(x)), -np.inf)  # noqa: E731
    found = {"pp": shape(x_p), "qp": shape(x_p), "pq": shape(x_q), "qq": shape(x_q)}
    spent = dict.fromkeys(names, 0.0)
    excess = np.zeros((len(names), 2))
    rounds = max(fold_p.max(), fold_q.max()) + 1
    alive = dict.fromkeys(names, True)
    for fold in range(rounds):
        train_p, train_q = x_p[fold_p != fold], x_q[fold_q != fold]
        if len(x_p) > 1.5 * _FIT:
            train_p = x_p[fold_p < 0]
        if len(x_q) > 1.5 * _FIT:
            train_q = x_q[fold_q < 0]
        held_p, held_q = fold_p == fold, fold_q == fold
        for j, (name, (space, fit)) in enumerate(families.items()):
            if not alive[name]:
                continue
            start = time.process_time()
            try:
                log_p, log_q = fit(space.to(train_p), space.to(train_q), rng)
            except np.linalg.LinAlgError:
                alive[name] = False
                continue
            for held, x, keys in ((held_p, x_p, ("pp", "qp")), (held_q, x_q, ("pq", "qq"))):
                first, second = _evaluated(space, log_p, log_q, x[held])
                found[keys[0]][j, held] = first
                found[keys[1]][j, held] = second
            for side, (log, x, held, key) in enumerate(
                ((log_p, train_p, held_p, "pp"), (log_q, train_q, held_q, "qq"))
            ):
                x = x[:_LOOKED]
                again = log(space.to(x)) + space.log_jacobian(x)
                gap = again.mean() - found[key][j, held].mean()
                excess[j, side] += gap / rounds
            spent[name] += time.process_time() - start
        if not fold:
            credit = rounds * credits(names, excess)
            race = _alive(
                found["pp"][:, held_p] + credit[:, :1],
                found["qq"][:, held_q] + credit[:, 1:],
            )
            alive = {name: alive[name] and r for name, r in zip(names, race)}
    keep = [j for j, name in enumerate(names) if alive[name]]
    arrays = (found[key][keep] for key in ("pp", "qp", "pq", "qq"))
    kept = [names[j] for j in keep]
    return Held(kept, *arrays, fold_p, fold_q, excess[keep], spent)


def credits(names: Sequence[str], excess: np.ndarray) -> np.ndarray:
    """What a family's held-out log-density would gain with endless data, `[families, 2]`.

    Half of its excess where it was fitted: by the likelihood of held-out points alone a
    law of few parameters wins over a true one, and the divergence comes out too small.
    Kernels find themselves where they were fitted, and get nothing.
    """
    earned = np.array([name != KERNELS for name in names])
    return np.where(earned[:, None], np.maximum(excess, 0) / 2, 0.0)


def _evaluated(
    space: Space, log_p: LogDensity, log_q: LogDensity, x: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    pieces = np.array_split(x, max(1, -(-len(x) // _AT_ONCE)))
    found = []
    for piece in pieces:
        z, jacobian = space.to(piece), space.log_jacobian(piece)
        found.append((log_p(z) + jacobian, log_q(z) + jacobian))
    return tuple(np.concatenate(side) for side in zip(*found))


def _alive(pp: np.ndarray, qq: np.ndarray) -> list[bool]:
    """Not those that the best family beats clearly on both sides together."""
    both = np.concatenate([pp, qq], axis=1)
    both = np.where(np.isfinite(both), both, -1e9)
    best = both.mean(axis=1).argmax()
    behind = both[best] - both
    error = behind.std(axis=1) / np.sqrt(both.shape[1])
    return list(~(behind.mean(axis=1) > _RACE * error + 0.02))


def likeliest(logs: np.ndarray, steps: int = 200) -> np.ndarray:
    """Weights of a mixture of fixed densities `[families, n]`, by EM."""
    shares = np.exp(logs - logs.max(axis=0))
    weights = np.full(len(logs), 1 / len(logs))
    for _ in range(steps):
        joint = weights @ shares
        weights = weights * (shares / joint).mean(axis=1)
        weights /= weights.sum()
    return weights


def ratios(held: Held, w_p: np.ndarray, w_q: np.ndarray) -> list[np.ndarray]:
    """log p − log q of the two mixtures, at points of p and of q."""
    mixed = lambda logs, w: _log_mean(logs, w)  # noqa: E731
    return [
        mixed(held.p_at_p, w_p) - mixed(held.q_at_p, w_q),
        mixed(held.p_at_q, w_p) - mixed(held.q_at_q, w_q),
    ]


def _log_mean(logs: np.ndarray, weights: np.ndarray) -> np.ndarray:
    top = logs.max(axis=0)
    return top + np.log(weights @ np.exp(logs - top) + 1e-300)


def logistic(
    at_p: np.ndarray, at_q: np.ndarray, ridge: float | np.ndarray = 1e-6
) -> np.ndarray:
    """Coefficients `[k]` of the log-ratio in features `[n, k]`, both sides balanced.

    By Newton's method, halved where it does not fall.
    """
    x = np.concatenate([at_p, at_q])
    y = np.concatenate([np.ones(len(at_p)), -np.ones(len(at_q))])
    mass = np.concatenate([np.full(len(at_p), 0.5 / len(at_p)),
                           np.full(len(at_q), 0.5 / len(at_q))])
    penalty = np.broadcast_to(ridge, x.shape[1])
    beta = np.zeros(x.shape[1])

    def loss(beta: np.ndarray) -> float:
        fit = np.logaddexp(0, -y * (x @ beta)) @ mass
        return float(fit + (penalty * beta**2).sum() / 2)

    now = loss(beta)
    for _ in range(40):
        t = x @ beta
        share = 1 / (1 + np.exp(np.clip(y * t, -500, 500)))
        slope = -x.T @ (mass * y * share) + penalty * beta
        curve = (x * (mass * share * (1 - share))[:, None]).T @ x
        move = np.linalg.solve(curve + np.diag(penalty + 1e-12), slope)
        rate = 1.0
        while (new := loss(beta - rate * move)) > now and rate > 1e-4:
            rate /= 2
        beta = beta - rate * move
        if now - new < 1e-10:
            break
        now = new
    return beta
