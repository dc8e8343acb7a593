"""Sinkhorn iterations between point clouds, cost ‖x − y‖², without the cost matrix.

An update of a potential is a log-sum-exp of biased dot products,

    f_i = ‖x_i‖² − ε log Σ_j exp(log b_j + (g_j − ‖y_j‖²)/ε + 2 x_i·y_j/ε),

and what differentiation needs are averages under the weights of the same sum. Both go
through the pairs a block of rows at a time and make a block anew when differentiated:
memory grows with the number of points, not with that of pairs. The points should be
centered, as the norms cancel.
"""

import jax
import jax.numpy as jnp
from jax import lax

from kljax.kernels.transport.matrix import BLOCK, Solution, log_mass, potential
from kljax.kernels.transport.problem import Problem
from kljax.typing import Array, Float


def attend(
    queries: Float[Array, "*b n d"],
    keys: Float[Array, "*b m d"],
    bias: Float[Array, "*b m"],
    scale: Float[Array, "*b"],
    values: Float[Array, "*b m k"] | None = None,
) -> tuple[Float[Array, "*b n"], Float[Array, "*b n k"]]:
    """Log-sum-exp over j of s_ij = scale·q_i·k_j + bias_j, and averages of the values.

    The averages are under the softmax of s; of no values, an array without columns.
    Leading axes are gone through one by one.
    """
    values = keys[..., :0] if values is None else values
    if queries.ndim > 2:
        problems = queries, keys, bias, scale, values
        return lax.map(lambda problem: attend(*problem), problems)
    n, d = queries.shape
    pairs = 2**18 if jax.default_backend() == "cpu" else 2**26
    blocks = -(-n // max(8, pairs // keys.shape[0]))
    rows = -(-n // blocks)

    def block(queries):
        dots = jnp.matmul(queries, keys.T, precision=lax.Precision.HIGHEST)
        exponent = dots + bias
        largest = lax.stop_gradient(jnp.max(exponent, axis=-1, keepdims=True))
        weights = jnp.exp(exponent - largest)
        total = jnp.sum(weights, axis=-1)
        lse = jnp.log(total) + largest[:, 0]
        mean = jnp.matmul(weights, values, precision=lax.Precision.HIGHEST)
        return lse, mean / total[:, None]

    queries = jnp.pad(scale * queries, ((0, blocks * rows - n), (0, 0)))
    split = queries.reshape(blocks, rows, d)
    out = lax.map(jax.checkpoint(block, prevent_cse=False), split)
    return jax.tree.map(lambda t: t.reshape(blocks * rows, *t.shape[2:])[:n], out)


def side(
    points: Float[Array, "*b n d"], others: Float[Array, "*b m d"], epsilon: Array
):
    """``of(log_mass, potential, values)``: log-sum-exp of the update, and averages."""
    wide = epsilon[..., None]
    norms = jnp.sum(points**2, axis=-1) / wide
    other_norms = jnp.sum(others**2, axis=-1)

    def of(log_weights, other_potential, values=None):
        bias = log_weights + (other_potential - other_norms) / wide
        lse, mean = attend(points, others, bias, 2 / epsilon, values)
        return lse - norms, mean

    return of


def solve_points(
    problem: Problem, iterations: int, tolerance: float | None = None
) -> Solution:
    """As `matrix.solve` with cost ‖x_i − y_j‖²; problems one after the other."""
    a, b, (x, y), epsilon = problem
    if a.ndim > 1:
        return lax.map(lambda one: solve_points(one, iterations, tolerance), problem)
    limit = -1.0 if tolerance is None else tolerance  # never reached
    log_a, log_b = log_mass(a), log_mass(b)
    of_x, of_y = side(x, y, epsilon), side(y, x, epsilon)

    def update(_, state):
        f, g, _ = state
        new = epsilon * potential(of_x(log_b, g)[0], a)
        return new, epsilon * potential(of_y(log_a, new)[0], b), f

    def block(state):
        (f, g, _), done = state
        steps = jnp.minimum(BLOCK, iterations - done)
        return lax.fori_loop(0, steps, update, (f, g, f)), done + steps

    def unfinished(state):
        (f, _, last), done = state
        off = a * jnp.abs(jnp.expm1((last - f) / epsilon))
        error = jnp.sum(jnp.where(a > 0, off, 0))
        return (done < iterations) & ((done == 0) | ~(error <= limit))

    zero = jnp.zeros_like(a)
    state = (zero, jnp.zeros_like(b), zero), jnp.int32(0)
    (f, g, _), done = lax.while_loop(unfinished, block, state)
    return Solution(f, g, done)
