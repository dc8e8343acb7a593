"""The losses of one-step distillation: values, settings, and where gradients flow."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kljax import generators
from kljax.objectives import diffusion


@pytest.fixture(scope="module")
def batch():
    rng, shape = np.random.default_rng(0), (6, 4, 3)
    arrays = {
        "sample": rng.normal(size=shape),
        "fake_denoised": rng.normal(size=shape),
        "real_denoised": rng.normal(size=shape),
        "sigma": np.exp(rng.normal(size=6)),
        "logits": 2 * rng.normal(size=(6, 2)),
    }
    return {k: jnp.asarray(np.float32(x)) for k, x in arrays.items()}


def bins():
    return diffusion.RatioBins.init(3, sigma_min=0.1, sigma_max=10.0)


def reference_gradient(batch, h, scale):
    """NumPy float64: d loss / d sample, per example, for weights h and w."""
    b = {k: np.asarray(v, np.float64) for k, v in batch.items()}
    w = np.ones(6)
    if scale:
        w = 1 / (np.abs(b["sample"] - b["real_denoised"]).mean((1, 2)) + 1e-6)
    gap = b["fake_denoised"] - b["real_denoised"]
    return (w * h)[:, None, None] * gap / 12


def reference_h(batch, h_of_r, index=None):
    l = np.asarray(batch["logits"], np.float64).mean(1)
    r = np.clip(np.exp(np.clip(l, -10, 10)), 0.1, 20)
    if index is not None:
        mean = np.ones(3)
        for k in range(3):
            if (index == k).any():
                mean[k] = 0.9 + 0.1 * r[index == k].mean()
        r = r / (mean + 1e-6)[index]
    h = h_of_r(r)
    return h / (h.mean() + 1e-6)


def gradient(batch, **keywords):
    def loss(sample):
        return diffusion.generator_loss(
            **{**batch, "sample": sample}, **keywords
        ).per_example.sum()

    return jax.jit(jax.grad(loss))(batch["sample"])


def test_diff_instruct_is_a_setting(batch):
    """Reverse KL, w = 1, no game: the plain denoiser difference, critic or not."""
    expected = reference_gradient(batch, np.ones(6), scale=False)
    setting = diffusion.SETTINGS["diff_instruct"]
    without = {k: v for k, v in batch.items() if k != "logits"}
    np.testing.assert_allclose(gradient(without, **setting), expected, rtol=2e-6)
    np.testing.assert_allclose(gradient(batch, **setting), expected, rtol=2e-6)


def test_dmd2_is_a_setting(batch):
    """Reverse KL with the scale weight; the game's term through its own path."""
    setting = diffusion.SETTINGS["dmd2"]
    expected = reference_gradient(batch, np.ones(6), scale=True)
    np.testing.assert_allclose(gradient(batch, **setting), expected, rtol=2e-6)

    def loss(logits):
        return diffusion.generator_loss(
            **{**batch, "logits": logits}, **setting
        ).per_example.sum()

    l = np.asarray(batch["logits"], np.float64).mean(1)
    game = -3e-3 / (1 + np.exp(l)) / 2  # two heads share it
    np.testing.assert_allclose(
        jax.jit(jax.grad(loss))(batch["logits"]), np.stack([game, game], 1), rtol=2e-6
    )


@pytest.mark.parametrize(
    "name, h_of_r",
    [
        ("jensen_shannon", lambda r: r / (1 + r)),  # the batch mean removes the ½
        ("forward_kl", lambda r: r),
        ("neyman_chi2", lambda r: 2 / r),
    ],
)
def test_f_distill_weights_every_example(batch, name, h_of_r):
    state = bins()
    index = np.asarray(state.index(batch["sigma"]))
    expected = reference_gradient(batch, reference_h(batch, h_of_r, index), scale=True)
    setting = {**diffusion.SETTINGS["f_distill"], "divergence": name}
    got = gradient(batch, bins=state, **setting)
    np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-7)


def test_value_is_half_the_mean_square_plus_the_game(batch):
    setting = {"divergence": "forward_kl", "gan_weight": 0.5}
    out = jax.jit(lambda b: diffusion.generator_loss(**b, **setting))(batch)
    h = reference_h(batch, lambda r: r)
    g = reference_gradient(batch, h, scale=True)
    l = np.asarray(batch["logits"], np.float64).mean(1)
    expected = 0.5 * ((g * 12) ** 2).mean((1, 2)) + 0.5 * np.log1p(np.exp(-l))
    np.testing.assert_allclose(out.per_example, expected, rtol=1e-5)
    assert set(out.metrics) >= {"ratio/ess", "weight/ess", "gan/generator"}
    assert out.bins is None


def test_gradients_flow_through_the_sample_and_the_game_alone(batch):
    """Nothing through either denoiser, the levels, the bins or the ratio."""
    state = bins()

    def loss(b, mean, gan_weight):
        moved = diffusion.RatioBins(mean, state.hits, 0.1, 10.0)
        out = diffusion.generator_loss(
            **b, divergence="jeffreys", gan_weight=gan_weight, bins=moved
        )
        return out.per_example.sum() + sum(out.metrics.values()) * 0

    slopes = jax.jit(jax.grad(loss, (0, 1)))
    silent, mean = slopes(batch, state.mean, 0.0)
    assert silent["sample"].any()
    for name in ("fake_denoised", "real_denoised", "sigma", "logits"):
        assert not silent[name].any(), name
    assert not mean.any()
    assert slopes(batch, state.mean, 1.0)[0]["logits"].all()


def test_one_trace_for_every_divergence(batch):
    """Objects are data: alpha, a choice and the game's weight share one program."""
    options = tuple(
        generators.get(n) for n in generators.names() if n != "total_variation"
    )

    @jax.jit
    @chex.assert_max_traces(n=1)
    def run(index, gan_weight):
        choice = generators.Choice(index, options)
        return diffusion.generator_loss(
            **batch, divergence=choice, gan_weight=gan_weight, bins=bins()
        ).weights

    every = jax.jit(lambda l: [option.curvature(l) for option in options])
    for i in range(len(options)):
        weights = run(i, 1e-3 * i)
        h = np.asarray(every(weights.log_ratio)[i], np.float64)
        np.testing.assert_allclose(weights.weight, h / h.mean(), rtol=1e-5)
    alphas = jnp.linspace(-1.0, 2.0, 7)

    @jax.jit
    @jax.vmap
    def swept(a):
        loss = diffusion.generator_loss(**batch, divergence=generators.Alpha(a))
        return loss.weights.weight

    r = np.clip(np.exp(np.asarray(batch["logits"], np.float64).mean(1)), 0.1, 20)
    expected = r ** np.asarray(alphas)[:, None]
    expected = expected / expected.mean(1, keepdims=True)
    np.testing.assert_allclose(swept(alphas), expected, rtol=1e-5)


def test_critic_losses():
    l = np.array([-3.0, 0.0, 40.0])
    real, fake = jnp.array(l, jnp.float32), jnp.array(-l / 2, jnp.float32)
    loss, metrics = diffusion.discriminator_loss(real, fake)
    expected = np.log1p(np.exp(-l)) + np.log1p(np.exp(-l / 2))
    np.testing.assert_allclose(loss, expected, rtol=1e-6)
    assert metrics["critic/accuracy"] == pytest.approx(1 / 3)
    near, metrics = diffusion.discriminator_loss(
        real, fake, perturbed_logits=real + 2, r1_weight=0.25
    )
    np.testing.assert_allclose(near, expected + 1, rtol=1e-6)
    assert metrics["critic/r1"] == 4
    np.testing.assert_allclose(
        diffusion.adversarial_loss(real), np.log1p(np.exp(-l)), rtol=1e-6
    )
    # At the optimum of the critic's loss the logit is the log-ratio.
    p, q = 0.3, 0.05
    slope = jax.grad(
        lambda v: p * jax.nn.softplus(-v) + q * jax.nn.softplus(v)  # Eq. 7 at one x
    )(jnp.log(p / q))
    assert abs(slope) < 1e-7


def test_denoising_loss(x64):
    clean = jnp.array([[1.0, -1.0], [0.5, 0.0]])
    denoised = clean + jnp.array([[0.1, 0.3], [0.0, 0.4]])
    sigma = jnp.array([0.5, 2.0])
    error = np.array([0.05, 0.08])
    for name, weight in (
        ("plain", np.ones(2)),
        ("edm", (np.array([0.25, 4.0]) + 0.36) / (np.array([0.25, 4.0]) * 0.36)),
        ("dmd2", 1 / np.array([0.25, 4.0]) + 1 / 0.36),
    ):
        loss, metrics = diffusion.denoising_loss(
            denoised, clean, sigma, weight=name, sigma_data=0.6
        )
        np.testing.assert_allclose(loss, weight * error, rtol=1e-12)
    assert metrics["denoising/mse"] == pytest.approx(0.065)
    custom, _ = diffusion.denoising_loss(denoised, clean, sigma, weight=lambda s, d: s)
    np.testing.assert_allclose(custom, [0.025, 0.16], rtol=1e-12)
    flow = jax.grad(lambda c: diffusion.denoising_loss(denoised, c, sigma)[0].sum())(
        clean
    )
    assert not flow.any()


def test_noise_laws():
    key, n = jax.random.key(3), 200_000
    laws = jax.jit(
        lambda: (
            diffusion.log_uniform_sigma(key, (n,), low=0.05, high=5.0),
            diffusion.log_normal_sigma(key, (n,), mean=-1.2, std=1.2),
            diffusion.karras_sigma(key, (n,)),
        )
    )
    uniform, normal, karras = (np.asarray(x, np.float64) for x in laws())
    assert 0.05 <= uniform.min() < uniform.max() <= 5.0 * (1 + 1e-6)
    np.testing.assert_allclose(np.log(uniform).mean(), np.log(0.5), atol=0.01)
    np.testing.assert_allclose(np.log(normal).std(), 1.2, rtol=0.01)
    i = np.arange(2, 999)
    ladder = (0.002 ** (1 / 7) + i / 999 * (80 ** (1 / 7) - 0.002 ** (1 / 7))) ** 7
    np.testing.assert_allclose(np.median(karras), np.median(ladder), rtol=0.02)
    np.testing.assert_allclose(karras.max(), ladder[-1], rtol=1e-5)
    np.testing.assert_allclose(karras.min(), ladder[0], rtol=1e-4)


def test_guidance():
    c, n = jnp.array([1.0, 2.0]), jnp.array([0.0, 4.0])
    assert diffusion.guide(c, n, None) is c
    np.testing.assert_allclose(diffusion.guide(c, n, 1.0), c)
    np.testing.assert_allclose(diffusion.guide(c, n, 3.0), [3.0, -2.0])


def test_bfloat16_outputs_are_taken_up(batch):
    low = {k: v.astype(jnp.bfloat16) for k, v in batch.items() if k != "sigma"}
    both = low | {"sigma": batch["sigma"]}
    out = jax.jit(lambda b: diffusion.generator_loss(**b, bins=bins()))(both)
    assert out.per_example.dtype == jnp.float32
    assert jnp.isfinite(out.per_example).all()


def test_bad_input_names_the_argument(batch):
    plain = {k: v for k, v in batch.items() if k != "logits"}
    loss = diffusion.generator_loss
    with pytest.raises(ValueError, match=r"TotalVariation.* f'' = 0"):
        loss(**batch, divergence="total_variation")
    pair = (generators.ForwardKL(), generators.TotalVariation())
    with pytest.raises(ValueError, match="f'' = 0"):
        jax.vmap(lambda i: loss(**batch, divergence=generators.Choice(i, pair))[0])(
            jnp.arange(2)
        )
    with pytest.raises(ValueError, match="needs a critic's logits"):
        loss(**plain, divergence="forward_kl")
    with pytest.raises(ValueError, match=r"gan_weight = 0.1"):
        loss(**plain, divergence="reverse_kl", gan_weight=0.1)
    with pytest.raises(ValueError, match=r"fake_denoised: shape \(2, 4, 3\)"):
        loss(**{**plain, "fake_denoised": plain["sample"][:2]}, divergence="reverse_kl")
    with pytest.raises(ValueError, match=r"sigma: expected shape \(6,\), got \(\)"):
        loss(**{**plain, "sigma": jnp.ones(())}, divergence="reverse_kl")
    with pytest.raises(ValueError, match="weight: unknown name 'snr'"):
        diffusion.denoising_loss(
            jnp.ones((1, 1)), jnp.ones((1, 1)), jnp.ones(1), weight="snr"
        )
    with pytest.raises(ValueError, match=r"r1_weight: 1.0 needs"):
        diffusion.discriminator_loss(jnp.ones(1), jnp.ones(1), r1_weight=1.0)
    with pytest.raises(ValueError, match=r"low, high: .*5.0, 0.1"):
        diffusion.log_uniform_sigma(jax.random.key(0), (1,), low=5.0, high=0.1)
    with pytest.raises(ValueError, match="skip: expected"):
        diffusion.karras_sigma(jax.random.key(0), (1,), levels=10)
