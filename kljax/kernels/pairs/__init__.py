"""Two things compared: points with points tile by tile, covariance with covariance.

`tiles` are blocks of pairs of points, `sums` of Gaussian kernels over all pairs with
derivatives by `tangents`, `neighbors` the k-th nearest point, `covariance` functions of
two covariances that vanish where these are equal.
"""

__all__ = ["covariance", "neighbors", "sums", "tangents", "tiles"]
