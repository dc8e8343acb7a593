"""Functions of two covariances that vanish where they are equal, without cancelling.

With S = αΣq + (1−α)Σp the log-determinant gap is

    J = (log|S| − (1−α) log|Σp| − α log|Σq|) / (2(1−α)),

which tends to ½(tr(Σq⁻¹Σp) − d − log|Σp| + log|Σq|) as α → 1.

Let e be the eigenvalues of Lq⁻¹(Σp − Σq)Lq⁻ᵀ, Lq Cholesky's factor of Σq. Near equality
J = ½ Σ e²(γ(e) − (1−α)γ((1−α)e)) with γ(x) = (x − log1p x)/x²: the difference Σp − Σq
is taken first, exactly, and the error is rounding times the condition number of Σq.
Away from it log-determinants come from Cholesky factors, so that a tiny eigenvalue
beside a huge one keeps its digits. The derivatives are

    ∂J/∂Σp = ½α S⁻¹(Σp − Σq)Σp⁻¹,  ∂J/∂Σq = −½α S⁻¹(Σp − Σq)Σq⁻¹,

by solves, regular at α = 1 and differentiable to every order.
"""

import jax
import jax.numpy as jnp
from jax import lax

from kljax.typing import Array, Float

# Coefficients of (atanh(z) − z)/z³ in z², enough for float64 at |x| < ½.
_ATANH = tuple(1 / (2 * i + 3) for i in range(14))


def _gamma(x: Array) -> Array:
    """(x − log1p x)/x² for x > −1, by log1p x = 2 atanh(x/(2+x)) near 0."""
    near = jnp.abs(x) < 0.5
    small = jnp.where(near, x, 0)
    r = 1 / (2 + small)
    square = (small * r) ** 2
    series = jnp.zeros_like(x)
    for coefficient in reversed(_ATANH):
        series = series * square + coefficient
    large = jnp.where(near, 1, x)
    return jnp.where(
        near, r - 2 * small * r**3 * series, (1 - jnp.log1p(large) / large) / large
    )


@jax.custom_jvp
def _gap_diag(var_p: Array, var_q: Array, alpha: Array) -> Array:
    """J of one-dimensional covariances, elementwise; arguments of one shape."""
    s = 1 - alpha
    e = (var_p - var_q) / var_q
    x = jnp.where(s == 0, 0, s * e)
    near_e, near_x = jnp.abs(e) < 0.5, jnp.abs(x) < 0.5
    near = near_e & near_x
    e_in, x_in = jnp.where(near, e, 0), jnp.where(near_x, x, 0)
    small = 0.5 * e_in**2 * (_gamma(e_in) - s * _gamma(x_in))
    mixture = jnp.log(alpha * var_q + s * var_p) - jnp.log(var_q)
    first = jnp.where(near_x, e * (1 - x_in * _gamma(x_in)), mixture / _safe(s))
    return jnp.where(near, small, 0.5 * (first - jnp.log(var_p) + jnp.log(var_q)))


@_gap_diag.defjvp
def _gap_diag_jvp(primals, tangents):
    var_p, var_q, alpha = primals
    d_p, d_q, d_alpha = tangents
    s = 1 - alpha
    mixture = alpha * var_q + s * var_p
    slope = 0.5 * alpha * (var_p - var_q) / mixture
    e = (var_p - var_q) / var_q
    in_alpha = _in_alpha(e, s, mixture / var_q)
    tangent = slope / var_p * d_p - slope / var_q * d_q + in_alpha * d_alpha
    return _gap_diag(var_p, var_q, alpha), tangent


def _in_alpha(e: Array, s: Array, mixture: Array) -> Array:
    """∂J/∂α per eigenvalue: ½(log1p(x) − x/(1+x))/s², x = s·e, 1 + x = mixture."""
    x = jnp.where(s == 0, 0, s * e)
    near = jnp.abs(x) < 0.5
    small = 0.5 * e**2 * (1 / mixture - _gamma(jnp.where(near, x, 0)))
    large = jnp.log(jnp.where(near, 1, mixture)) - x / mixture
    return jnp.where(near, small, 0.5 * large / _safe(s) ** 2)


def _safe(s: Array) -> Array:
    return jnp.where(s == 0, 1, s)


def log_det_gap_diag(
    var_p: Float[Array, "*b d"], var_q: Float[Array, "*b d"], alpha: Float[Array, "*b"]
) -> tuple[Float[Array, "*b"], Float[Array, "*b d"], Array]:
    """J summed over coordinates, the mixture S, and where S is positive.

    Where S is not positive, J is 0 and S is 1. Variances ≤ 0 give NaN or inf.
    """
    weight = jnp.broadcast_to(alpha[..., None], var_p.shape)
    mixture = weight * var_q + (1 - weight) * var_p
    # "Not below 0" rather than "above": a NaN must stay one.
    finite = ~jnp.any((mixture <= 0) & (var_p > 0) & (var_q > 0), axis=-1)
    keep = finite[..., None]
    # Outside the domain the order 1 is put in, whose value is then dropped.
    gap = jnp.sum(_gap_diag(var_p, var_q, jnp.where(keep, weight, 1)), axis=-1)
    return jnp.where(finite, gap, 0), jnp.where(keep, mixture, 1), finite


def log_det_gap(
    cov_p: Float[Array, "*b d d"],
    cov_q: Float[Array, "*b d d"],
    alpha: Float[Array, "*b"],
) -> tuple[Float[Array, "*b"], Float[Array, "*b d d"], Array]:
    """J, the mixture S, and where S is positive definite.

    Where only S is not, J is 0 and S the identity; where Σp or Σq is not, J is NaN.
    """
    cov_p, cov_q = _symmetric(cov_p), _symmetric(cov_q)
    mixture = _mix(cov_p, cov_q, alpha)
    bad = [
        jnp.isnan(jnp.linalg.cholesky(lax.stop_gradient(c))).any((-2, -1))
        for c in (mixture, cov_p, cov_q)
    ]
    # An order that is NaN is no reason for an infinity.
    finite = ~bad[0] | bad[1] | bad[2] | jnp.isnan(alpha)
    gap = _gap(cov_p, cov_q, jnp.where(finite, alpha, 1))
    eye = jnp.eye(cov_p.shape[-1], dtype=cov_p.dtype)
    return (
        jnp.where(finite, gap, 0),
        jnp.where(finite[..., None, None], mixture, eye),
        finite,
    )


@jax.custom_jvp
def _gap(cov_p: Array, cov_q: Array, alpha: Array) -> Array:
    factor_p, factor_q, factor_s = (
        jnp.linalg.cholesky(c) for c in (cov_p, cov_q, _mix(cov_p, cov_q, alpha))
    )
    s = (1 - alpha)[..., None]
    e = jnp.linalg.eigvalsh(_whiten(cov_p - cov_q, factor_q))
    x = s * e
    near_x = jnp.all(jnp.abs(x) < 0.5, axis=-1, keepdims=True)
    near = jnp.all(jnp.abs(e) < 0.5, axis=-1, keepdims=True) & near_x
    e_in, x_in = jnp.where(near, e, 0), jnp.where(near_x, x, 0)
    small = 0.5 * jnp.sum(e_in**2 * (_gamma(e_in) - s * _gamma(x_in)), axis=-1)
    first = jnp.where(
        near_x[..., 0],
        jnp.sum(e * (1 - x_in * _gamma(x_in)), axis=-1),
        _log_det_ratio(factor_s, factor_q) / _safe(s[..., 0]),
    )
    large = 0.5 * (first - _log_det_ratio(factor_p, factor_q))
    return jnp.where(near[..., 0], small, large)


@_gap.defjvp
def _gap_jvp(primals, tangents):
    cov_p, cov_q, alpha = primals
    d_p, d_q, d_alpha = tangents
    factor_p, factor_q, factor_s = (
        jnp.linalg.cholesky(c) for c in (cov_p, cov_q, _mix(cov_p, cov_q, alpha))
    )
    # S⁻¹(Σp − Σq), and from it the two symmetric gradients.
    slope = 0.5 * alpha[..., None, None] * _solve(factor_s, cov_p - cov_q)
    in_p = _symmetric(_solve(factor_p, jnp.matrix_transpose(slope)))
    in_q = -_symmetric(_solve(factor_q, jnp.matrix_transpose(slope)))
    s = 1 - alpha
    e = jnp.linalg.eigvalsh(_whiten(cov_p - cov_q, factor_q))
    x = s[..., None] * e
    near = jnp.all(jnp.abs(x) < 0.5, axis=-1)
    x_in = jnp.where(near[..., None], x, 0)
    small = 0.5 * jnp.sum(e**2 * (1 / (1 + x_in) - _gamma(x_in)), axis=-1)
    # tr S⁻¹(Σp − Σq), free of the 1/s² where it is not used.
    trace = _trace(_solve(factor_s, cov_p - cov_q))
    large = _log_det_ratio(factor_s, factor_q) - s * trace
    in_alpha = jnp.where(near, small, 0.5 * large / _safe(s) ** 2)
    tangent = (
        jnp.sum(in_p * d_p, axis=(-2, -1))
        + jnp.sum(in_q * d_q, axis=(-2, -1))
        + in_alpha * d_alpha
    )
    return _gap(cov_p, cov_q, alpha), tangent


def mahalanobis(
    delta: Float[Array, "*b d"], cov: Float[Array, "*b d d"]
) -> Float[Array, "*b"]:
    """δᵀ cov⁻¹ δ by one triangular solve; NaN where cov is not positive definite."""
    half = lax.linalg.triangular_solve(
        jnp.linalg.cholesky(cov), delta[..., None], left_side=True, lower=True
    )
    return jnp.sum(half[..., 0] ** 2, axis=-1)


def _symmetric(matrix: Array) -> Array:
    return 0.5 * (matrix + jnp.matrix_transpose(matrix))


def _mix(cov_p: Array, cov_q: Array, alpha: Array) -> Array:
    weight = alpha[..., None, None]
    return weight * cov_q + (1 - weight) * cov_p


def _solve(factor: Array, right: Array) -> Array:
    """(factor factorᵀ)⁻¹ right."""
    half = lax.linalg.triangular_solve(factor, right, left_side=True, lower=True)
    return lax.linalg.triangular_solve(
        factor, half, left_side=True, lower=True, transpose_a=True
    )


def _whiten(matrix: Array, factor: Array) -> Array:
    """factor⁻¹ matrix factor⁻ᵀ of a symmetric matrix, symmetric again."""
    half = lax.linalg.triangular_solve(factor, matrix, left_side=True, lower=True)
    return _symmetric(
        lax.linalg.triangular_solve(
            factor, jnp.matrix_transpose(half), left_side=True, lower=True
        )
    )


def _log_det_ratio(factor: Array, reference: Array) -> Array:
    """log|AAᵀ| − log|BBᵀ| of two Cholesky factors, term by term."""
    ratio = jnp.diagonal(factor, axis1=-2, axis2=-1) / jnp.diagonal(
        reference, axis1=-2, axis2=-1
    )
    return 2 * jnp.sum(jnp.log(ratio), axis=-1)


@jax.custom_jvp
def squared_bures(
    cov_p: Float[Array, "*b d d"], cov_q: Float[Array, "*b d d"]
) -> Float[Array, "*b"]:
    """tr(Σp + Σq − 2(Σp^½ Σq Σp^½)^½), the covariance part of W₂².

    With T the optimal map (TΣpT = Σq) and X = T − I it is tr(XΣpX), which does not
    cancel; the trace form serves far from equality and for singular matrices. The
    gradients are −X in Σp and XT⁻¹ in Σq, and higher derivatives exist.
    """
    cov_p, cov_q = _symmetric(cov_p), _symmetric(cov_q)
    excess, spectrum, singular = _map_spectrum(cov_p, cov_q)
    trace = _trace(cov_p) + _trace(cov_q)
    near = jnp.sum((excess @ cov_p) * excess, axis=(-2, -1))
    far = trace - 2 * jnp.sum(spectrum[-1], axis=-1)
    value = jnp.where(singular | (far > 0.1 * trace), far, near)
    return jnp.where(value < 0, 0, value)


@squared_bures.defjvp
def _squared_bures_jvp(primals, tangents):
    cov_p, cov_q = (_symmetric(c) for c in primals)
    d_p, d_q = tangents
    excess = _map_excess(cov_p, cov_q)
    back = jnp.linalg.solve(_identity(excess) + excess, excess)
    tangent = jnp.sum(_symmetric(back) * d_q - excess * d_p, axis=(-2, -1))
    return squared_bures(*primals), tangent


@jax.custom_jvp
def _map_excess(cov_p: Array, cov_q: Array) -> Array:
    """X = T − I of the optimal map T from N(0, Σp) to N(0, Σq)."""
    return _map_spectrum(cov_p, cov_q)[0]


@_map_excess.defjvp
def _map_excess_jvp(primals, tangents):
    # From TΣpT = Σq: A dX + dX Aᵀ = dΣq − T dΣp T with A = TΣp, whose eigenvectors
    # are known. The solve is opaque to differentiation, its operator is not.
    cov_p, cov_q = primals
    d_p, d_q = (_symmetric(d) for d in tangents)
    excess = _map_excess(cov_p, cov_q)
    spectrum = lax.stop_gradient(_map_spectrum(cov_p, cov_q)[1])
    to_basis, from_basis, roots = spectrum
    transport = _identity(excess) + excess
    operator = transport @ cov_p
    pairs = roots[..., :, None] + roots[..., None, :]
    pairs = jnp.where(pairs > 0, pairs, jnp.inf)

    def apply(x):
        return operator @ x + x @ jnp.matrix_transpose(operator)

    def solve(_, right):
        inner = to_basis @ right @ jnp.matrix_transpose(to_basis)
        return from_basis @ (inner / pairs) @ jnp.matrix_transpose(from_basis)

    def solve_transposed(_, right):
        inner = jnp.matrix_transpose(from_basis) @ right @ from_basis
        return jnp.matrix_transpose(to_basis) @ (inner / pairs) @ to_basis

    right = d_q - transport @ d_p @ transport
    return excess, lax.custom_linear_solve(apply, right, solve, solve_transposed)


def _map_spectrum(cov_p: Array, cov_q: Array) -> tuple[Array, tuple, Array]:
    """X = T − I; B⁻¹, B and √ν with TΣp = B diag(√ν) B⁻¹; and whether Σp is singular.

    In the eigenbasis V of Σp = V S² Vᵀ, K = STS is the root of S VᵀΣqV S. It comes from
    singular values (no squared condition number), K − S² is then refined by a Newton
    step on its own Riccati equation, which restores the digits that K − S² lost.
    """
    values_p, vectors_p = jnp.linalg.eigh(cov_p)
    values_q, vectors_q = jnp.linalg.eigh(cov_q)
    # A negative eigenvalue beyond rounding is illegal input, and becomes NaN.
    tiny = 10 * values_p.shape[-1] * jnp.finfo(cov_p.dtype).eps
    half_p, half_q = (
        jnp.sqrt(jnp.where(jnp.abs(v) <= tiny * _largest(v), jnp.maximum(v, 0), v))
        for v in (values_p, values_q)
    )
    small = values_p <= 4 * jnp.finfo(cov_p.dtype).eps * _largest(values_p)
    cross = jnp.matrix_transpose(vectors_p) @ vectors_q
    left, roots, _ = jnp.linalg.svd(half_p[..., :, None] * cross * half_q[..., None, :])
    root = (left * roots[..., None, :]) @ jnp.matrix_transpose(left)
    difference = jnp.matrix_transpose(vectors_p) @ (cov_q - cov_p) @ vectors_p
    target = half_p[..., :, None] * difference * half_p[..., None, :]
    square = half_p**2
    change = root - square[..., :, None] * _identity(root)
    residual = target - (
        square[..., :, None] * change + change * square[..., None, :] + change @ change
    )
    pairs = roots[..., :, None] + roots[..., None, :]
    pairs = jnp.where(pairs > 0, pairs, jnp.inf)
    inner = jnp.matrix_transpose(left) @ residual @ left
    change = _symmetric(change + left @ (inner / pairs) @ jnp.matrix_transpose(left))
    inverse = jnp.where(small, 0, 1 / jnp.where(small, 1, half_p))
    basis = vectors_p * inverse[..., None, :]
    excess = basis @ change @ jnp.matrix_transpose(basis)
    inverse_basis = jnp.matrix_transpose(left) @ jnp.matrix_transpose(
        vectors_p * half_p[..., None, :]
    )
    return excess, (inverse_basis, basis @ left, roots), jnp.any(small, axis=-1)


def _largest(values: Array) -> Array:
    return jnp.max(jnp.abs(values), axis=-1, keepdims=True)


def _identity(matrix: Array) -> Array:
    return jnp.eye(matrix.shape[-1], dtype=matrix.dtype)


def _trace(matrix: Array) -> Array:
    return jnp.trace(matrix, axis1=-2, axis2=-1)
