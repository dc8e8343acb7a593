"""The objects themselves: structure, look-up, Choice, textbook forms."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import references

from kljax.divergences import (
    Alpha,
    Choice,
    FDivergence,
    ForwardKL,
    JensenShannon,
    ReverseKL,
    SkewForwardKL,
    divergence,
    from_generator,
    get,
    names,
)
from kljax.generators import accurate

RNG = np.random.default_rng(0)
P, Q = RNG.normal(size=(2, 5, 7))


@pytest.mark.optimized
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_phi_and_psi_against_extended_precision(dtype, x64):
    size = np.geomspace(1e-6, 80, 2000)
    x = np.concatenate([-size, size]).astype(dtype)
    long = x.astype(np.longdouble)
    terms = [np.ones_like(long) / 2]
    for n in range(3, 30):
        terms.append(terms[-1] * long / n)
    series = sum(terms) * long**2
    want = np.where(np.abs(x) < 1, series, np.expm1(long) - long)
    bound = 16 * np.finfo(dtype).eps
    near = np.abs(x) <= accurate.NEAR

    @jax.jit
    def found(x):
        slope = jax.vmap(jax.grad(accurate.phi))(x)
        return accurate.phi(x), accurate.psi_near(x[near]), slope

    got, of_near, slope = map(np.asarray, found(x))
    assert got.dtype == dtype
    np.testing.assert_allclose(got.astype(float), want.astype(float), rtol=bound)
    want = (want / long).astype(float)[near]
    np.testing.assert_allclose(of_near.astype(float), want, rtol=bound)
    np.testing.assert_allclose(slope, np.expm1(x), rtol=bound)


def test_structures_differ_so_that_no_cache_confuses_two_divergences():
    structures = [jax.tree.structure(get(name)) for name in names()]
    pairs = [(a, b) for a in structures for b in structures if a is not b]
    assert pairs and all(a != b for a, b in pairs)
    assert jax.tree.structure(Alpha(0.1)) == jax.tree.structure(Alpha(0.9))
    swapped = jax.tree.map(lambda x: x + 1, Alpha(0.25))
    assert swapped == Alpha(1.25)
    (path, leaf), *rest = jax.tree_util.tree_leaves_with_path(Alpha(0.25))
    assert jax.tree_util.keystr(path) == ".alpha" and leaf == 0.25 and not rest


def test_lookup_names_what_it_knows():
    assert get("alpha", alpha=0.3) == Alpha(0.3)
    assert get(ForwardKL()) == ForwardKL()
    assert all(isinstance(get(name), FDivergence) for name in names())
    for name, canonical in {
        "kl": "forward_kl",
        "js": "jensen_shannon",
        "jsd": "jensen_shannon",
        "tv": "total_variation",
        "chi2": "pearson_chi2",
    }.items():
        assert get(name) == get(canonical) and name not in names()
    assert get("js", beta=0.3) == JensenShannon(0.3)
    with pytest.raises(ValueError, match="'zzz'; known: forward_kl"):
        get("zzz")
    # Of Hellinger's distance there are three scales: no alias picks one silently.
    with pytest.raises(ValueError, match="did you mean 'squared_hellinger'"):
        get("hellinger")
    with pytest.raises(ValueError, match="did you mean 'reverse_kl'"):
        get("reverse-kl")
    with pytest.raises(TypeError, match=r"has no parameter \['beta'\]"):
        get("alpha", beta=0.1)
    with pytest.raises(TypeError, match="got int"):
        get(3)
    with pytest.raises(TypeError, match="complete"):
        get(Alpha(0.1), alpha=0.2)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: JensenShannon(0.0), "forward_kl at 0"),
        (lambda: JensenShannon(1.5), r"beta must lie in \(0, 1\), got 1.5"),
        (lambda: SkewForwardKL(1.0), r"beta must lie in \[0, 1\), got 1.0"),
        (lambda: Alpha(float("nan")), "alpha must lie in"),
    ],
)
def test_parameters_out_of_range_raise(make, message):
    with pytest.raises(ValueError, match=message):
        make()
    assert JensenShannon(None).beta is None  # structure without a value is legal
    assert SkewForwardKL(0).at_zero == 1


def test_choice_is_one_trace_for_a_mixed_family(x64):
    options = (ForwardKL(), JensenShannon(0.3), Alpha(0.3))

    def of(object):
        def total(q):
            d = divergence(P, q, object)
            return jnp.sum(d), d

        gradient, d = jax.grad(total, has_aux=True)(Q)
        return d, gradient, object.curvature(P), object.at_zero

    chex.clear_trace_counter()
    once = jax.jit(chex.assert_max_traces(lambda i: of(Choice(i, options)), 1))
    own = jax.jit(lambda: [of(option) for option in options])()
    for i, (want, want_gradient, want_curvature, want_at_zero) in enumerate(own):
        d, gradient, curvature, at_zero = once(i)
        np.testing.assert_allclose(d, want, rtol=1e-12)
        np.testing.assert_allclose(gradient, want_gradient, rtol=1e-9, atol=1e-12)
        np.testing.assert_allclose(curvature, want_curvature, rtol=1e-9)
        assert at_zero == pytest.approx(float(want_at_zero))
    value = lambda i: divergence(P, Q, Choice(i, options))
    swept = jax.jit(jax.vmap(value))(np.arange(len(options)))
    np.testing.assert_allclose(swept[-1], own[-1][0], rtol=1e-12)


def test_textbook_generator_is_as_good_as_a_written_one(x64):
    cases = {
        "jensen_shannon": lambda u: (
            0.5 * u * jnp.log(2 * u / (1 + u)) + 0.5 * jnp.log(2 / (1 + u))
        ),
        "forward_kl": lambda u: u * jnp.log(u) + 3 * (u - 1),
    }
    l = np.concatenate([-np.geomspace(1e-5, 12, 200), np.geomspace(1e-5, 12, 200)])
    for name, f in cases.items():
        made, known = from_generator(f), get(name)

        @jax.jit
        def found(l, made=made, known=known):
            members = [(d.value(l), d.grad_q(l), d.curvature(l)) for d in (made, known)]
            return *zip(*members), divergence(P, Q, made)

        values, slopes, curvatures, of_rows = found(l)
        np.testing.assert_allclose(*values, rtol=1e-9)
        np.testing.assert_allclose(*slopes, rtol=1e-6)
        np.testing.assert_allclose(*curvatures, rtol=1e-6)
        assert float(made.at_zero) == pytest.approx(known.at_zero, rel=1e-6)
        assert float(made.dual_at_zero) == pytest.approx(known.dual_at_zero, rel=1e-6)
        want = references.VALUES[name](references.softmax(P), references.softmax(Q))
        np.testing.assert_allclose(of_rows, want, rtol=1e-9)
    stated = from_generator(
        lambda u: -jnp.log(u), lambda v: v * jnp.log(v), at_zero=np.inf, dual_at_zero=0
    )
    assert stated.at_zero == np.inf and stated.dual_at_zero == pytest.approx(1)
    far = np.array([-60.0, 60.0])  # beyond 15 only because the dual was given
    terms = jax.jit(lambda l: [d.term(l, 0 * l) for d in (stated, ReverseKL())])(far)
    np.testing.assert_allclose(*terms, rtol=1e-9)
    with pytest.raises(ValueError, match="each element of u"):
        from_generator(lambda u: jnp.sort(u[None])[0] * jnp.log(u))


def test_one_form_is_the_least_an_author_writes():
    with pytest.raises(TypeError, match="must define mass_term"):
        FDivergence().value(0.0)


def test_the_slope_of_hellinger_where_q_has_hardly_any_mass():
    """−½(√u − 1); from masses in float32 it was 3 % off at u = e³⁰, and 0 at e³⁴."""
    l = np.float32([-30, -1e-3, 0, 1e-3, 20, 30, 60, 80])
    found = get("squared_hellinger").grad_q(l)
    np.testing.assert_allclose(found, -0.5 * np.expm1(np.float64(l) / 2), rtol=2e-6)
