"""Densities of both samples at points they were not fitted to, weighted together."""

import time
from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np

from kljax.divergences.estimation.densities import Fit, LogDensity
from kljax.divergences.estimation.lines import Lines

__all__ = [
    "KERNELS",
    "NORMAL",
    "Chosen",
    "Held",
    "Space",
    "chosen",
    "credits",
    "held_out",
    "likeliest",
    "logistic",
    "spaces",
]

_FIT = 20_000
"""Points of a side that anything is fitted to, at most; more are all held out."""
_AT_ONCE = 10_000
NORMAL, KERNELS = "normal", "kernels"
_LOOKED = 2_000
"""Points of those fitted to that are looked at again, at most."""
_MERIT = 0.05
"""Nats of both sides together by which a family must be better to count e times."""
_RACE = 6.0
"""Standard errors behind the best one at which a family is given up early."""


class Space(NamedTuple):
    """Coordinates that both samples are seen in, the same map for both."""

    to: Callable[[np.ndarray], np.ndarray]
    log_jacobian: Callable[[np.ndarray], np.ndarray]


class Held(NamedTuple):
    """Log-densities of p and q by family, `[families, n]`, at points of each."""

    names: list[str]
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

    def where(self, p: np.ndarray, q: np.ndarray) -> "Held":
        """At these points alone."""
        return self._replace(
            p_at_p=self.p_at_p[:, p],
            q_at_p=self.q_at_p[:, p],
            p_at_q=self.p_at_q[:, q],
            q_at_q=self.q_at_q[:, q],
        )


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


class _Side:
    """One sample, its folds, and its own law's log-densities where it was fitted."""

    def __init__(self, x: np.ndarray, count: int, families: int, rng):
        self.x, self.fold = x, _folds(len(x), count, rng)
        self.looked = rng.permutation(len(x))[:_LOOKED]
        self.sums = np.zeros((families, len(self.looked)))
        self.counts = np.zeros(len(self.looked))

    def train(self, fold: int) -> np.ndarray:
        split = self.fold.min() < 0
        return self.x[self.fold < 0 if split else self.fold != fold]

    def held(self, fold: int) -> np.ndarray:
        return self.fold == fold

    def again(self, fold: int) -> np.ndarray:
        """Of the points looked at, those fitted to in this round."""
        rows = self.fold[self.looked]
        return (rows < 0) | ((rows != fold) & (self.fold.min() >= 0))

    def excess(self, held: np.ndarray, keep: np.ndarray) -> np.ndarray:
        """Of every family: the same points where fitted to and where held out."""
        both = (self.counts > 0) & (self.fold[self.looked] >= 0)
        if not both.any():
            return np.zeros(len(keep))
        fitted = self.sums[keep][:, both] / self.counts[both]
        return (fitted - held[keep][:, self.looked[both]]).mean(axis=1)

    def first_excess(self, held: np.ndarray) -> np.ndarray:
        """After one round, when no point has been both."""
        there = self.counts > 0
        mean = held[:, self.held(0)].mean(axis=1)
        return self.sums[:, there].mean(axis=1) - mean


def held_out(
    x_p: np.ndarray,
    x_q: np.ndarray,
    families: Mapping[str, tuple[Space, Fit]],
    rng: np.random.Generator,
    count: int,
) -> Held:
    """Fits every family to all folds but one and evaluates it on that one.

    A family that is far behind on the first fold is not fitted again.
    """
    names = list(families)
    p, q = (_Side(x, count, len(names), rng) for x in (x_p, x_q))
    shape = lambda x: np.full((len(names), len(x)), -np.inf)  # noqa: E731
    pp, qp, pq, qq = shape(x_p), shape(x_p), shape(x_q), shape(x_q)
    spent, alive = dict.fromkeys(names, 0.0), np.ones(len(names), bool)
    for fold in range(max(p.fold.max(), q.fold.max()) + 1):
        for j, (name, (space, fit)) in enumerate(families.items()):
            if not alive[j]:
                continue
            start = time.process_time()
            try:
                laws = fit(space.to(p.train(fold)), space.to(q.train(fold)), rng)
            except np.linalg.LinAlgError:
                alive[j] = False
                continue
            for side, first, second in ((p, pp, qp), (q, pq, qq)):
                held = side.held(fold)
                if held.any():
                    first[j, held], second[j, held] = _evaluated(
                        space, *laws, side.x[held]
                    )
            for side, law in zip((p, q), laws):
                rows = side.again(fold)
                x = side.x[side.looked[rows]]
                side.sums[j, rows] += law(space.to(x)) + space.log_jacobian(x)
            spent[name] += time.process_time() - start
        for side in (p, q):
            side.counts += side.again(fold)
        if not fold:
            first = np.stack([p.first_excess(pp), q.first_excess(qq)], axis=1)
            credit = np.nan_to_num(credits(names, first), posinf=0.0)
            alive &= _alive(
                pp[:, p.held(0)] + credit[:, :1], qq[:, q.held(0)] + credit[:, 1:]
            )
    keep = np.flatnonzero(alive)
    excess = np.stack([p.excess(pp, keep), q.excess(qq, keep)], axis=1)
    kept = [names[j] for j in keep]
    pp, qp, pq, qq = (x[keep] for x in (pp, qp, pq, qq))
    return Held(kept, pp, qp, pq, qq, p.fold, q.fold, excess, spent)


def credits(names: list[str], excess: np.ndarray) -> np.ndarray:
    """What held-out log-densities would gain with endless data, `[families, 2]`.

    Half of its excess where it was fitted: by the likelihood of held-out points alone a
    law of few parameters wins over a true one, and the divergence comes out too small.
    No more than the normal law's, for a mixture that overfits earns nothing by it.
    Kernels find themselves where they were fitted, and get nothing.
    """
    found = np.maximum(excess, 0) / 2
    if NORMAL in names:
        found = np.minimum(found, found[names.index(NORMAL)])
    return np.where([[name == KERNELS] for name in names], 0.0, found)


def _evaluated(
    space: Space, log_p: LogDensity, log_q: LogDensity, x: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    pieces = np.array_split(x, max(1, -(-len(x) // _AT_ONCE)))
    found = []
    for piece in pieces:
        z, jacobian = space.to(piece), space.log_jacobian(piece)
        found.append((log_p(z) + jacobian, log_q(z) + jacobian))
    first, second = (np.concatenate(side) for side in zip(*found))
    return first, second


def _alive(pp: np.ndarray, qq: np.ndarray) -> np.ndarray:
    """Not those that the best family beats clearly on both sides together."""
    both = np.concatenate([pp, qq], axis=1)
    both = np.where(np.isfinite(both), both, -1e9)
    best = both.mean(axis=1).argmax()
    behind = both[best] - both
    error = behind.std(axis=1) / np.sqrt(both.shape[1])
    return ~(behind.mean(axis=1) > _RACE * error + 0.02)


def likeliest(logs: np.ndarray, steps: int = 200) -> np.ndarray:
    """Weights of a mixture of fixed densities `[families, n]`, by EM."""
    shares = np.exp(logs - logs.max(axis=0))
    weights = np.full(len(logs), 1 / len(logs))
    for _ in range(steps):
        joint = weights @ shares
        weights = weights * (shares / joint).mean(axis=1)
        weights /= weights.sum()
    return weights


class Chosen(NamedTuple):
    """One log-ratio of all families."""

    weights: np.ndarray
    """`[families + 1]`, the last that of their mixture."""
    mixed: np.ndarray
    """Weights of the families in the mixture."""
    at_p: np.ndarray
    at_q: np.ndarray
    shift: float
    """What E_p[log p − log q] would gain with endless data."""
    noise: float
    """Variance of the log-ratio that comes from fitting, about."""
    spread: float
    """Of the families' own means of the log-ratio over p."""


def chosen(held: Held) -> Chosen:
    """Log-ratios of the families, and of their likeliest mixture, averaged by merit.

    Merit is the mean held-out log-density of both sides with its credit. Averages of
    densities would draw every log-ratio towards the smallest; those of log-ratios do
    not, and noise that families do not share goes down.
    """
    mixed = likeliest(np.concatenate([held.p_at_p, held.q_at_q], axis=1))
    arrays = held.p_at_p, held.q_at_p, held.p_at_q, held.q_at_q
    pp, qp, pq, qq = (np.concatenate([a, _log_mean(a, mixed)[None]]) for a in arrays)
    both = lambda x: np.concatenate([x, (mixed @ x)[None]])  # noqa: E731
    credit = both(credits(held.names, held.excess)).sum(axis=1)
    known = np.array([[name != KERNELS] for name in held.names])
    excess = both(np.where(known, held.excess, 0))
    merit = pp.mean(axis=1) + qq.mean(axis=1) + credit
    weights = np.exp((merit - merit.max()) / _MERIT)
    weights /= weights.sum()
    own = (pp - qp).mean(axis=1)
    spread = np.sqrt(weights @ (own - weights @ own) ** 2)
    return Chosen(
        weights,
        mixed,
        weights @ (pp - qp),
        weights @ (pq - qq),
        float(weights @ (excess[:, 0] - excess[:, 1])) / 2,
        float(weights @ np.maximum(excess, 0).sum(axis=1)),
        float(spread),
    )


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
    mass = np.concatenate(
        [np.full(len(at_p), 0.5 / len(at_p)), np.full(len(at_q), 0.5 / len(at_q))]
    )
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
