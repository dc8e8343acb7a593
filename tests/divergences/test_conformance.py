"""Every f-divergence that `names()` finds, and CONTRIBUTING's, passes this suite."""

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

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
V, ROWS = 6, 500


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


class Found(NamedTuple):
    value: np.ndarray
    dp: np.ndarray
    dq: np.ndarray
    of_gradients: np.ndarray  # value again, as differentiation finds it
    slopes: np.ndarray  # of values, along each row's direction
    bends: tuple[np.ndarray, np.ndarray]  # of both gradients, along it


@jax.jit
def _found(object, p, q, along_p, along_q):
    def total(p, q):
        d = divergence(p, q, object)
        return jnp.sum(d), d

    derived = jax.grad(total, argnums=(0, 1), has_aux=True)
    found, (bends, slopes) = jax.jvp(derived, (p, q), (along_p, along_q))
    (dp, dq), of_gradients = found
    return dp, dq, of_gradients, slopes, bends


def found(object, p, q, along_p=0, along_q=0):
    """Value, gradients and second order of any rows: two programs of each divergence.

    Directions are of each row. Outcomes that lack are impossible.
    """
    (rows, outcomes), dtype = p.shape, p.dtype

    def filled(x, lacking):
        wide = np.full((rows, V), lacking, dtype)
        wide[:, :outcomes] = x
        return np.resize(wide, (ROWS, V))

    p, q = (filled(x, -np.inf) for x in (p, q))
    derived = _found(object, p, q, *(filled(x, 0) for x in (along_p, along_q)))
    got = Found(*jax.tree.map(np.asarray, (divergence(p, q, object), *derived)))
    own = np.s_[..., :rows, :outcomes]
    return Found(
        got.value[:rows],
        got.dp[own],
        got.dq[own],
        got.of_gradients[:rows],
        got.slopes[:rows],
        tuple(x[own] for x in got.bends),
    )


@every
def test_members_are_those_of_the_textbook_generator(case, x64):
    f, kink = case.textbook, case.name == "total_variation"
    side = np.geomspace(1.001, 1e3, 200)
    u = np.concatenate([1 / side, side])
    d = case.object

    @jax.jit
    def found(u):
        slope_at_one = 0.0 if kink else jax.grad(f)(1.0)
        normal = lambda u: f(u) - f(1.0) - slope_at_one * (u - 1)
        slope = jax.grad(normal)
        printed = (jax.vmap(g)(u) for g in (normal, slope, jax.grad(slope)))
        l = jnp.log(u)
        members = d.value(l), d.grad_p(l), d.slope(l), d.grad_q(l), d.curvature(l)
        return *printed, *members, d.dual.value(-l), d.dual.grad_p(-l)

    want, first, second, *members = map(np.asarray, found(u))
    f_u, in_p, slope, in_q, curvature, dual, dual_p = members
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
    p, q = np.float32(logits(0, ROWS, V)), np.float32(logits(1, ROWS, V))
    of = lambda object, p, q: np.asarray(divergence(p, q, object))
    d = of(case.object, p, q)
    top = float(case.object.at_zero + case.object.dual_at_zero)
    assert (d >= 0).all()
    assert (d <= top * (1 + 1e-6)).all()
    assert of(case.object, p, p).max() < 1e-12
    close(of(case.object.dual, q, p), np.float64(d), 2e-5, 1e-7)
    if case.object.dual == case.object:
        close(of(case.object, q, p), np.float64(d), 2e-5, 1e-7)


def against_numpy(case, p, q, found, tolerance):
    d, dp, dq = found
    want_p = references.gradient(lambda x: oracle(case, x, q), p)
    want_q = references.gradient(lambda x: oracle(case, p, x), q)
    close(d, oracle(case, p, q), tolerance)
    close(dp, want_p, tolerance, tolerance * np.abs(want_p).max())
    close(dq, want_q, tolerance, tolerance * np.abs(want_q).max())


@every
def test_float64_value_and_gradients_against_numpy(case, x64):
    p, q = logits(2, 16, V), logits(3, 16, V)
    against_numpy(case, p, q, found(case.object, p, q)[:3], 3e-8)


@pytest.mark.optimized
@every
def test_float32_is_accurate_near_equality_at_any_offset_and_in_gradients(case, x64):
    """As users have it, and with double precision allowed, which is not taken."""
    scales = np.array([4.0, 2.0, 0.5, 0.05, 5e-3, 6e-4])
    offsets = np.array([0.0, 90.0, 1e4])
    width = 32768
    base = logits(4, 1, 1, width, scale=2.0)
    noise = logits(5, 1, 1, width, scale=1.0)
    q = np.float32(base + scales[:, None, None] * noise + offsets[:, None])
    p = np.float32(np.broadcast_to(base, q.shape))
    p, q = p.reshape(-1, width), q.reshape(-1, width)
    few = np.float32(logits(2, 16, V)), np.float32(logits(3, 16, V))
    all_of = [
        np.concatenate(
            [x, np.pad(y, ((0, 0), (0, width - V)), constant_values=-np.inf)]
        )
        for x, y in zip((p, q), few)
    ]

    @jax.jit
    def both(p, q):
        total = lambda p, q: (jnp.sum(d := value(case, p, q)), d)
        gradients, d = jax.grad(total, argnums=(0, 1), has_aux=True)(p, q)
        return d, *gradients

    d, dp, dq = map(np.asarray, both(*all_of))
    assert d.dtype == dp.dtype == dq.dtype == np.float32
    own = np.s_[len(p) :]
    against_numpy(case, *map(np.float64, few), (d[own], dp[own, :V], dq[own, :V]), 2e-5)
    assert not dp[own, V:].any() and not dq[own, V:].any()
    # At an offset of 1e4 float32 logits are multiples of 1e-3: noise enough.
    want, got = oracle(case, p, q), d[: len(p)]
    top = float(case.object.at_zero + case.object.dual_at_zero)
    kept = want <= min(10.0, top)
    assert want.min() < 6e-7 or case.name == "total_variation"
    assert kept.sum() >= 12
    assert (got >= 0).all()
    close(got[kept], want[kept], 1e-5)


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
    got = found(case.object, p, q, 1, 1)
    d = np.float64(got.value)
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

    for array in (got.dp, got.dq, got.slopes, *got.bends):
        assert not np.isnan(array).any()
    np.testing.assert_array_equal(got.of_gradients, got.value)
    for x, gradient in zip((p, q), (got.dp, got.dq)):
        assert (gradient[np.isneginf(x)] == 0).all()
        assert (gradient[np.isinf(d)] == 0).all()


@every
def test_partial_support_gradient_against_numpy(case):
    q = logits(6, 8, V)
    p = logits(7, 8, V)
    p[:, 0], q[:, 1], p[:, 2], q[:, 2] = -np.inf, -np.inf, -np.inf, -np.inf
    if np.isinf(float(case.object.at_zero)):
        p[:, 0] = 0.3
    if np.isinf(float(case.object.dual_at_zero)):
        q[:, 1] = 0.3
    got = found(case.object, np.float32(p), np.float32(q))
    with np.errstate(invalid="ignore"):
        want = (
            references.gradient(lambda x: oracle(case, x, q), p),
            references.gradient(lambda x: oracle(case, p, x), q),
        )
    close(got.value, oracle(case, p, q), 2e-5)
    for a, b, x in zip((got.dp, got.dq), want, (p, q)):
        b = np.where(np.isneginf(x), 0, b)
        close(a, b, 3e-5, 3e-5 * np.abs(b).max())


@jax.jit
def mapped(object, p, q, where):
    """Value and gradient over the devices of a mesh and the rows of each, in q."""

    def of_row(p, q, where):
        return jax.value_and_grad(partial(divergence, p, divergence=object))(
            q, where=where
        )

    return jax.shard_map(
        jax.vmap(of_row),
        mesh=jax.make_mesh((4,), ("data",), axis_types=(jax.sharding.AxisType.Auto,)),
        in_specs=P("data"),
        out_specs=P("data"),
        check_vma=False,
    )(p, q, where)


@every
def test_mask_is_a_subset_and_a_vocabulary_is_padded(case):
    p, q = np.float32(logits(8, 8, V)), np.float32(logits(9, 8, V))
    where = np.ones((8, V), bool)
    where[:, [1, 4]] = False
    keep = np.flatnonzero(where[0])
    where[2] = False
    masked, gradient = map(np.asarray, mapped(case.object, p, q, where))
    want = oracle(case, p[:, keep], q[:, keep])
    close(np.delete(masked, 2), np.delete(want, 2), 2e-5)
    assert masked[2] == 0
    assert (gradient[~where] == 0).all()
    wide = p.copy()
    wide[:, V - 2 :] = -np.inf
    p, q, wide = (np.resize(x, (ROWS, V)) for x in (p, q, wide))
    padded = value(case, p[:, : V - 2], q, pad_vocab=True)
    close(padded, value(case, wide, q), 1e-6)


@every
def test_low_precision_inputs_give_float32(case):
    p, q = (logits(s, 5, V).astype(jnp.bfloat16) for s in (10, 11))

    @jax.jit
    def found(p, q):
        total = lambda q: (jnp.sum(d := value(case, p, q)), d)
        return jax.grad(total, has_aux=True)(q)

    gradient, d = found(p, q)
    assert d.dtype == jnp.float32
    close(d, oracle(case, np.float32(p), np.float32(q)), 2e-5)
    assert gradient.dtype == jnp.bfloat16


@every
def test_transformations_agree(case):
    p, q = np.float32(logits(12, 8, V)), np.float32(logits(13, 8, V))
    v = np.float32(logits(14, 8, V))
    got = found(case.object, p, q, along_q=v)
    with jax.disable_jit():
        close(value(case, p[:1], q[:1]), got.value[:1], 1e-5)
    values, slopes = mapped(case.object, p, q, np.ones(p.shape, bool))
    close(values, got.value, 1e-6)
    close(slopes, got.dq, 1e-5, 1e-6)
    close(got.slopes, np.sum(got.dq * v, -1), 1e-4, 1e-5)


smooth = [case for case in CASES if case.name != "total_variation"]  # it has kinks


@pytest.mark.parametrize("case", smooth, ids=lambda c: c.name)
def test_hessian_is_the_derivative_of_the_gradient(case, x64):
    p, q = logits(15, V), logits(16, V)
    rows = (np.tile(x, (V, 1)) for x in (p, q))
    hessian = found(case.object, *rows, along_q=np.eye(V)).bends[1]
    want = references.hessian(lambda x: oracle(case, p, x), q)
    close(hessian, want, 1e-6, 1e-6 * np.abs(want).max())
    close(hessian, hessian.T, 1e-9, 1e-12)


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
    swept, forward, reverse = jax.jit(
        lambda sweep, x: (jax.vmap(at)(sweep), jax.jacfwd(at)(x), jax.jacrev(at)(x))
    )(sweep, 0.4)
    close(swept[2], np.asarray(once(sweep[2])), 1e-9)
    h = 1e-5
    steps = [
        case.reference(references.softmax(p), references.softmax(q), 0.4 + k * h)
        for k in (-1, 1)
    ]
    close(forward, (steps[1] - steps[0]) / (2 * h), 1e-6, 1e-9)
    close(reverse, (steps[1] - steps[0]) / (2 * h), 1e-6, 1e-9)
