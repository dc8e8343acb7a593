"""Contraction of noisy layers against enumerated channels and quadrature."""

import itertools

import jax
import numpy as np
import pytest
from scipy import integrate, special, stats

from kljax.theory import sdpi

RATIOS = np.array([0.05, 0.5, 1.0, 1.9, 2.1, 4.0, 8.0])
# To four digits: D/eps, exact, Dobrushin's.
KNOWN = [(0.5, 0.0589, 0.1974), (1.0, 0.2041, 0.3829), (2.0, 0.5504, 0.6827)]
KNOWN += [(4.0, 0.9314, 0.9545)]
gaussian, exact = map(jax.jit, (sdpi.log_eta_gaussian, sdpi.log_eta_channel))


def kl(p, q):
    return special.rel_entr(p, q).sum(axis=-1)


def largest_ratio(channel, trials=20_000):
    """Of random pairs of laws at the input, many of them close to each other."""
    rng = np.random.default_rng(0)
    p, other = (rng.dirichlet(np.full(len(channel), 0.3), trials) for _ in range(2))
    q = p + rng.uniform(0.01, 1, (trials, 1)) * (other - p)
    below = kl(p, q) > 1e-9
    return (kl(p @ channel, q @ channel)[below] / kl(p, q)[below]).max()


def channel_of(inputs, outputs):
    """`[inputs, values]` from (probability, output of each input) pairs."""
    values = sorted({out for _, every in outputs for out in every})
    table = np.zeros((len(inputs), len(values)))
    for chance, every in outputs:
        for i, out in enumerate(every):
            table[i, values.index(out)] += chance
    return table


def dropout(inputs, delta):
    masks = [*itertools.product((0, 1), repeat=len(inputs[0]))]
    chance = [np.prod([(delta, 1 - delta)[bit] for bit in mask]) for mask in masks]
    return channel_of(
        inputs,
        [
            (c, [tuple(x * bit for x, bit in zip(one, mask)) for one in inputs])
            for c, mask in zip(chance, masks)
        ],
    )


def test_dropout_contracts_as_the_worst_pair_does(x64):
    eta = float(np.exp(sdpi.log_eta_dropout(0.3, 3)))
    assert eta == pytest.approx(0.973, abs=1e-12)
    signs = [*itertools.product((-1, 1), repeat=3)]
    channel = dropout(signs, 0.3)
    found = largest_ratio(channel)
    assert 0.9 < found <= eta + 1e-9
    # Two inputs that differ in every coordinate reach it, at any weights.
    ends = channel[[0, -1]]
    for a, b in ((0.5, 0.1), (0.99, 0.2)):
        pair = [np.array([x, 1 - x]) for x in (a, b)]
        ratio = kl(pair[0] @ ends, pair[1] @ ends) / kl(*pair)
        assert ratio == pytest.approx(eta, abs=1e-6)
    # Two that share a coordinate do not.
    near = channel[[0, 1]]
    assert kl(np.array([0.5, 0.5]) @ near, np.array([0.1, 0.9]) @ near) < 0.72 * kl(
        np.array([0.5, 0.5]), np.array([0.1, 0.9])
    )
    # Nor do random laws where zeros occur, whose erasure is not seen: 0 itself does,
    # where it is nearly sure.
    rectified = dropout([*itertools.product((0, 1), repeat=3)], 0.3)
    assert largest_ratio(rectified) < eta - 0.05
    for table in (channel, rectified):
        with np.errstate(divide="ignore"):
            assert float(np.exp(exact(np.log(table)))) == pytest.approx(eta, abs=1e-9)
    pair = [np.array([1 - x, x]) for x in (1e-4, 1e-7)]
    ratio = kl(*(p @ rectified[[0, -1]] for p in pair)) / kl(*pair)
    assert ratio == pytest.approx(eta, abs=1e-3)


def test_dropconnect_forgets_when_every_weight_is_gone(x64):
    """Two inputs, one unit with weights 1 and 1.7: four sets of weights."""
    inputs, delta = [*itertools.product((-1, 1), repeat=2)], 0.5
    outputs = [
        (
            np.prod([(delta, 1 - delta)[bit] for bit in mask]),
            [np.tanh(mask[0] * x + 1.7 * mask[1] * y) for x, y in inputs],
        )
        for mask in itertools.product((0, 1), repeat=2)
    ]
    found = largest_ratio(channel_of(inputs, outputs))
    eta = float(np.exp(sdpi.log_eta_dropconnect(delta, 2, 1)))
    assert eta == pytest.approx(1 - delta**2)
    assert 0.7 < found <= eta + 1e-9


def test_channels_of_two_inputs(x64):
    """A flipped bit has (1 − 2 delta)², an erased one 1 − delta; any one by search."""
    rng = np.random.default_rng(0)
    odd = np.array([[0.5, 0.5, 0.0], [0.1, 0.2, 0.7]])
    for channel, eta in (
        ([[0.9, 0.1, 0], [0.1, 0.9, 0]], 0.64),
        ([[0.7, 0, 0.3], [0, 0.7, 0.3]], 0.7),
        (odd, None),
    ):
        with np.errstate(divide="ignore"):
            found = float(np.exp(exact(np.log(channel))))
        a = rng.uniform(0.001, 0.999, 20_000)
        p = np.stack([a, 1 - a], axis=1)
        q = p + 1e-3 * (np.array([0.5, 0.5]) - p)
        ratio = kl(p @ np.array(channel), q @ np.array(channel)) / kl(p, q)
        assert found == pytest.approx(eta or ratio[kl(p, q) > 1e-9].max(), abs=2e-3)
    assert float(exact(np.log([[0.2, 0.3, 0.5]] * 2))) == -np.inf


def test_gaussian_noise_against_quadrature(x64):
    def lost(r):
        p = lambda y: np.exp(stats.norm.logpdf(y))
        of = lambda y: 2 * p(y) * p(y - r) / (p(y) + p(y - r))
        return integrate.quad(of, -12, 12 + r, epsabs=1e-14, limit=200, points=[r / 2])

    found = np.exp(gaussian(RATIOS))
    expected = [1 - lost(r)[0] for r in RATIOS]
    np.testing.assert_allclose(found, expected, rtol=1e-9)
    np.testing.assert_allclose(-np.expm1(gaussian(RATIOS)), 1 - found, rtol=1e-7)
    dobrushin = np.exp(sdpi.log_eta_dobrushin(RATIOS))
    np.testing.assert_allclose(dobrushin, 2 * stats.norm.cdf(RATIOS / 2) - 1)
    for r, exact, coarse in KNOWN:
        assert float(np.exp(gaussian(r))) == pytest.approx(exact, abs=5e-5)
        assert float(np.exp(sdpi.log_eta_dobrushin(r))) == pytest.approx(
            coarse, abs=5e-5
        )
    assert (found < -np.expm1(-(RATIOS**2) / 4)).all() and (found < dobrushin).all()


def test_two_points_are_the_worst_of_gaussian_noise(x64):
    y = np.linspace(-14, 18, 6001)
    chance = np.random.default_rng(0).uniform(0.01, 0.99, (400, 2))
    chance = np.concatenate([chance, 0.5 + np.array([[0, 1e-3]])])
    weights = np.stack([chance, 1 - chance], axis=-1)  # [pairs, side, point]
    for r, *_ in KNOWN:
        density = np.stack([stats.norm.pdf(y), stats.norm.pdf(y, r)])
        p, q = (weights[:, side] @ density for side in (0, 1))
        behind = integrate.trapezoid(special.rel_entr(p, q), y, axis=-1)
        ratio = behind / kl(weights[:, 0], weights[:, 1])
        eta = float(np.exp(gaussian(r)))
        assert ratio.max() <= eta + 1e-6 and ratio.max() > eta - 1e-3, r


def test_logarithms_keep_what_is_left():
    assert float(sdpi.log_eta_dropout(0.3, 40)) == pytest.approx(-(0.3**40), rel=1e-4)
    assert float(gaussian(20.0)) == pytest.approx(-2.4e-23, rel=0.02)
    assert float(gaussian(1e-3)) == pytest.approx(np.log(1e-6 / 4), rel=1e-5)
    ends = [sdpi.log_eta_dropout(1.0, 2), gaussian(0.0), sdpi.log_eta_dobrushin(0.0)]
    assert ends == [-np.inf] * 3
    assert [sdpi.log_eta_dropout(0.0, 2), gaussian(np.inf)] == [0, 0]
    assert np.isnan([sdpi.log_eta_dropout(np.nan, 2), gaussian(np.nan)]).all()


def test_slopes_are_those_of_differences(x64):
    names = sdpi.log_eta_gaussian, sdpi.log_eta_dobrushin

    @jax.jit
    @jax.vmap
    def every(x):
        return [(jax.grad(of)(x), of(x + 1e-5) - of(x - 1e-5)) for of in names]

    for slope, step in every(np.array([0.3, 1.99, 2.01, 6.0, 30.0, 900.0])):
        np.testing.assert_allclose(slope[:4], step[:4] / 2e-5, rtol=1e-5)
        assert np.isfinite(slope).all()


def test_what_is_out_of_range_is_named():
    with pytest.raises(ValueError, match=r"delta must be in \[0, 1\], got 1.5"):
        sdpi.log_eta_dropout(1.5, 2)
    with pytest.raises(ValueError, match="width must be positive, got 0"):
        sdpi.log_eta_dropout(0.5, 0)
    with pytest.raises(ValueError, match="outputs must be positive, got -1"):
        sdpi.log_eta_dropconnect(0.5, 2, -1)
    with pytest.raises(ValueError, match=r"log_channel must be \[k, z\]"):
        sdpi.log_eta_channel([0.0])
    with pytest.raises(ValueError, match="distance must be at least 0, got -1"):
        sdpi.log_eta_gaussian(-1.0)
