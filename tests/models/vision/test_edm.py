"""EDM's formulas against NumPy and closed-form Gaussians."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kljax.models.vision import edm

SIGMAS = np.exp(np.linspace(np.log(0.002), np.log(80.0), 25))


def test_scalings_give_unit_variance(x64):
    """Network input and target have variance 1 when the data have variance d^2."""
    for data in (0.5, 0.752):
        c = edm.coefficients(SIGMAS, data)
        skip, out, scale_in = (np.asarray(v) for v in c[:3])
        noisy_variance = data**2 + SIGMAS**2
        target_variance = ((1 - skip) * data) ** 2 + (skip * SIGMAS) ** 2
        np.testing.assert_allclose(scale_in**2 * noisy_variance, 1.0, rtol=1e-12)
        np.testing.assert_allclose(target_variance / out**2, 1.0, rtol=1e-9)
        np.testing.assert_allclose(c.noise_label, np.log(SIGMAS) / 4, rtol=1e-12)
        weight = np.asarray(edm.edm_loss_weight(SIGMAS, data))
        np.testing.assert_allclose(weight * out**2, 1.0, rtol=1e-12)
        reference = (SIGMAS**2 + data**2) / (SIGMAS * data) ** 2
        np.testing.assert_allclose(weight, reference, rtol=1e-12)


def test_skip_minimizes_the_target(x64):
    """c_skip is the coefficient that amplifies the network's error least."""
    data, step = 0.6, 1e-3
    c = edm.coefficients(SIGMAS, data)

    def amplification(skip):
        return ((1 - skip) * data) ** 2 + (skip * SIGMAS) ** 2

    best = amplification(np.asarray(c.skip))
    assert (amplification(np.asarray(c.skip) + step) > best).all()
    assert (amplification(np.asarray(c.skip) - step) > best).all()


def test_preconditioned_denoiser():
    """D = x without noise; elsewhere the NumPy formula; features pass through."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(4, 3, 3, 2)).astype(np.float32)
    sigma = np.array([1e-6, 0.1, 1.0, 30.0], np.float32)

    def network(inputs, label):
        return jnp.sin(3 * inputs) + label[:, None, None, None], "features"

    out, features = edm.precondition(network, x, sigma, sigma_data=0.5)
    assert features == "features"
    s = sigma.astype(np.float64)[:, None, None, None]
    total = s**2 + 0.25
    raw = np.sin(3 * x / np.sqrt(total)) + np.log(s) / 4
    reference = 0.25 / total * x + s * 0.5 / np.sqrt(total) * raw
    np.testing.assert_allclose(out, reference, atol=2e-5)
    np.testing.assert_allclose(out[0], x[0], atol=1e-5)
    scalar = edm.precondition(network, x, 0.1, sigma_data=0.5)[0]
    np.testing.assert_allclose(scalar[1], out[1], atol=1e-6)


def test_karras_sigmas():
    """The levels of the paper's table, and their order."""
    i = np.arange(18)
    ends = 80.0 ** (1 / 7), 0.002 ** (1 / 7)
    reference = (ends[0] + i / 17 * (ends[1] - ends[0])) ** 7
    sigmas = np.asarray(edm.karras_sigmas(18))
    np.testing.assert_allclose(sigmas, reference, rtol=3e-5)
    assert (np.diff(sigmas) < 0).all()


def test_heun_solves_the_flow_of_a_gaussian(x64):
    """x(0) = m + (x(T) - m) sqrt(v / (v + T^2)); the error falls as 1 / steps^2."""
    mean = np.array([1.0, -2.0, 0.5])
    variance = np.array([0.04, 1.0, 0.3])
    high = 10.0
    z = np.random.default_rng(1).normal(size=(500, 3))
    exact = mean + (high * z - mean) * np.sqrt(variance / (variance + high**2))

    def denoise(x, sigma):
        return mean + variance / (variance + sigma**2) * (x - mean)

    errors = []
    for steps in (18, 36, 72):
        out = edm.heun_sampler(denoise, jnp.asarray(z), steps=steps, sigma_max=high)
        errors.append(np.sqrt(np.mean((np.asarray(out) - exact) ** 2)))
    assert errors[0] < 0.02
    assert errors[0] / errors[1] > 3.0
    assert errors[1] / errors[2] > 3.0


def test_sampler_compiles_once_and_counts_its_evaluations():
    """18 steps are 35 evaluations, 2 x 17 of them in the loop's one trace."""
    calls = []

    @jax.jit
    @chex.assert_max_traces(n=1)
    def sample(z):
        def denoise(x, sigma):
            calls.append(sigma)
            return 0.5 * x

        return edm.heun_sampler(denoise, z, steps=18)

    sample(jnp.ones((2, 3)))
    sample(jnp.zeros((2, 3)))
    in_loop = len(calls) - 1
    assert in_loop == 2
    assert edm.evaluations(18) == in_loop * 17 + 1 == 35


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: edm.karras_sigmas(1), "n must be at least 2, got 1"),
        (lambda: edm.karras_sigmas(4, 2.0, 1.0), "sigma_min is 2.0"),
        (lambda: edm.karras_sigmas(4, rho=0.5), "rho is 0.5"),
        (
            lambda: edm.precondition(
                lambda x, c: x, jnp.ones((2, 3)), jnp.ones(3), sigma_data=1.0
            ),
            r"sigma has shape \(3,\)",
        ),
    ],
)
def test_bad_arguments(call, message):
    """What is wrong is named."""
    with pytest.raises(ValueError, match=message):
        call()


def test_a_denoiser_and_a_critic_are_functions_of_their_parameters():
    """D from the formula, G(z) = D(s z, s), logits on a body or on features."""
    x, sigma = jnp.array([[1.0, -2.0], [0.5, 3.0]]), jnp.array([0.3, 2.0])

    def network(params, x, label, ids, features=False):
        out = params * x + label[:, None]
        return (out, (2 * out,)) if features else out

    denoise = edm.Denoiser(network, 0.5)
    c = edm.coefficients(sigma, 0.5)
    column = lambda v: np.asarray(v)[:, None]
    raw = 3.0 * column(c.scale_in) * x + column(c.noise_label)
    expected = column(c.skip) * x + column(c.out) * raw
    np.testing.assert_allclose(denoise(3.0, x, sigma), expected, rtol=1e-6)
    both, features = denoise(3.0, x, sigma, features=True)
    np.testing.assert_allclose(both, expected, rtol=1e-6)
    np.testing.assert_allclose(features[0], 2 * raw, rtol=1e-6)
    made = denoise.generate(3.0, x, sigma=2.0)
    np.testing.assert_allclose(made, denoise(3.0, 2 * x, 2.0), rtol=1e-6)

    def head(params, seen, label, ids):
        return params * seen[0] + label[:, None]

    own = edm.Critic(head, 0.5, network)({"body": 3.0, "head": 5.0}, x, sigma)
    np.testing.assert_allclose(own, 10 * raw + column(c.noise_label), rtol=1e-6)
    given = edm.Critic(head, 0.5)(5.0, (x,), sigma)
    np.testing.assert_allclose(given, 5 * x + column(c.noise_label), rtol=1e-6)
