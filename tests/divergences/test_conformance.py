"""Every f-divergence that `names()` finds, and CONTRIBUTING's, passes this suite."""

import dataclasses
from collections.abc import Callable
from functools import partial

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import references
from documents import block, executed
from jax.sharding import PartitionSpec as P

from kljax import divergences as kd
from kljax.divergences import FDivergence, divergence


@dataclasses.dataclass(frozen=True)
class Case:
    name: str
    object: FDivergence
    reference: Callable
    textbook: Callable


FOURTEENTH = Case(
    "fourteenth",
    executed(block("CONTRIBUTING.md", "@generator"), "contributed")[
        "ArithmeticGeometric"
    ](),
    references.arithmetic_geometric,
    lambda u: (1 + u) / 2 * (jnp.log1p(u) - jnp.log(2.0) - jnp.log(u) / 2),
)
CASES = [
    Case(name, kd.get(name), references.VALUES[name], references.TEXTBOOK[name])
    for name in kd.names()
] + [FOURTEENTH]
every = pytest.mark.parametrize("case", CASES, ids=lambda c: c.name)
V = 6


def logits(seed, *shape, scale=1.5):
    rng = np.random.default_rng(seed)
    return rng.normal(size=shape) * scale


def value(case, p, q, **options):
    return divergence(p, q, case.object, **options)


def oracle(case, p, q):
    return case.reference(references.softmax(p), references.softmax(q))


def close(got, want, relative, absolute=0.0):
    np.testing.assert_allclose(
        np.asarray(got, np.float64), want, rtol=relative, atol=absolute
    )


@every
def test_members_are_those_of_the_textbook_generator(case, x64):
    f, kink = case.textbook, case.name == "total_variation"
    side = jnp.geomspace(1.001, 1e3, 200)
    u = jnp.concatenate([1 / side, side])
    slope_at_one = 0.0 if kink else jax.grad(f)(1.0)

    def normal(u):
        return f(u) - f(1.0) - slope_at_one * (u - 1)

    d = case.object

    @jax.jit
    def found(u):
        slope = jax.grad(normal)
        printed = (jax.vmap(g)(u) for g in (normal, slope, jax.grad(slope)))
        l = jnp.log(u)
        members = d.value(l), d.grad_p(l), d.slope(l), d.grad_q(l), d.curvature(l)
        return *printed, *members, d.dual.value(-l), d.dual.grad_p(-l)

    want, first, second, f_u, in_p, slope, in_q, curvature, dual, dual_p = found(u)
    tight = partial(close, relative=1e-10, absolute=1e-12)
    # The printed form itself cancels near 1: there the scale is that of its terms.
    close(f_u, want, 1e-10, 1e-13)
    tight(in_p, first)
    tight(slope, u * first)
    tight(in_q, want - u * first)
    tight(curvature, u**2 * second)
    tight(u * dual, want)
    tight(dual_p, want - u * first)


@every
def test_axioms(case):
    p, q = jnp.float32(logits(0, 500, V)), jnp.float32(logits(1, 500, V))
    d = value(case, p, q)
    top = float(case.object.at_zero + case.object.dual_at_zero)
    assert bool(jnp.all(d >= 0))
    assert bool(jnp.all(d <= top * (1 + 1e-6)))
    assert float(jnp.max(value(case, p, p))) < 1e-12
    close(divergence(q, p, case.object.dual), np.asarray(d, np.float64), 2e-5, 1e-7)
    if case.object.dual == case.object:
        close(value(case, q, p), np.asarray(d, np.float64), 2e-5, 1e-7)


@pytest.mark.optimized
@every
def test_value_and_gradients_against_numpy(case, x64):
    p, q = logits(2, 16, V), logits(3, 16, V)
    want_p = references.gradient(lambda x: oracle(case, x, q), p)
    want_q = references.gradient(lambda x: oracle(case, p, x), q)

    @jax.jit
    def both(p, q):
        total = lambda p, q: jnp.sum(value(case, p, q))
        return value(case, p, q), *jax.grad(total, argnums=(0, 1))(p, q)

    for dtype, tolerance in ((np.float64, 3e-8), (np.float32, 2e-5)):
        d, dp, dq = both(dtype(p), dtype(q))
        close(d, oracle(case, p, q), tolerance)
        close(dp, want_p, tolerance, tolerance * np.abs(want_p).max())
        close(dq, want_q, tolerance, tolerance * np.abs(want_q).max())


@pytest.mark.optimized
@every
def test_float32_is_accurate_near_equality_at_any_offset(case):
    scales = np.array([4.0, 2.0, 0.5, 0.05, 5e-3, 6e-4])
    offsets = np.array([0.0, 90.0, 1e4])
    base = logits(4, 1, 1, 32768, scale=2.0)
    noise = logits(5, 1, 1, 32768, scale=1.0)
    q = np.float32(base + scales[:, None, None] * noise + offsets[:, None])
    p = np.float32(np.broadcast_to(base, q.shape))
    # At an offset of 1e4 float32 logits are multiples of 1e-3: noise enough.
    want = oracle(case, p, q)
    top = float(case.object.at_zero + case.object.dual_at_zero)
    kept = want <= min(10.0, top)
    assert want.min() < 6e-7 or case.name == "total_variation"
    assert kept.sum() >= 12
    got = np.asarray(value(case, p, q))
    assert (got >= 0).all()
    close(got[kept], want[kept], 1e-5)


def hessian_vector(case, p, q, v):
    total = lambda p, q: jnp.sum(value(case, p, q))
    gradient = jax.grad(total, argnums=(0, 1))
    return jax.jvp(gradient, (p, q), (v, v))


@every
def test_extreme_and_impossible_outcomes(case):
    inf, big = -np.inf, 1e4
    rows = [  # p, q
        ([big, 0, -big], [-big, 0, big]),
        ([big, -big, 0], [big, -big, 0]),
        ([big, 0, 1], [0, big, 1]),
        ([0, 1, 2], [0, 60, -60]),
        ([0, 1, inf], [1, 0, inf]),
        ([0, 1, inf], [1, 0, 2]),
        ([0, 1, 2], [1, 0, inf]),
        ([0, inf, 2], [1, 0, inf]),
        ([0, inf, inf], [inf, 0, inf]),
        ([0, inf, inf], [0, inf, inf]),
        ([inf, inf, inf], [inf, inf, inf]),
    ]
    p, q = (np.float32([row[side] for row in rows]) for side in (0, 1))
    d = np.asarray(value(case, p, q), np.float64)
    with np.errstate(over="ignore", invalid="ignore"):
        want = oracle(case, p, q)
    possible = np.isfinite(np.where(np.isneginf(p), np.inf, p)) & np.isfinite(q)
    # A finite logit whose probability underflows is possible still: float64 NumPy
    # sees a 0 there. Rows 0 and 2 are checked against the limits instead.
    sure = np.ones(len(rows), bool)
    sure[[0, 2]] = False
    overflow = want > 3e38
    assert np.isinf(d[sure & overflow]).all()
    close(d[sure & ~overflow], want[sure & ~overflow], 2e-5, 1e-6)
    assert not np.isnan(d).any() and (d >= 0).all()
    limit = float(case.object.at_zero) + float(case.object.dual_at_zero)
    close(d[8], limit, 1e-5)
    assert possible.any()
    if np.isfinite(limit):
        close(d[[0, 2]], limit, 1e-5)

    primal, tangent = jax.jit(partial(hessian_vector, case))(p, q, np.ones_like(p))
    for side in (*primal, *tangent):
        assert not np.isnan(np.asarray(side)).any()
    for x, gradient in zip((p, q), primal):
        assert (np.asarray(gradient)[np.isneginf(x)] == 0).all()
        assert (np.asarray(gradient)[np.isinf(d)] == 0).all()


@every
def test_partial_support_gradient_against_numpy(case):
    q = logits(6, 8, V)
    p = logits(7, 8, V)
    p[:, 0], q[:, 1], p[:, 2], q[:, 2] = -np.inf, -np.inf, -np.inf, -np.inf
    if np.isinf(float(case.object.at_zero)):
        p[:, 0] = 0.3
    if np.isinf(float(case.object.dual_at_zero)):
        q[:, 1] = 0.3
    total = lambda p, q: jnp.sum(value(case, p, q))
    got = jax.grad(total, argnums=(0, 1))(np.float32(p), np.float32(q))
    with np.errstate(invalid="ignore"):
        want = (
            references.gradient(lambda x: oracle(case, x, q), p),
            references.gradient(lambda x: oracle(case, p, x), q),
        )
    close(value(case, np.float32(p), np.float32(q)), oracle(case, p, q), 2e-5)
    for a, b, x in zip(got, want, (p, q)):
        b = np.where(np.isneginf(x), 0, b)
        close(a, b, 3e-5, 3e-5 * np.abs(b).max())


@every
def test_mask_is_a_subset_and_a_vocabulary_is_padded(case):
    p, q = np.float32(logits(8, 5, V)), np.float32(logits(9, 5, V))
    where = np.ones((5, V), bool)
    where[:, [1, 4]] = False
    keep = np.flatnonzero(where[0])
    close(value(case, p, q, where=where), oracle(case, p[:, keep], q[:, keep]), 2e-5)
    where[2] = False
    masked = value(case, p, q, where=where)
    assert float(masked[2]) == 0
    gradient = jax.grad(lambda q: jnp.sum(value(case, p, q, where=where)))(q)
    assert (np.asarray(gradient)[~where] == 0).all()
    wide = np.concatenate([p, np.full((5, 2), -np.inf, np.float32)], -1)
    padded = value(case, p, np.float32(logits(9, 5, V + 2)), pad_vocab=True)
    close(padded, np.asarray(value(case, wide, np.float32(logits(9, 5, V + 2)))), 1e-6)


@every
def test_low_precision_inputs_give_float32(case):
    p, q = (jnp.bfloat16(logits(s, 5, V)) for s in (10, 11))
    d = value(case, p, q)
    assert d.dtype == jnp.float32
    close(d, oracle(case, p.astype(jnp.float32), q.astype(jnp.float32)), 2e-5)
    gradient = jax.grad(lambda q: jnp.sum(value(case, p, q)))(q)
    assert gradient.dtype == jnp.bfloat16


@every
def test_transformations_agree(case):
    p, q = np.float32(logits(12, 4, V)), np.float32(logits(13, 4, V))
    total = lambda q: jnp.sum(value(case, p, q))
    gradient, d = jax.grad(total)(q), value(case, p, q)
    with jax.disable_jit():
        close(value(case, p[:1], q[:1]), np.asarray(d[:1]), 1e-5)
    v = np.float32(logits(14, 4, V))
    mesh = jax.make_mesh((4,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    sharded = jax.shard_map(
        lambda p, q: jax.grad(lambda q: jnp.sum(value(case, p, q)))(q),
        mesh=mesh,
        in_specs=(P("data"), P("data")),
        out_specs=P("data"),
        check_vma=False,
    )
    vmapped, slopes, directional = jax.jit(
        lambda p, q, v: (
            jax.vmap(partial(value, case))(p, q),
            jax.vmap(jax.grad(partial(value, case), 1))(p, q),
            jax.jvp(lambda q: value(case, p, q), (q,), (v,))[1],
        )
    )(p, q, v)
    close(vmapped, np.asarray(d), 1e-6)
    close(slopes, gradient, 1e-4, 1e-6)
    close(directional, np.sum(np.asarray(gradient) * v, -1), 1e-4, 1e-5)
    close(jax.jit(sharded)(p, q), np.asarray(gradient), 1e-5, 1e-6)


smooth = [case for case in CASES if case.name != "total_variation"]  # it has kinks


@pytest.mark.parametrize("case", smooth, ids=lambda c: c.name)
def test_hessian_is_the_derivative_of_the_gradient(case, x64):
    p, q = logits(15, V), logits(16, V)
    hessian = jax.jit(jax.hessian(partial(value, case), argnums=1))(p, q)
    want = references.hessian(lambda x: oracle(case, p, x), q)
    close(hessian, want, 1e-6, 1e-6 * np.abs(want).max())
    close(hessian, np.asarray(hessian).T, 1e-9, 1e-12)


PARAMETRIC = [
    case for case in CASES if jax.tree.leaves(case.object) and case.name != "fourteenth"
]
parametric = pytest.mark.parametrize("case", PARAMETRIC, ids=lambda c: c.name)


@parametric
def test_parameter_sweeps_in_one_trace_and_is_differentiable(case, x64):
    p, q = logits(17, 3, V), logits(18, 3, V)
    (name,) = (f.name for f in dataclasses.fields(case.object))
    sweep = np.linspace(0.1, 0.9, 5)

    def at(x):
        return divergence(p, q, case.name, **{name: x})

    chex.clear_trace_counter()
    once = jax.jit(chex.assert_max_traces(at, 1))
    for x in sweep:
        want = oracle(
            dataclasses.replace(case, reference=partial(case.reference, **{name: x})),
            p,
            q,
        )
        close(once(x), want, 1e-7)
    close(jax.vmap(at)(sweep)[2], np.asarray(at(sweep[2])), 1e-9)
    h = 1e-5
    steps = [
        case.reference(references.softmax(p), references.softmax(q), 0.4 + k * h)
        for k in (-1, 1)
    ]
    close(jax.jacfwd(at)(0.4), (steps[1] - steps[0]) / (2 * h), 1e-6, 1e-9)
    close(jax.jacrev(at)(0.4), (steps[1] - steps[0]) / (2 * h), 1e-6, 1e-9)
