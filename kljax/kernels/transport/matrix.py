"""Sinkhorn iterations on a cost matrix by scalings that are folded into potentials.

An iteration in the log domain takes an exponential of every pair twice. Here the kernel
K = e^{(f + g − C)/ε} is formed once and the iteration goes on with scalings,
u = 1/(K(b v)) and v = 1/(Kᵀ(a u)): two products of a matrix and a vector. Every ten
iterations the scalings are looked at: if they have moved far, ε log u and ε log v are
folded into f and g and the kernel is formed again; if they have left what the
floating-point type holds, the ten are done over in the log domain. The potentials are
those of the log domain, up to rounding.

Problems of a batch share a loop. Whether to fold is decided for all of them at once,
also under `vmap`, so that these decisions stay branches of the program; what is done
over is chosen problem by problem.
"""

import math
from typing import NamedTuple

import jax.numpy as jnp
from jax import lax
from jax.custom_batching import custom_vmap

from kljax.kernels.transport.problem import Problem
from kljax.typing import Array, Bool, Float, Int

BLOCK = 10
"""Iterations between two looks at the scalings."""
_START = 2
"""First iterations, in the log domain: they bring the kernel near its marginals."""
_FOLD = 1e3
"""Scalings beyond this, or below its inverse, are folded."""
_LARGEST = 1e30


class Solution(NamedTuple):
    """Potentials in units of the cost, one entry per leading index."""

    f: Float[Array, "*b n"]
    g: Float[Array, "*b m"]
    iterations: Int[Array, "*b"]


@custom_vmap
def every(flags: Bool[Array, "..."]) -> Bool[Array, ""]:
    """Whether all flags are set, those of all problems under `vmap` too."""
    return jnp.all(flags)


@every.def_vmap
def _every_of_a_batch(axis_size, in_batched, flags):
    del axis_size, in_batched
    return every(flags), False


def log_sum_exp(x: Array, axis: int) -> Array:
    """Along one axis; −inf where every term is. Not to be differentiated."""
    largest = jnp.max(x, axis=axis, keepdims=True)
    largest = jnp.where(largest == -jnp.inf, 0, largest)
    total = jnp.sum(jnp.exp(x - largest), axis=axis)
    return jnp.log(total) + jnp.squeeze(largest, axis)


def log_mass(mass: Array) -> Array:
    """Logarithm; −inf at 0, with gradient 0 there. NaN stays."""
    none = mass == 0
    return jnp.where(none, -jnp.inf, jnp.log(jnp.where(none, 1, mass)))


def usable(cost: Array, a: Array, b: Array) -> Array:
    """The cost, 0 for NaN between points of which one has no mass."""
    idle = (a == 0)[..., :, None] | (b == 0)[..., None, :]
    return jnp.where(idle & jnp.isnan(cost), 0, cost)


def potential(lse: Array, mass: Array) -> Array:
    """−lse; 0 at points that have neither mass nor a pair that is allowed."""
    return jnp.where((mass > 0) | (lse != -jnp.inf), -lse, 0)


def solve(
    problem: Problem, iterations: int, tolerance: float | None = None
) -> Solution:
    """Potentials after so many updates of f, each followed by one of g.

    Not differentiable: the rules of the fixed point are for that.

    Args:
      problem: with a matrix of costs.
      iterations: how many; with a tolerance, how many at most.
      tolerance: Σ|P1 − a| at which a problem stops, looked at every ten iterations.
    """
    a, b, (cost, offset), epsilon = problem
    costs = _Problem(a, b, cost, epsilon[..., None], offset)
    first, all_of = min(_START, iterations), jnp.ones(epsilon.shape, bool)
    state = _State(
        jnp.zeros_like(a),
        jnp.zeros_like(b),
        all_of,
        jnp.full(epsilon.shape, first, jnp.int32),
        jnp.int32(first),
        all_of,
        jnp.int32(first),
    )

    def unfinished(state):
        more = state.done < iterations
        more = more if tolerance is None else more & ~every(~state.active)
        return more | ~every(~state.anew)

    def step(state):
        return lax.cond(every(~state.anew), scale, over, state)

    def scale(state):
        return _scaled(costs, state, iterations, tolerance)

    def over(state):
        return _log_steps(costs, state, tolerance)

    state = lax.while_loop(unfinished, step, state)
    positive = every(a > 0) & every(b > 0)
    f, g = lax.cond(positive, lambda *fg: fg, costs.extended, state.f, state.g)
    return Solution(f, g, state.count)


class _Problem(NamedTuple):
    a: Array
    b: Array
    cost: Array
    scale: Array
    """ε, with an axis for the points."""
    offset: Array

    def exponent(self, left: Array, right: Array) -> Array:
        # In this order: C/ε alone would be kept, an array as large as the kernel.
        cost = usable(self.cost, self.a, self.b)
        cost -= self.offset[..., None, None]
        slack = left[..., :, None] + right[..., None, :] - cost
        return slack * (1 / self.scale)[..., None]

    def update_f(self, g: Array) -> Array:
        weighted = g + self.scale * log_mass(self.b)
        lse = log_sum_exp(self.exponent(jnp.zeros_like(self.a), weighted), -1)
        return self.scale * potential(lse, self.a)

    def update_g(self, f: Array) -> Array:
        weighted = f + self.scale * log_mass(self.a)
        lse = log_sum_exp(self.exponent(weighted, jnp.zeros_like(self.b)), -2)
        return self.scale * potential(lse, self.b)

    def extended(self, f: Array, g: Array) -> tuple[Array, Array]:
        """Potentials at points without mass, which the scalings leave alone."""
        new_f, new_g = self.update_f(g), self.update_g(f)
        return jnp.where(self.a > 0, f, new_f), jnp.where(self.b > 0, g, new_g)


class _State(NamedTuple):
    f: Array
    g: Array
    active: Array
    """Problems that go on."""
    count: Array
    """Iterations of each problem."""
    done: Array
    """Iterations of the slowest."""
    anew: Array
    """Problems whose last iterations are still to be done, in the log domain."""
    steps: Array
    """How many these are."""


class _Scalings(NamedTuple):
    u: Array
    v: Array
    before: tuple[Array, Array]
    """u and v before the last block."""
    steps: Array
    """Iterations of the last block."""
    active: Array
    count: Array
    done: Array
    inside: Array
    """Whether the kernel can be used on."""


def _active(error: Array, tolerance: float | None) -> Array:
    if tolerance is None:
        return jnp.ones(error.shape, bool)
    return ~(error <= tolerance)


def _log_steps(problem: _Problem, state: _State, tolerance) -> _State:
    """Iterations in the log domain of the problems that need them."""

    def update(_, potentials):
        f, g, _ = potentials
        new = problem.update_f(g)
        return new, problem.update_g(new), f

    start = state.f, state.g, state.f
    f, g, last = lax.fori_loop(0, state.steps, update, start)
    change = jnp.where(problem.a > 0, (last - f) / problem.scale, 0)
    error = jnp.sum(problem.a * jnp.abs(jnp.expm1(change)), axis=-1)
    chosen = state.anew[..., None]
    return state._replace(
        f=jnp.where(chosen, f, state.f),
        g=jnp.where(chosen, g, state.g),
        active=jnp.where(state.anew, _active(error, tolerance), state.active),
        anew=jnp.zeros_like(state.anew),
    )


def _within(scaling: Array, mass: Array, largest: float) -> tuple[Array, Array]:
    """Whether all scalings of points with mass lie in a range, and their maximum."""
    high = jnp.max(jnp.where(mass > 0, scaling, 0), axis=-1)
    low = jnp.min(jnp.where(mass > 0, scaling, 1), axis=-1)
    return (high <= largest) & (low >= 1 / largest), high


def _legal(problem: _Problem, u: Array, v: Array) -> Array:
    inside_u, high_u = _within(u, problem.a, _LARGEST)
    inside_v, high_v = _within(v, problem.b, _LARGEST)
    # What is lost of the kernel below 1e-38 must not matter after scaling either.
    return inside_u & inside_v & (high_u * high_v <= _LARGEST)


def _scaled(problem: _Problem, state: _State, iterations, tolerance) -> _State:
    """Iterations by scalings of one kernel, as long as it serves; then folds them."""
    a, b = problem.a, problem.b
    # Only pairs of points without mass come near the largest exponent.
    largest = math.log(jnp.finfo(a.dtype).max) - 1
    kernel = jnp.exp(jnp.minimum(problem.exponent(state.f, state.g), largest))

    def product(equation, mass, scaling):
        weights = jnp.where(mass > 0, mass * scaling, 0)
        precision = lax.Precision.HIGHEST
        return jnp.einsum(equation, kernel, weights, precision=precision)

    def iterate(_, scalings):
        u, v, _ = scalings
        new = 1 / product("...ij,...j->...i", b, v)
        return new, 1 / product("...ij,...i->...j", a, new), u

    def block(s: _Scalings) -> _Scalings:
        steps = jnp.minimum(BLOCK, iterations - s.done)
        u, v, last = lax.fori_loop(0, steps, iterate, (s.u, s.v, s.u))
        active = s.active
        if tolerance is not None:
            keep = s.active[..., None]
            u, v = jnp.where(keep, u, s.u), jnp.where(keep, v, s.v)
            safe = jnp.where(a > 0, last / u, 1)
            error = jnp.sum(a * jnp.abs(safe - 1), axis=-1)
            active = s.active & _active(error, tolerance)
        count = s.count + jnp.where(s.active, steps, 0)
        near = _within(u, a, _FOLD)[0] & _within(v, b, _FOLD)[0]
        done = s.done + steps
        return _Scalings(u, v, (s.u, s.v), steps, active, count, done, every(near))

    def useful(s: _Scalings):
        more = s.inside & (s.done < iterations)
        return more if tolerance is None else more & ~every(~s.active)

    one = jnp.ones_like(a), jnp.ones_like(b)
    rest = one, jnp.int32(0), state.active, state.count, state.done, jnp.bool_(True)
    s = lax.while_loop(useful, block, _Scalings(*one, *rest))
    legal = _legal(problem, s.u, s.v)
    # Where they are not, from before the last block, whose scalings were near 1.
    good = legal[..., None]
    u, v = (jnp.where(good, x, y) for x, y in zip((s.u, s.v), s.before))
    log_u = jnp.where(a > 0, jnp.log(jnp.where(a > 0, u, 1)), 0)
    log_v = jnp.where(b > 0, jnp.log(jnp.where(b > 0, v, 1)), 0)
    return _State(
        state.f + problem.scale * log_u,
        state.g + problem.scale * log_v,
        s.active,
        s.count,
        s.done,
        ~legal,
        s.steps,
    )
