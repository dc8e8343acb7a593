"""Weights from logits: the h table, the ratio's identities, bins, controller."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from references import TEXTBOOK

from kljax import generators
from kljax.objectives.ratio import (
    AlphaController,
    RatioBins,
    adapt_alpha,
    constant_weight,
    effective_fraction,
    ratio_weights,
)
from kljax.theory.mixtures import GaussianMixture

TABLE = {  # h(l) of the paper's Table 1 and its extensions, up to the scale of f
    "reverse_kl": lambda l: np.ones_like(l),
    "softened_reverse_kl": lambda l: 1 / (1 + np.exp(l)),
    "jensen_shannon": lambda l: 0.5 / (1 + np.exp(-l)),
    "squared_hellinger": lambda l: np.exp(l / 2) / 4,
    "forward_kl": lambda l: np.exp(l),
    "jeffreys": lambda l: 1 + np.exp(l),
    "neyman_chi2": lambda l: 2 * np.exp(-l),
    "pearson_chi2": lambda l: 2 * np.exp(2 * l),
}


def test_h_table(x64):
    """T0: r^2 f'' by automatic differentiation of the textbook f, rel <= 1e-10."""
    assert set(TEXTBOOK) == set(generators.names())
    l = jnp.linspace(np.log(1e-4), np.log(1e4), 2000)  # 1 itself is a kink of TV

    @jax.jit
    def errors(l):
        r = jnp.exp(l)
        out = {}
        for name, f in TEXTBOOK.items():
            second = jax.vmap(jax.grad(jax.grad(f)))(r) * r**2
            gap = jnp.abs(generators.get(name).curvature(l) - second)
            out[name] = jnp.max(gap / jnp.maximum(jnp.abs(second), 1e-300))
        return out

    worst = {name: float(error) for name, error in errors(l).items()}
    assert max(worst.values()) <= 1e-10, worst
    table = jax.jit(lambda l: {n: generators.get(n).curvature(l) for n in TABLE})(l)
    for name, h in TABLE.items():
        np.testing.assert_allclose(table[name], h(np.asarray(l)), rtol=1e-12)


def test_float32_weights_stay_finite_and_monotone():
    """T0: log-domain forms over |l| <= 80 (40 where h is a square)."""
    reach = {name: 40.0 if name == "pearson_chi2" else 80.0 for name in TABLE}
    l = {name: np.linspace(-x, x, 4001, dtype=np.float32) for name, x in reach.items()}
    every = jax.jit(lambda l: {n: generators.get(n).curvature(l[n]) for n in TABLE})(l)
    for name, h in every.items():
        h = np.asarray(h)
        assert h.dtype == np.float32 and np.isfinite(h).all() and (h >= 0).all(), name
        step = np.diff(h)
        assert (step >= 0).all() or (step <= 0).all(), name


def test_h_identities():
    """T0b in float32: duals, sums, the alpha family's named members."""
    l = jnp.linspace(-5.0, 5.0, 501)

    @jax.jit
    def every(l):
        objects = {n: generators.get(n) for n in generators.names()}
        alphas = jnp.array([0.0, 0.5, 1.0, 2.0, -1.0])
        return (
            {n: d.curvature(l) for n, d in objects.items()},
            {n: d.dual.curvature(l) for n, d in objects.items()},
            {n: jnp.exp(l) * d.curvature(-l) for n, d in objects.items()},
            jax.vmap(lambda a: generators.Alpha(a).curvature(l))(alphas),
        )

    h, dual, flipped, alpha = every(l)

    def close(a, b, rtol=1e-6, **more):
        np.testing.assert_allclose(a, b, rtol=rtol, **more)

    for name in generators.names():
        close(dual[name], flipped[name], rtol=5e-6, atol=1e-6, err_msg=name)
    for name in ("jensen_shannon", "squared_hellinger", "jeffreys", "le_cam"):
        close(h[name], flipped[name], rtol=5e-6, err_msg=name)
    close(2 * h["jensen_shannon"] + h["softened_reverse_kl"], jnp.ones_like(l))
    close(h["jeffreys"], h["forward_kl"] + h["reverse_kl"])
    close(alpha[0], h["reverse_kl"])
    close(alpha[1], 4 * h["squared_hellinger"])
    close(alpha[2], h["forward_kl"])
    close(alpha[3], h["pearson_chi2"] / 2)
    close(alpha[4], h["neyman_chi2"] / 2)


def test_h_forgets_the_linear_part_and_scales(x64):
    """T0b: c (r - 1) added to f changes nothing, s f has s h; over random c, s, a."""
    l = np.linspace(-5.0, 5.0, 41)
    random = np.random.default_rng(0)
    c, s, a = *random.uniform(0.1, 3, 2), random.uniform(-1, 2, 50)
    f = TEXTBOOK["jensen_shannon"]
    shifted = generators.from_generator(lambda r: s * f(r) + c * (r - 1))
    own = generators.JensenShannon()
    alpha = jax.vmap(lambda a, l: generators.Alpha(a).curvature(l), (0, None))
    got, want, family = jax.jit(
        lambda l, a: (shifted.curvature(l), s * own.curvature(l), alpha(a, l))
    )(l, a)
    np.testing.assert_allclose(got, want, rtol=1e-6)
    np.testing.assert_allclose(family, np.exp(np.outer(a, l)), rtol=1e-12)


def test_batch_normalization_removes_the_scale():
    """Eq. 10: sqrt(r) and sqrt(r)/4 give the same weights."""
    l, sigma = np.linspace(-2.0, 2.5, 32, dtype=np.float32), np.ones(32, np.float32)
    a, b, raw = jax.jit(
        lambda l: (
            ratio_weights(l, sigma, generators.Alpha(0.5)).weight,
            ratio_weights(l, sigma, "squared_hellinger").weight,
            ratio_weights(l, sigma, "squared_hellinger", normalize=False).weight,
        )
    )(l)
    np.testing.assert_allclose(a, b, rtol=2e-5)
    np.testing.assert_allclose(np.mean(a), 1, rtol=1e-5)
    np.testing.assert_allclose(raw, np.exp(np.asarray(l) / 2) / 4, rtol=1e-5)


def test_direction_and_clip_of_the_ratio():
    """Pitfalls 1, 2 and 6: large logit = target, clip after the exponential."""
    l = jnp.array([[-30.0], [-1.0], [0.0], [1.0], [30.0]])
    out = ratio_weights(l, jnp.ones(5), "forward_kl", normalize=False)
    np.testing.assert_allclose(
        out.weight, [0.1, np.exp(-1), 1, np.exp(1), 20], rtol=1e-5
    )
    assert out.metrics["ratio/clipped"] == pytest.approx(0.4)
    wide = ratio_weights(
        l, jnp.ones(5), "forward_kl", normalize=False, clip=(1e-20, 1e20)
    )
    np.testing.assert_allclose(wide.weight[-1], np.exp(10), rtol=1e-5)


@pytest.fixture(scope="module")
def exact_ratios():
    """Samples of q_t with log p_t - log q_t, both mixtures on the plane known."""
    p = GaussianMixture.ring(3, radius=1.0, std=0.5)
    q = GaussianMixture(
        jnp.array([0.0, 0.5]), jnp.array([[0.4, 0.2], [-0.7, 0.0]]), jnp.full(2, 0.8)
    )

    @jax.jit
    def draw(key):
        a, b, c = jax.random.split(key, 3)
        n = 100_000
        sigma = jnp.exp(jax.random.uniform(a, (n,), minval=-3.0, maxval=1.5))
        x = q.sample(b, n) + sigma[:, None] * jax.random.normal(c, (n, 2))
        return sigma, p.log_density(x, sigma) - q.log_density(x, sigma)

    return draw(jax.random.key(1))


def test_ratio_identity_by_noise_level(exact_ratios):
    """T4: E_q[p_t/q_t] = 1 in every bin, and exactly so after normalization."""
    sigma, l = exact_ratios
    bins = RatioBins.init(10, sigma_min=float(np.exp(-3)), sigma_max=float(np.exp(1.5)))
    index, r = np.asarray(bins.index(sigma)), np.exp(np.asarray(l, np.float64))
    for k in range(10):
        inside = r[index == k]
        error = inside.std() / np.sqrt(inside.size)
        assert abs(inside.mean() - 1) <= 4 * error, (k, inside.mean(), error)
    wide = {"decay": 0.0, "clip": (1e-30, 1e30), "logit_clip": 60.0}
    out = jax.jit(lambda l: ratio_weights(l, sigma, "forward_kl", bins, **wide))(l)
    after = np.exp(np.asarray(out.log_ratio, np.float64))
    for k in range(10):
        assert abs(after[index == k].mean() - 1) <= 1e-5
    assert (out.bins.hits == 1).all()


def test_weight_variances():
    """T5: Var h / (E h)^2 = 1/ess - 1 for N(1, 1) against N(0, 1), 1e6 samples."""
    x = np.float32(np.random.default_rng(0).normal(size=1_000_000))
    closed = {
        "reverse_kl": 0.0,
        "softened_reverse_kl": 0.112,
        "jensen_shannon": 0.256,
        "squared_hellinger": np.exp(0.25) - 1,
        "jeffreys": (np.e - 1) / 4,
        "forward_kl": np.e - 1,
    }

    @jax.jit
    def variance(l):
        log_h = {n: jnp.log(generators.get(n).curvature(l)) for n in closed}
        return {n: 1 / effective_fraction(h) - 1 for n, h in log_h.items()}

    found = variance(x - np.float32(0.5))
    measured = {name: float(found[name]) for name in closed}
    for name, expected in closed.items():
        assert measured[name] == pytest.approx(expected, rel=0.03, abs=1e-6), name
    order = list(measured.values())
    assert order == sorted(order)


def test_weight_variances_by_quadrature(x64):
    """T5 for d = 1, 2, 3, where samples fail: the table's numbers, no noise."""
    x = np.linspace(-40.0, 40.0, 16_001)
    mass = np.exp(-0.5 * x**2)

    @jax.jit
    def variances(l):
        log_h = {n: jnp.log(generators.get(n).curvature(l)) for n in TABLE}
        return {
            n: 1 / effective_fraction(h, example_weights=mass) - 1
            for n, h in log_h.items()
        }

    for d, js, soft in ((1, 0.256, 0.112), (2, 1.23, 0.103), (3, 4.08, 0.049)):
        found = {n: float(v) for n, v in variances(d * x - d**2 / 2).items()}
        assert found["jensen_shannon"] == pytest.approx(js, rel=5e-3)
        assert found["softened_reverse_kl"] == pytest.approx(soft, rel=1e-2)
        assert found["squared_hellinger"] == pytest.approx(np.expm1(d**2 / 4))
        assert found["jeffreys"] == pytest.approx(np.expm1(d**2) / 4)
        assert found["forward_kl"] == pytest.approx(np.expm1(d**2))


def test_bins_against_a_plain_loop():
    """Eq. 9 over five batches: only bins that were hit move; the ends catch all."""
    random = np.random.default_rng(2)
    state = RatioBins.init(4, sigma_min=0.1, sigma_max=10.0)
    mean, hits = np.ones(4), np.zeros(4)
    step = jax.jit(lambda s, r, t, w: s.update(r, t, decay=0.8, example_weights=w))
    for _ in range(5):
        sigma = np.exp(random.normal(1.0, 1.5, 8))
        ratio = np.exp(random.normal(size=8))
        kept = random.integers(0, 2, 8).astype(float)
        index = np.clip(np.floor((np.log10(sigma) + 1) * 2), 0, 3)
        for k in range(4):
            chosen = (index == k) & (kept > 0)
            if chosen.any():
                mean[k] = 0.8 * mean[k] + 0.2 * ratio[chosen].mean()
                hits[k] += 1
        state = step(
            state, *(jnp.asarray(v, jnp.float32) for v in (ratio, sigma, kept))
        )
    np.testing.assert_allclose(state.mean, mean, rtol=1e-5)
    np.testing.assert_array_equal(state.hits, hits)


def test_means_under_vmap_and_across_devices(exact_ratios):
    """A vmapped sweep equals a loop; a mapped batch axis equals the whole batch."""
    sigma, l = (v[:64] for v in exact_ratios)
    bins = RatioBins.init(3, sigma_min=0.05, sigma_max=4.5)
    run = jax.jit(lambda l, bins: ratio_weights(l, sigma, "jeffreys", bins))
    stacked = jax.tree.map(lambda v: jnp.stack([v, 2 * v]), bins)
    swept = jax.vmap(run)(jnp.stack([l, -l]), stacked)
    for i, logits in enumerate((l, -l)):
        alone = run(logits, jax.tree.map(lambda v, i=i: v[i], stacked))
        for got, want in zip(jax.tree.leaves(swept), jax.tree.leaves(alone)):
            np.testing.assert_allclose(got[i], want, rtol=1e-5, atol=1e-7)
    # A mask with unequal counts per shard: a mean of means would be wrong.
    mask = (jnp.arange(64) < 41).astype(jnp.float32)
    shard = lambda v: v.reshape(4, 16)

    @jax.jit
    def three():
        mapped = jax.vmap(
            lambda l, s, m: ratio_weights(
                l, s, "jeffreys", bins, example_weights=m, axis_name="data"
            ),
            axis_name="data",
        )(shard(l), shard(sigma), shard(mask))
        whole = ratio_weights(l, sigma, "jeffreys", bins, example_weights=mask)
        return mapped, whole, ratio_weights(l[:41], sigma[:41], "jeffreys", bins)

    mapped, whole, cut = three()
    np.testing.assert_allclose(mapped.weight.reshape(64), whole.weight, rtol=1e-5)
    np.testing.assert_allclose(whole.weight[:41], cut.weight, rtol=1e-5)
    np.testing.assert_allclose(mapped.bins.mean[0], whole.bins.mean, rtol=1e-5)
    for name in ("ratio/ess", "weight/ess", "ratio/mean"):
        np.testing.assert_allclose(
            mapped.metrics[name][2], cut.metrics[name], rtol=1e-5
        )


def test_effective_fraction_has_no_overflow():
    w = np.array([1.0, 2.0, 5.0])
    expected = w.sum() ** 2 / (3 * (w**2).sum())
    for shift in (-200.0, 0.0, 200.0):
        got = jax.jit(effective_fraction)(np.float32(np.log(w) + shift))
        np.testing.assert_allclose(got, expected, rtol=2e-5)


def test_controller_settles_where_the_fraction_is_the_target():
    """With N(1, 1) against N(0, 1) the fraction of r^a is exp(-a^2)."""
    controller = AlphaController.init(0.0)
    step = jax.jit(
        lambda s: adapt_alpha(s, jnp.exp(-(s.alpha**2)), target=0.5, gain=0.1)
    )
    for _ in range(300):
        controller = step(controller)
    assert controller.alpha == pytest.approx(np.sqrt(np.log(2)), abs=1e-3)
    assert controller.ess == pytest.approx(0.5, abs=1e-3)
    ends = [
        adapt_alpha(AlphaController.init(a), jnp.asarray(e), gain=10.0).alpha
        for a, e in itertools.product((0.0, 1.0), (0.0,))
    ]
    assert all(0 <= a <= 1 for a in ends)


def test_what_needs_no_critic():
    assert constant_weight(generators.ReverseKL())
    assert constant_weight(generators.Alpha(0.0))
    assert not constant_weight(generators.Alpha(0.1))
    assert not constant_weight(generators.TotalVariation())
    assert not jax.jit(lambda a: jnp.asarray(constant_weight(generators.Alpha(a))))(0.0)


def test_bad_input_names_the_argument():
    l = jnp.zeros(3)
    with pytest.raises(ValueError, match=r"sigma: expected shape \(3,\)"):
        ratio_weights(l, jnp.ones(2), "forward_kl")
    with pytest.raises(ValueError, match=r"clip: .*\(20.0, 0.1\)"):
        ratio_weights(l, jnp.ones(3), "forward_kl", clip=(20.0, 0.1))
    with pytest.raises(ValueError, match="logits: expected"):
        ratio_weights(jnp.zeros((1, 1, 1)), jnp.ones(1), "forward_kl")
    with pytest.raises(ValueError, match="example_weights: expected"):
        ratio_weights(l, jnp.ones(3), "forward_kl", example_weights=jnp.ones(2))
    with pytest.raises(ValueError, match="unknown divergence 'kll'"):
        ratio_weights(l, jnp.ones(3), "kll")
    with pytest.raises(ValueError, match="sigma_min"):
        RatioBins.init(3, sigma_min=2.0, sigma_max=1.0)
    with pytest.raises(ValueError, match="bins must be at least 1, got 0"):
        RatioBins.init(0, sigma_min=1.0, sigma_max=2.0)
