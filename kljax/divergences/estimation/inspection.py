"""What two samples look like before anything is fitted; what is wrong has a name."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from kljax.divergences.estimation.thin import is_thin
from kljax.typing import ArrayLike

__all__ = ["Refused", "Samples", "inspected", "smoothed"]

_COPIES = 0.01
"""Share of rows that may occur twice."""
_TIED = 0.05
"""Share of a column's values that repeat others from which on it counts as rounded."""
_LEAST, _PER_DIMENSION = 30, 8
_FLAT = 1e-9


class Refused(Exception):
    """No number: why, and what would help."""

    def __init__(
        self, reason: str, remedy: str, diagnostics: Mapping[str, float] | None = None
    ):
        super().__init__(reason)
        self.reason, self.remedy = reason, remedy
        self.diagnostics = diagnostics or {}


class Samples(NamedTuple):
    """Both samples `[n, d]` in float64, without columns that say nothing."""

    p: np.ndarray
    q: np.ndarray
    tied: np.ndarray
    """Which columns hold whole numbers, `[d]`."""
    notes: Sequence[str]

    @property
    def discrete(self) -> bool:
        return bool(self.tied.all())


def inspected(x_p: ArrayLike, x_q: ArrayLike) -> Samples:
    """Both samples, checked.

    Raises:
      ValueError: shapes that do not fit; NaN or infinity.
      TypeError: something else than numbers.
      Refused: what no estimate can be made of.
    """
    p, q = _numbers("x_p", x_p), _numbers("x_q", x_q)
    if p.shape[1] != q.shape[1]:
        raise ValueError(
            "x_p and x_q must be [n, d] and [m, d] with one d, got "
            f"{p.shape} and {q.shape}"
        )
    notes: list[str] = []
    flat_p, flat_q = ((x == x[0]).all(axis=0) for x in (p, q))
    same = flat_p & flat_q & (p[0] == q[0])
    if same.all():
        raise Refused(
            "all rows of x_p and x_q are one and the same point",
            "samples that vary",
        )
    if same.any():
        notes.append(
            f"{_columns(same)} left out: constant and the same in both samples"
        )
        p, q, flat_p, flat_q = p[:, ~same], q[:, ~same], flat_p[~same], flat_q[~same]
    _check_size(p, q)
    for name, x in (("x_p", p), ("x_q", q)):
        _check_copies(name, x)
    tied_p, tied_q = (_tied(x, flat) for x, flat in ((p, flat_p), (q, flat_q)))
    odd = tied_p != tied_q
    if odd.any():
        raise Refused(
            f"{_columns(odd)} {_kind(odd, flat_p | flat_q)} in one sample alone: one "
            "law has no density where the other has one, and a divergence between them "
            "is the largest there is",
            "leave the column out, or add what noise it was measured with",
        )
    tied, p, q = tied_p, p.copy(), q.copy()
    for i in np.flatnonzero(tied):
        p[:, i], q[:, i] = _whole(p[:, i], q[:, i])
    if not tied.all():
        _check_rank(p, q)
    if tied.any():
        notes.append(f"{_columns(tied)}: values repeat, taken as whole numbers")
    return Samples(p, q, tied, notes)


def _numbers(name: str, x: ArrayLike) -> np.ndarray:
    x = np.asarray(x)
    if x.dtype.kind not in "biuf" and x.dtype.name != "bfloat16":
        raise TypeError(f"{name} must hold real numbers, got an array of {x.dtype}")
    x = x.astype(float)
    if x.ndim == 1:
        x = x[:, None]
    if x.ndim != 2 or 0 in x.shape:
        raise ValueError(f"{name} must be [n, d] with a point at least, got {x.shape}")
    bad = ~np.isfinite(x).all(axis=1)
    if bad.any():
        raise ValueError(
            f"{name} holds NaN or infinity in {bad.sum()} of {len(x)} rows, first in "
            f"row {int(bad.argmax())}: leave these rows out"
        )
    return x


def _columns(chosen: np.ndarray) -> str:
    at = np.flatnonzero(chosen)
    words = ", ".join(map(str, at[:5])) + ", ..." * (len(at) > 5)
    return f"column{'s' * (len(at) > 1)} {words}"


def _kind(odd: np.ndarray, flat: np.ndarray) -> str:
    return "constant" if (odd & flat).any() else "rounded"


def _tied(x: np.ndarray, flat: np.ndarray) -> np.ndarray:
    """Which columns hold values that repeat, `[d]`; integers do."""
    distinct = np.array([len(np.unique(column)) for column in x.T])
    whole = (x == np.round(x)).all(axis=0) & ~flat
    return whole | (distinct <= (1 - _TIED) * len(x))


def _is_even(values: np.ndarray, most: int) -> bool:
    """Whether sorted values lie on a lattice."""
    steps = (values - values[0]) / np.diff(values).min()
    return bool(np.abs(steps - np.round(steps)).max() < 1e-3 and steps[-1] < most)


def _whole(p: np.ndarray, q: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A column with ties as whole numbers: the steps of a lattice, or ranks."""
    both = np.concatenate([p, q])
    values, ranks = np.unique(both, return_inverse=True)
    if len(values) > 1 and _is_even(values, len(both)):
        steps = (values - values[0]) / np.diff(values).min()
        ranks = np.round(steps)[ranks]
    return ranks[: len(p)].astype(float), ranks[len(p) :].astype(float)


def _check_size(p: np.ndarray, q: np.ndarray) -> None:
    n, d = min(len(p), len(q)), p.shape[1]
    need = max(_LEAST, _PER_DIMENSION * d)
    if n < need:
        raise Refused(
            f"{n} points in {d} dimensions: too few to fit anything",
            f"at least {need} points of each, or fewer dimensions",
        )


def _check_copies(name: str, x: np.ndarray) -> None:
    """Rows that repeat although no column is rounded."""
    rows = np.unique(x, axis=0)
    copies = len(x) - len(rows)
    if copies <= _COPIES * len(x) or len(rows) == 1:
        return
    distinct = [np.unique(column) for column in rows.T]
    many = all(len(values) > (1 - _TIED) * len(rows) for values in distinct)
    if many and not any(_is_even(values, 100 * len(x)) for values in distinct):
        raise Refused(
            f"{copies} of {len(x)} rows of {name} are copies of others: they are no "
            "independent draws of a law with a density",
            "each row once, if they are copies; if the law has atoms, their counts "
            "(`kljax.divergences.counts`)",
        )


def _check_rank(p: np.ndarray, q: np.ndarray) -> None:
    pooled = np.concatenate([p, q])
    scale = np.maximum(pooled.std(axis=0), 1e-300)
    center = pooled.mean(axis=0)
    values = np.linalg.eigvalsh(np.atleast_2d(np.cov(((pooled - center) / scale).T)))
    if values[0] < _FLAT * values[-1]:
        raise Refused(
            "the columns depend on each other linearly: no density in all of them",
            "leave the columns out that follow from others",
        )
    for name, x, other in (("x_p", p, q), ("x_q", q, p)):
        if is_thin(x, other):
            raise Refused(
                f"{name} lies on a surface of fewer dimensions than the other sample: "
                "a divergence between them is the largest there is",
                "fewer dimensions, or the noise that the data were measured with",
            )


def smoothed(samples: Samples, rng: np.random.Generator) -> Samples:
    """Whole numbers spread evenly over their cells: no divergence changes."""
    spread = lambda x: x + samples.tied * rng.uniform(-0.5, 0.5, x.shape)  # noqa: E731
    return samples._replace(p=spread(samples.p), q=spread(samples.q))
