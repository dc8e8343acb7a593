"""Fidelity, variety and copying of generated images, from features or pixels.

All functions take NumPy or JAX arrays and compute in float64 on the host: they run once
per evaluation, and sums over ten thousand samples cancel badly in float32.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from kljax.arguments import whole
from kljax.typing import ArrayLike, Bool, Float

__all__ = [
    "PrecisionRecall",
    "frechet_distance",
    "frechet_distance_from_moments",
    "nearest_distances",
    "precision_recall",
]

BLOCK_NUMBERS = 4_000_000
"""Entries of a block of the distance matrix: 32 MB, whatever the sample sizes."""

TIE = 1e-9
"""Squared distances this close, relatively, to a squared radius count as inside."""

Vectors = Float[np.ndarray, "n d"]
Others = Float[np.ndarray, "m d"]


class PrecisionRecall(NamedTuple):
    """Four numbers from `precision_recall`; all but the density lie in [0, 1]."""

    precision: float
    recall: float
    density: float
    coverage: float


def frechet_distance(real_features: ArrayLike, fake_features: ArrayLike) -> float:
    """Squared Fréchet distance of the Gaussians fitted to two sets of features.

    `|m_p - m_q|² + tr(C_p + C_q - 2 (C_p^½ C_q C_p^½)^½)`, m and C the sample means and
    the unbiased covariances. With Inception features this is the FID. The value
    depends on the sample sizes: compare at equal n only.

    Args:
      real_features: `[n, d]` (or `[n, ...]`, flattened), finite, n at least 2.
      fake_features: `[m, d]`, the same d.

    Returns:
      A float, at least 0, in squared units of the features.

    Raises:
      ValueError: fewer than two samples, unequal d, or values that are not finite.

    Example:
      >>> x = np.arange(12.0).reshape(6, 2)
      >>> round(frechet_distance(x, x + 3.0), 9)
      18.0

    Reference: Heusel et al. 2017 (arXiv 1706.08500), Eq. 6; Dowson and Landau 1982.
    """
    real = _vectors("real_features", real_features, at_least=2)
    fake = _vectors("fake_features", fake_features, at_least=2)
    _same_width("real_features", real, "fake_features", fake)
    return frechet_distance_from_moments(*_moments(real), *_moments(fake))


def frechet_distance_from_moments(
    mean_p: ArrayLike, cov_p: ArrayLike, mean_q: ArrayLike, cov_q: ArrayLike
) -> float:
    """Squared Fréchet (2-Wasserstein) distance of two Gaussians.

    `|m_p - m_q|² + tr C_p + tr C_q - 2 |S_pᵀ S_q|_*` with `C = S Sᵀ` and the nuclear
    norm (sum of singular values), which equals the usual trace of a matrix square root.
    S comes from `eigh`, so singular covariances are legal, and the singular values are
    never squared, so that zeros do not turn into square roots of rounding errors.

    Args:
      mean_p, mean_q: `[d]`.
      cov_p, cov_q: `[d, d]`, symmetric, positive semi-definite up to rounding.

    Returns:
      A float, at least 0.

    Raises:
      ValueError: shapes that do not fit, values that are not finite, or a covariance
        that is not symmetric or has a clearly negative eigenvalue.

    Example:
      >>> zero, one = np.zeros(1), np.eye(1)
      >>> frechet_distance_from_moments(zero, one, zero, 4 * one)
      1.0

    Reference: Dowson and Landau 1982.
    """
    means, factors, traces = [], [], []
    for side, mean, cov in (("p", mean_p, cov_p), ("q", mean_q, cov_q)):
        mean, cov = np.asarray(mean, np.float64), np.asarray(cov, np.float64)
        if mean.ndim != 1 or cov.shape != mean.shape * 2:
            raise ValueError(
                f"mean_{side} and cov_{side} must be [d] and [d, d], got "
                f"{list(mean.shape)} and {list(cov.shape)}"
            )
        if not (np.isfinite(mean).all() and np.isfinite(cov).all()):
            raise ValueError(f"mean_{side} and cov_{side} must be finite")
        means.append(mean)
        factors.append(_square_root(f"cov_{side}", cov))
        traces.append(np.trace(cov))
    if means[0].shape != means[1].shape:
        raise ValueError(
            f"mean_p and mean_q must have one length, got {means[0].size} and "
            f"{means[1].size}"
        )
    nuclear = np.linalg.svd(factors[0].T @ factors[1], compute_uv=False).sum()
    shift = np.square(means[0] - means[1]).sum()
    return max(0.0, float(shift + traces[0] + traces[1] - 2 * nuclear))


def precision_recall(
    real: ArrayLike, fake: ArrayLike, *, k: int = 3
) -> PrecisionRecall:
    """Fidelity and variety of samples from balls that reach to the k-th neighbor.

    With `B(x)` the closed ball around x up to its k-th nearest neighbor in x's own set:

    precision = share of fakes inside any `B(real)`, recall = share of reals inside any
    `B(fake)`, density = mean over fakes of the number of `B(real)` around it, over k,
    coverage = share of `B(real)` that hold a fake.

    Recall uses balls of the fakes and grows when these scatter: read it together with
    the coverage. Memory is bounded: distances are computed block by block.

    Args:
      real: `[n, d]` features or pixels (`[n, ...]` is flattened), finite.
      fake: `[m, d]`, the same d; m = n for comparable numbers.
      k: neighbors, at least 1 and below n and m.

    Returns:
      `PrecisionRecall(precision, recall, density, coverage)`, floats.

    Raises:
      ValueError: k out of range, unequal d, or values that are not finite.

    Example:
      >>> x = np.arange(5.0)[:, None]
      >>> precision_recall(x, x + 10.0, k=1)
      PrecisionRecall(precision=0.0, recall=0.0, density=0.0, coverage=0.0)

    References: Kynkäänniemi et al. 2019 (arXiv 1904.06991), Eqs. 1-2; Naeem et al. 2020
    (arXiv 2002.09797), section 3. Balls are closed here, so that ties count as inside.
    """
    k = whole("k", k)
    real_set = _vectors("real", real, at_least=k + 1)
    fake_set = _vectors("fake", fake, at_least=k + 1)
    _same_width("real", real_set, "fake", fake_set)
    real_set, fake_set, noise = _centered(real_set, fake_set)
    real_radius = _squared_radii(real_set, k) * (1 + TIE) + noise
    fake_radius = _squared_radii(fake_set, k) * (1 + TIE) + noise

    inside_real, balls = 0, 0
    covered = np.zeros(len(real_set), bool)
    recalled = np.zeros(len(real_set), bool)
    for rows, squared in _blocks(fake_set, real_set):
        hit: Bool[np.ndarray, "m n"] = squared <= real_radius
        inside_real += int(hit.any(axis=1).sum())
        balls += int(hit.sum())
        covered |= hit.any(axis=0)
        recalled |= (squared <= fake_radius[rows, None]).any(axis=0)
    return PrecisionRecall(
        precision=inside_real / len(fake_set),
        recall=float(recalled.mean()),
        density=balls / (k * len(fake_set)),
        coverage=float(covered.mean()),
    )


def nearest_distances(
    query: ArrayLike, reference: ArrayLike
) -> tuple[Float[np.ndarray, "n"], Float[np.ndarray, "n"]]:
    """Euclidean distances to the nearest and second nearest reference point.

    The check for copies asks for queries (generated images) whose nearest training
    image is much closer than the second nearest, for example less than a third.

    Args:
      query: `[n, d]` features or pixels (`[n, ...]` is flattened), finite.
      reference: `[m, d]`, m at least 2; its points are not matched with themselves, so
        a query that is a reference point has a nearest distance of exactly 0.

    Returns:
      Two float64 arrays `[n]`, the first never larger than the second.

    Raises:
      ValueError: fewer than two reference points, unequal d, or values not finite.

    Example:
      >>> points = np.array([[1.0], [4.0], [9.0]])
      >>> near, second = nearest_distances(np.array([[0.0], [4.0]]), points)
      >>> near.tolist(), second.tolist()
      ([1.0, 0.0], [4.0, 3.0])

    Reference: Yoon et al. 2023, "Diffusion probabilistic models generalize when they
    fail to memorize" (the one-third rule).
    """
    queries = _vectors("query", query, at_least=1)
    points = _vectors("reference", reference, at_least=2)
    _same_width("query", queries, "reference", points)
    queries, points, _ = _centered(queries, points)
    found = np.empty((len(queries), 2))
    for rows, squared in _blocks(queries, points):
        best = np.argpartition(squared, 1, axis=1)[:, :2]
        # The matrix product only chose them: differences keep small distances exact.
        for column in range(2):
            gap = queries[rows] - points[best[:, column]]
            found[rows, column] = np.sqrt(np.einsum("nd,nd->n", gap, gap))
    found.sort(axis=1)
    return found[:, 0], found[:, 1]


def _vectors(name: str, values: ArrayLike, at_least: int) -> Vectors:
    array = np.asarray(values, np.float64)
    if array.ndim < 2 or len(array) < at_least:
        raise ValueError(
            f"{name} must be [n, d] with n at least {at_least}, got shape "
            f"{list(array.shape)}"
        )
    array = array.reshape(len(array), -1)
    if not np.isfinite(array).all():
        bad = int((~np.isfinite(array).all(axis=1)).sum())
        raise ValueError(f"{name} must be finite, got NaN or infinity in {bad} rows")
    return array


def _same_width(first: str, a: np.ndarray, second: str, b: np.ndarray) -> None:
    if a.shape[1] != b.shape[1]:
        raise ValueError(
            f"{first} and {second} must have as many features, got shapes "
            f"{list(a.shape)} and {list(b.shape)}"
        )


def _moments(x: Vectors) -> tuple[np.ndarray, np.ndarray]:
    mean = x.mean(axis=0)
    centered = x - mean
    return mean, centered.T @ centered / (len(x) - 1)


def _square_root(name: str, cov: Float[np.ndarray, "d d"]) -> Float[np.ndarray, "d d"]:
    """`S` with `S Sᵀ = cov`, null directions exactly zero."""
    scale = np.abs(cov).max(initial=0.0)
    if np.abs(cov - cov.T).max(initial=0.0) > 1e-6 * scale:
        raise ValueError(f"{name} must be symmetric")
    values, vectors = np.linalg.eigh((cov + cov.T) / 2)
    if values.min(initial=0.0) < -1e-6 * scale * len(cov):
        raise ValueError(
            f"{name} must be positive semi-definite, its smallest eigenvalue is "
            f"{values.min():g}"
        )
    rounding = len(cov) * np.finfo(np.float64).eps * values.max(initial=0.0)
    return vectors * np.sqrt(np.where(values > rounding, values, 0.0))


def _centered(a: Vectors, b: Others) -> tuple[Vectors, Others, float]:
    """Both sets about the mean of the second, and the rounding of their distances.

    Centering keeps `|a|² - 2 a·b + |b|²` from cancelling when the data sit far from the
    origin.
    """
    center = b.mean(axis=0)
    a, b = a - center, b - center
    largest = max(np.einsum("nd,nd->n", x, x).max() for x in (a, b))
    return a, b, 4 * a.shape[1] * np.finfo(np.float64).eps * float(largest)


def _blocks(a: Vectors, b: Others) -> Iterator[tuple[slice, np.ndarray]]:
    """Squared distances from a few rows of `a` to all of `b`, block after block."""
    size = max(1, BLOCK_NUMBERS // len(b))
    b_squared = np.einsum("md,md->m", b, b)
    for start in range(0, len(a), size):
        rows = slice(start, min(start + size, len(a)))
        block = a[rows]
        squared = np.einsum("nd,nd->n", block, block)[:, None] + b_squared
        squared -= 2 * (block @ b.T)
        yield rows, np.maximum(squared, 0, out=squared)


def _squared_radii(x: Vectors, k: int) -> Float[np.ndarray, "n"]:
    """Squared distance of each point to its k-th nearest other point."""
    radii = np.empty(len(x))
    for rows, squared in _blocks(x, x):
        own = np.arange(rows.start, rows.stop)
        squared[own - rows.start, own] = np.inf
        radii[rows] = np.partition(squared, k - 1, axis=1)[:, k - 1]
    return radii
