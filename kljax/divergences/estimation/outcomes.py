"""Discrete samples: families of laws of integers, and the plug-in of few outcomes."""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np

from kljax.divergences.estimation.densities import Fit, each
from kljax.divergences.estimation.stack import Space
from kljax.generators import FDivergence

__all__ = ["PlugIn", "cells", "discrete_families", "plug_in", "tallied"]

_TABLE = 200_000
"""Entries of a table of counts, at most."""
_RESTS = 400
"""Outcomes whose removal is tried one by one; more would take long."""


class PlugIn(NamedTuple):
    """A divergence of two tables of counts."""

    value: float
    """Corrected."""
    bias: float
    error: float
    unseen: float
    """Share of p in outcomes that q's sample lacks."""


def tallied(x_p: np.ndarray, x_q: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Counts of every row that occurs, on both sides."""
    both = np.concatenate([x_p, x_q])
    _, at = np.unique(both, axis=0, return_inverse=True)
    at = at.reshape(-1)
    size = at.max() + 1
    return np.bincount(at[: len(x_p)], minlength=size), np.bincount(
        at[len(x_p) :], minlength=size
    )


def plug_in(
    counts_p: np.ndarray, counts_q: np.ndarray, divergence: FDivergence
) -> PlugIn:
    """Of the shares, with the jackknife's correction and standard error.

    Where an outcome is lacking, or would be without one point, all get half a point.
    """
    n, m = counts_p.sum(), counts_q.sum()
    empty = 0.5 * bool(min(counts_p.min(), counts_q.min()) < 2)

    def of(counts_p: np.ndarray, counts_q: np.ndarray) -> np.ndarray:
        """Leading axes are tables."""
        p, q = counts_p + empty, counts_q + empty
        p, q = (x / x.sum(axis=-1, keepdims=True) for x in (p, q))
        with np.errstate(divide="ignore"):
            log_p, log_q = np.log(p), np.log(q)
        return np.asarray(divergence.term(log_p, log_q), float).sum(axis=-1)

    whole = float(of(counts_p, counts_q))
    bias, variance = 0.0, 0.0
    for side, (counts, total) in enumerate(((counts_p, n), (counts_q, m))):
        there = np.flatnonzero(counts)
        without = []
        for part in np.array_split(there, max(1, len(there) // _RESTS)):
            tables = np.repeat(counts[None], len(part), axis=0).astype(float)
            tables[np.arange(len(part)), part] -= 1
            other = (tables, counts_q) if side == 0 else (counts_p, tables)
            without.append(of(*other))
        found, share = np.concatenate(without), counts[there] / total
        middle = share @ found
        bias += (total - 1) * (middle - whole)
        variance += (total - 1) * (share @ (found - middle) ** 2)
    unseen = float(counts_p[counts_q == 0].sum() / n)
    return PlugIn(whole - bias, float(bias), float(np.sqrt(variance)), unseen)


def cells(pooled: np.ndarray) -> tuple[Space, np.ndarray]:
    """Whole numbers that were spread over their cells, as indices again; how many
    each column has. A cell has volume 1: its mass is its density."""
    values = [np.unique(np.round(column)) for column in pooled.T]

    def to(x: np.ndarray) -> np.ndarray:
        found = [np.searchsorted(v, np.round(c)) for v, c in zip(values, x.T)]
        return np.stack(found, axis=1)

    sizes = np.array([len(v) for v in values])
    return Space(to, lambda x: np.zeros(len(x))), sizes


def discrete_families(sizes: np.ndarray) -> Mapping[str, Fit]:
    """Independent columns, and chains in the order of the columns, by name."""
    found: dict[str, Fit] = {"independent columns": each(_columns(sizes))}
    if len(sizes) < 2:
        return found
    top = int(sizes.max())
    for order in (1, 2):
        if top ** (order + 1) * len(sizes) <= _TABLE and order < len(sizes):
            found[f"chain of order {order}"] = each(_chain(sizes, order, False))
        if top ** (order + 1) <= _TABLE and order < len(sizes):
            found[f"one chain of order {order}"] = each(_chain(sizes, order, True))
    return found


def _columns(sizes: np.ndarray) -> Callable:
    def one(x, rng):
        tables = []
        for column, size in zip(x.T, sizes):
            counts = np.bincount(column, minlength=size) + 0.5
            tables.append(np.log(counts / counts.sum()))
        return lambda y: np.sum([t[c] for t, c in zip(tables, y.T)], axis=0)

    return one


def _chain(sizes: np.ndarray, order: int, same: bool) -> Callable:
    """Masses given the columns before, drawn towards those given one column less.

    `same`: one table for all columns.
    """
    k = int(sizes.max())

    def index(x: np.ndarray, i: int, depth: int) -> np.ndarray:
        found = np.zeros(len(x), int)
        for back in range(depth, -1, -1):
            found = found * k + x[:, i - back]
        return found

    def one(x, rng):
        d = x.shape[1]

        def table(columns: range, depth: int, base: np.ndarray) -> np.ndarray:
            counts = sum(
                np.bincount(index(x, i, depth), minlength=k ** (depth + 1))
                for i in columns
            )
            counts = np.asarray(counts, float).reshape(-1, k)
            prior = 1.0 + k / 4
            below = np.tile(base, (len(counts) // len(base), 1))
            mass = counts + prior * below
            return mass / mass.sum(axis=1, keepdims=True)

        uniform = np.full((1, k), 1 / k)
        start = [table(range(i, i + 1), 0, uniform) for i in range(d)]
        shared = table(range(d), 0, uniform)
        logs = []
        for i in range(d):
            base = start[i] if i == 0 or not same else shared
            for depth in range(1, min(order, i) + 1):
                columns = range(depth, d) if same else range(i, i + 1)
                base = table(columns, depth, base)
            logs.append(np.log(base).ravel())

        def log_mass(y: np.ndarray) -> np.ndarray:
            each = [logs[i][index(y, i, min(order, i))] for i in range(d)]
            return np.sum(each, axis=0)

        return log_mass

    return one
