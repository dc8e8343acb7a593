"""Score divergences against exact densities: the gradient theorem and the integral."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kljax import generators
from kljax.divergences import scores


def mixture_terms(log_p, log_q):
    """q f(p/q) for six divergences, written in log densities, textbook forms."""
    p, q = jnp.exp(log_p), jnp.exp(log_q)
    log_m = jnp.logaddexp(log_p, log_q) - jnp.log(2.0)
    l = log_p - log_q
    return {
        "reverse_kl": -q * l,
        "softened_reverse_kl": (p + q) * (log_m - log_p),
        "jensen_shannon": 0.5 * (p * (log_p - log_m) + q * (log_q - log_m)),
        "squared_hellinger": q - jnp.exp((log_p + log_q) / 2),
        "jeffreys": (p - q) * l,
        "forward_kl": p * l,
    }


SIX = tuple(mixture_terms(jnp.zeros(1), jnp.zeros(1)))
OPTIONS = tuple(generators.get(name) for name in SIX)


def normal(x, mean, variance):
    return -0.5 * ((x - mean) ** 2 / variance + jnp.log(2 * jnp.pi * variance))


def teacher(x, t):
    """log density of 0.7 N(-2, .25) + 0.3 N(2, .25) under noise t."""
    left = jnp.log(0.7) + normal(x, -2.0, 0.25 + t**2)
    right = jnp.log(0.3) + normal(x, 2.0, 0.25 + t**2)
    return jnp.logaddexp(left, right)


def student(x, theta, t):
    return normal(x, theta[1], jnp.exp(2 * theta[0]) + t**2)


def test_gradient_theorem_on_the_line(x64):
    """T1: surrogate's gradient = autodiff of the exact divergence, rel <= 2e-6."""
    x = np.linspace(-14.0, 14.0, 8001)
    width = x[1] - x[0]
    theta = np.array([0.6, -0.5])

    @jax.jit
    def both(t):
        exact = jax.jacrev(
            lambda theta: jnp.stack(
                [
                    jnp.sum(term) * width
                    for term in mixture_terms(
                        teacher(x, t), student(x, theta, t)
                    ).values()
                ]
            )
        )(theta)
        score_p = jax.vmap(jax.grad(teacher), (0, None))(x, t)
        score_q = jax.vmap(jax.grad(student), (0, None, None))(x, theta, t)
        log_q = student(x, theta, t)
        variance = jnp.exp(2 * theta[0]) + t**2
        # E[d x_t / d (log a, b) | x_t]: the posterior mean of a z and 1.
        motion = jnp.stack(
            [jnp.exp(2 * theta[0]) * (x - theta[1]) / variance, jnp.ones_like(x)], 1
        )

        def loss(shift, index):
            loss = scores.surrogate(
                (x + motion @ shift)[:, None],
                score_p[:, None],
                score_q[:, None],
                teacher(x, t) - log_q,
                generators.Choice(index, OPTIONS),
            )
            return jnp.sum(jnp.exp(log_q) * loss) * width

        by_theorem = jax.vmap(jax.grad(loss), (None, 0))(jnp.zeros(2), jnp.arange(6))
        return exact, by_theorem

    for t in (0.3, 1.0):
        exact, by_theorem = both(t)
        error = np.linalg.norm(by_theorem - exact, axis=1)
        assert (error <= 2e-6 * np.linalg.norm(exact, axis=1)).all(), (t, error)


# A two-mode latent law pushed through an affine map: q_t in closed form on the plane.
LATENT = np.array([[-1.0, 0.3], [0.8, -0.2]])
SPREAD = 0.5
TARGET = np.array([[-1.5, 0.0], [1.0, 1.0], [0.5, -1.5]])


def plane_teacher(x, t):
    variance = 0.16 + t**2
    square = jnp.sum((x - TARGET) ** 2, axis=1)
    weights = jnp.log(jnp.array([0.5, 0.3, 0.2]))
    parts = weights - 0.5 * square / variance - jnp.log(2 * jnp.pi * variance)
    return jax.nn.logsumexp(parts)


def plane_student(x, theta, t):
    matrix, shift = theta[:4].reshape(2, 2), theta[4:]
    covariance = SPREAD**2 * matrix @ matrix.T + t**2 * jnp.eye(2)
    gap = x - (LATENT @ matrix.T + shift)
    square = jnp.einsum("kd,de,ke->k", gap, jnp.linalg.inv(covariance), gap)
    norm = 0.5 * jnp.log(jnp.linalg.det(2 * jnp.pi * covariance))
    return jax.nn.logsumexp(-0.5 * square) - norm - jnp.log(2.0)


def plane_z_scores(n, points):
    theta = np.array([0.9, 0.2, -0.1, 1.1, 0.2, -0.1])
    axis = np.linspace(-9.0, 9.0, points)
    grid = np.stack(np.meshgrid(axis, axis), -1).reshape(-1, 2)
    cell = (axis[1] - axis[0]) ** 2
    density = jax.vmap(plane_student, (0, None, None))

    def exact(theta, t):
        log_p = jax.vmap(plane_teacher, (0, None))(grid, t)
        terms = mixture_terms(log_p, density(grid, theta, t))
        return jnp.stack([jnp.sum(term) * cell for term in terms.values()])

    def estimate(key, t):
        pick, spread, noise = jax.random.split(key, 3)
        z = jnp.asarray(LATENT)[jax.random.randint(pick, (n,), 0, 2)]
        z = z + SPREAD * jax.random.normal(spread, (n, 2))
        eps = t * jax.random.normal(noise, (n, 2))

        def one(z, eps):
            push = lambda theta: theta[:4].reshape(2, 2) @ z + theta[4:] + eps
            x = push(theta)
            s_p = jax.grad(plane_teacher)(x, t)
            s_q = jax.grad(plane_student)(x, theta, t)
            l = plane_teacher(x, t) - plane_student(x, theta, t)

            def loss(theta, divergence):
                return scores.surrogate(
                    push(theta)[None], s_p[None], s_q[None], l[None], divergence
                )[0]

            return jnp.stack([jax.grad(loss)(theta, d) for d in OPTIONS])

        gradients = jax.vmap(one)(z, eps)
        return gradients.mean(0), gradients.std(0) / jnp.sqrt(n)

    exact, estimate = jax.jit(jax.jacfwd(exact)), jax.jit(estimate)
    out = []
    for i, t in enumerate((0.5, 1.5)):
        mean, error = estimate(jax.random.key(i), t)
        out.append((np.asarray(mean) - exact(theta, t)) / np.asarray(error))
    return np.asarray(out)


def test_gradient_theorem_by_samples_on_the_plane(x64):
    """T1b: six parameters, six divergences, two noise levels, within 4 s.e."""
    z = plane_z_scores(n=20_000, points=91)
    assert np.abs(z).max() <= 4, np.abs(z).max()
    assert np.abs(z).mean() > 0.2  # and the standard errors are not inflated


@pytest.mark.slow
def test_gradient_theorem_by_samples_in_full(x64):
    z = plane_z_scores(n=400_000, points=301)
    print("max abs z", np.abs(z).max())
    assert np.abs(z).max() <= 4


def test_gradient_of_the_integrated_kl_of_a_gaussian(x64):
    """Diff-Instruct: the surrogate over noise levels = gradient of the integral KL."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(4)
    weights = weights / weights.sum()
    z, e = (v.ravel() for v in np.meshgrid(nodes, nodes))
    both = np.outer(weights, weights).ravel()
    levels = np.array([0.1, 0.5, 2.0])
    mean_p, var_p = 0.4, 0.3

    def integrated(theta):
        var_q = jnp.exp(2 * theta[0]) + levels**2
        total = var_p + levels**2
        gap = (theta[1] - mean_p) ** 2
        return jnp.mean(
            0.5 * (var_q / total + gap / total - 1 - jnp.log(var_q / total))
        )

    def by_scores(theta):
        def level(t):
            x = (jnp.exp(theta[0]) * z + theta[1] + t * e)[:, None]
            fixed = jax.lax.stop_gradient(theta)
            s_q = -(x - fixed[1]) / (jnp.exp(2 * fixed[0]) + t**2)
            s_p = -(x - mean_p) / (var_p + t**2)
            return jnp.sum(both * scores.surrogate(x, s_p, s_q))

        return jnp.mean(jax.vmap(level)(levels))

    slopes = jax.jit(lambda x: (jax.grad(by_scores)(x), jax.grad(integrated)(x)))
    np.testing.assert_allclose(*slopes(np.array([0.3, -0.7])), rtol=1e-12)


def test_integral_of_the_rates_is_the_divergence(x64):
    """½ ∫ E_q[h |s_p - s_q|^2] d(t^2) = D_f at t = 0, for six divergences."""
    x = np.linspace(-60.0, 60.0, 6001)
    width = x[1] - x[0]
    theta = np.array([0.4, -0.5])
    # The integrand is smooth in log t; the first stretch, down to 0, is negligible.
    levels = np.geomspace(1e-3, 6.0, 400)

    def exact(t):
        terms = mixture_terms(teacher(x, t), student(x, theta, t))
        return jnp.stack([jnp.sum(term) * width for term in terms.values()])

    def rates(t):
        s_p = jax.vmap(jax.grad(teacher), (0, None))(x, t)[:, None]
        s_q = jax.vmap(jax.grad(student), (0, None, None))(x, theta, t)[:, None]
        log_q = student(x, theta, t)
        l = teacher(x, t) - log_q
        each = [scores.score_divergence(s_p, s_q, l, d) for d in OPTIONS]
        return jnp.sum(jnp.exp(log_q) * jnp.stack(each), axis=1) * width

    @jax.jit
    def found(levels):
        table, known = jax.lax.map(lambda t: (rates(t), exact(t)), levels)
        lost = scores.integral_divergence(table, levels)
        by_parts = scores.integral_divergence(table[:, 0], levels, weight=levels)
        return lost, by_parts, known

    lost, by_parts, known = map(np.asarray, found(levels))
    np.testing.assert_allclose(lost, known[0] - known[-1], rtol=2e-4)
    # The integral KL of Diff-Instruct by parts: w(t) = 1 has W(t) = t.
    levels_kl = known[:, 0]
    edge = levels[-1] * levels_kl[-1] - levels[0] * levels_kl[0]
    direct = np.trapezoid(levels_kl, levels)
    np.testing.assert_allclose(by_parts + edge, direct, rtol=2e-4)


def test_integral_kl_of_gaussians_by_draws(x64):
    """Closed form of KL(N(0, I)‖N(m, I)) in three dimensions; here per draw exact."""
    m = np.float32([0.5, -1.0, 2.0])
    sigma = np.geomspace(1e-3, 1e3, 3000, dtype=np.float32)
    x = np.random.default_rng(0).normal(size=(3000, 4, 3)).astype(np.float32)
    total = 1 + sigma[:, None, None] ** 2
    integral = jax.jit(scores.integral_kl)
    kl = integral(-(x - m) / total, -x / total, sigma)
    np.testing.assert_allclose(kl, np.full(4, 0.5 * np.sum(m**2)), rtol=1e-4)
    mean = integral(-(x - m) / total, -x / total, sigma, weight=sigma)
    exact = 0.5 * np.sum(m**2) * np.trapezoid(1 / (1 + sigma**2), sigma)
    edge = 0.5 * np.sum(m**2) * sigma[-1] / (1 + sigma[-1] ** 2)
    np.testing.assert_allclose(mean, exact - edge, rtol=1e-3)


def test_tweedie_on_a_scaled_gaussian():
    """x_t = alpha x_0 + sigma n with x_0 ~ N(m, s^2): score of N(alpha m, ...)."""
    x = np.random.default_rng(0).normal(size=(5, 2, 3)).astype(np.float32)
    sigma = np.linspace(0.5, 2.0, 5, dtype=np.float32)
    alpha, m, s = np.linspace(0.2, 1.0, 5, dtype=np.float32), 0.7, 0.6
    a, t = alpha[:, None, None], sigma[:, None, None]
    total = a**2 * s**2 + t**2
    denoised = m + a * s**2 / total * (x - a * m)
    score = scores.score_from_denoiser(denoised, x, sigma, alpha=alpha)
    np.testing.assert_allclose(score, -(x - a * m) / total, rtol=2e-5, atol=2e-6)


def test_only_the_samples_are_differentiated():
    x, g = np.float32(np.ones((3, 2))), np.full((3, 2), 0.5, np.float32)
    w = np.arange(3, dtype=np.float32)
    l = np.linspace(-1.0, 1.0, 3, dtype=np.float32)
    loss = lambda *a: scores.surrogate(a[0], a[1], a[2], a[3], "jeffreys", weight=a[4])
    total = lambda *a: loss(*a).sum()
    gradients = jax.jit(jax.grad(total, argnums=(0, 1, 2, 3, 4)))(x, 0 * g, g, l, w)
    expected = (w * (1 + np.exp(l)))[:, None] * g
    np.testing.assert_allclose(gradients[0], expected, rtol=1e-6)
    for other in gradients[1:]:
        assert not np.any(other)
    bf16 = jax.eval_shape(scores.surrogate, x.astype(jnp.bfloat16), 0 * g, g)
    assert bf16.dtype == jnp.float32


def test_bad_input_names_the_argument():
    x = jnp.ones((3, 2))
    with pytest.raises(ValueError, match="score_q: shape"):
        scores.score_divergence(x, x[:2])
    with pytest.raises(ValueError, match=r"log_ratio: .*reverse KL"):
        scores.surrogate(x, x, x, None, "forward_kl")
    with pytest.raises(ValueError, match="log_ratio: expected"):
        scores.surrogate(x, x, x, jnp.ones(2), "forward_kl")
    with pytest.raises(ValueError, match="sigma: expected"):
        scores.integral_divergence(x, jnp.ones(2))
    with pytest.raises(ValueError, match="weight: expected"):
        scores.integral_divergence(x, jnp.arange(3.0), weight=jnp.ones(2))
    with pytest.raises(ValueError, match="sigma: expected"):
        scores.score_from_denoiser(x, x, jnp.ones(2))
