"""Estimates from samples: closed forms inside intervals, refusals that say which."""

import math

import numpy as np
import pytest
from scipy import integrate, optimize, special, stats

import kljax.divergences as kd
from kljax.divergences.estimation import densities, inspection, outcomes, ratio, stack
from kljax.divergences.estimation.lines import Lines
from kljax.divergences.estimation.regression import Curves, autoregression
from kljax.divergences.estimation.stationary import stationary
from kljax.divergences.estimation.thin import is_thin
from kljax.generators import get

KINDS = (
    "forward_kl",
    "reverse_kl",
    "jensen_shannon",
    "squared_hellinger",
    "total_variation",
)
MEAN, SCALE = 0.8, 0.8


def rng(seed=0):
    return np.random.default_rng(seed)


def exact(kind):
    """D(N(MEAN, SCALE²)‖N(0, 1)) by quadrature of its definition."""
    p, q = stats.norm(MEAN, SCALE), stats.norm()

    def kl(a, b):
        return a * np.log(a / b)

    terms = {
        "forward_kl": lambda x: kl(p.pdf(x), q.pdf(x)),
        "reverse_kl": lambda x: kl(q.pdf(x), p.pdf(x)),
        "jensen_shannon": lambda x: (
            sum(kl(law.pdf(x), (p.pdf(x) + q.pdf(x)) / 2) for law in (p, q)) / 2
        ),
        "squared_hellinger": lambda x: (np.sqrt(p.pdf(x)) - np.sqrt(q.pdf(x))) ** 2 / 2,
        "total_variation": lambda x: abs(p.pdf(x) - q.pdf(x)) / 2,
    }
    return integrate.quad(terms[kind], -7, 9, points=[-1, 0, 1], limit=200)[0]


@pytest.fixture(scope="module")
def on_the_line():
    r = rng()
    return MEAN + SCALE * r.normal(size=(500, 1)), r.normal(size=(400, 1))


@pytest.mark.parametrize("kind", ["forward_kl", "jensen_shannon", "total_variation"])
def test_the_interval_holds_the_divergence_and_is_narrow(kind, on_the_line):
    found, want = kd.estimate(*on_the_line, kind), exact(kind)
    assert found.interval[0] < want < found.interval[1]
    assert abs(found.value - want) < 0.15
    assert found.half_width < 0.3
    assert not found.abstained
    assert kind in str(found) and "given the families fitted" in str(found)


def test_regimes_follow_the_tail_of_the_weights():
    # Of e^(a E), E exponential: Pareto, of index 1/a.
    exponential = rng(13).exponential(size=40_000)
    for a, words in ((0.25, "clt"), (0.67, "stable"), (2.0, "condensed")):
        index = ratio.tail_index(a * exponential)
        assert index == pytest.approx(1 / a, rel=0.2)
        assert ratio.regime_of(index) == words


def test_averages_of_the_exact_log_ratio_are_the_divergences():
    r = rng(1)
    p, q = stats.norm(MEAN, SCALE), stats.norm()
    v = [p.logpdf(x) - q.logpdf(x) for x in (p.rvs(60_000, r), q.rvs(60_000, r))]
    for kind in KINDS:
        found, want = ratio.averages(get(kind), *v), exact(kind)
        for one in (found.plug_in, found.bound):
            assert one == pytest.approx(want, abs=4 * found.error + 4e-3), kind


def test_a_bound_of_a_wrong_log_ratio_lies_below():
    r = rng(2)
    p, q = stats.norm(MEAN, SCALE), stats.norm()
    v = [
        0.5 * (p.logpdf(x) - q.logpdf(x)) for x in (p.rvs(20_000, r), q.rvs(20_000, r))
    ]
    for kind in ("forward_kl", "jensen_shannon", "squared_hellinger"):
        assert ratio.averages(get(kind), *v).bound < exact(kind)


def test_every_family_of_densities_has_mass_one():
    r = rng(3)
    x_p = r.standard_t(5, (600, 2)) @ np.array([[1.0, 0.4], [0.0, 1.0]])
    x_q = x_p[::-1] ** 3 / 9 + r.normal(size=(600, 2))
    proposal = stats.multivariate_t(np.zeros(2), 4 * np.eye(2), df=2, seed=4)
    x = proposal.rvs(60_000)
    log_proposal = proposal.logpdf(x)
    curves = Curves.of(np.concatenate([x_p, x_q]))
    fits = {
        "gaussian": densities.gaussian(shared=False),
        "student": densities.student,
        "elliptical": densities.elliptical,
        "margins": densities.margins,
        "mixture": densities.mixture(3),
        "kernel": densities.kernel,
        "copula": densities.copula,
        "components": densities.components,
        "turned": densities.turned(densities.margins),
        "autoregression": autoregression(curves, np.arange(2)),
    }
    for name, fit in fits.items():
        for log_density in fit(x_p, x_q, r):
            weights = np.exp(log_density(x) - log_proposal)
            error = weights.std() / np.sqrt(len(weights))
            assert weights.mean() == pytest.approx(1, abs=5 * error + 0.02), name


def test_lines_have_the_densities_and_shares_of_the_laws_that_they_see():
    r = rng(5)
    x = np.stack([r.normal(size=4000), r.exponential(size=4000)], axis=1)
    lines = Lines.fit(x)
    at = np.stack([np.linspace(-2, 2, 9), np.linspace(0.5, 4, 9)], axis=1)
    want = np.stack([stats.norm.logpdf(at[:, 0]), stats.expon.logpdf(at[:, 1])], axis=1)
    np.testing.assert_allclose(lines.log_density(at), want, atol=0.35)
    shares = np.stack([stats.norm.cdf(at[:, 0]), stats.expon.cdf(at[:, 1])], axis=1)
    np.testing.assert_allclose(lines.shares(at), shares, atol=0.03)


def test_curves_find_dependence_that_a_covariance_does_not_show():
    r = rng(6)
    x = r.normal(size=(2000, 3))
    x[:, 1] += 1.5 * np.sin(2 * x[:, 0])
    x[:, 2] += x[:, 0] * x[:, 1]
    new = x[1000:]
    curves = Curves.of(x)
    fitted, _ = autoregression(curves, np.arange(3))(x[:1000], x[:1000], r)
    plain, _ = densities.gaussian(shared=False)(x[:1000], x[:1000], r)
    noise = stats.norm.logpdf
    exact = noise(new[:, 0]) + noise(new[:, 1] - 1.5 * np.sin(2 * new[:, 0]))
    exact += noise(new[:, 2] - new[:, 0] * new[:, 1])
    assert exact.mean() - fitted(new).mean() < 0.1
    assert exact.mean() - plain(new).mean() > 0.4


def test_a_series_is_seen_where_none_of_its_coordinates_shows_it_alone():
    r, d = rng(14), 30
    draw = lambda n: r.normal(size=(n, d))

    def series(n):
        x = draw(n)
        for i in range(1, d):
            x[:, i] += 0.4 * np.sin(2 * x[:, i - 1])
        return x

    new = series(1000)
    gaps = new[:, 1:] - 0.4 * np.sin(2 * new[:, :-1])
    want = stats.norm.logpdf(new[:, 0]) + stats.norm.logpdf(gaps).sum(axis=1)
    found, white = stationary(series(400), draw(400), r)
    assert 0 < (want - found(new)).mean() < 0.3
    assert (want - white(new)).mean() > 1.0


def test_weights_are_the_likeliest_ones():
    logs = rng(7).normal(size=(3, 200))
    weights = stack.likeliest(logs, steps=3000)
    loss = lambda z: (
        -special.logsumexp(logs + special.log_softmax(z)[:, None], axis=0).sum()
    )
    best = optimize.minimize(loss, np.zeros(3), tol=1e-10)
    np.testing.assert_allclose(weights, special.softmax(best.x), atol=2e-3)


def test_logistic_regression_is_scikit_learns():
    linear = pytest.importorskip("sklearn.linear_model")
    r = rng(8)
    at_p, at_q = r.normal(0.5, size=(80, 2)), r.normal(size=(80, 2))
    x, y = np.concatenate([at_p, at_q]), np.repeat([1, 0], 80)
    peer = linear.LogisticRegression(C=1e6, fit_intercept=False, tol=1e-10).fit(x, y)
    np.testing.assert_allclose(
        stack.logistic(at_p, at_q, 0.0), peer.coef_[0], rtol=1e-3
    )


def test_the_plug_in_is_corrected_by_leaving_points_out_one_by_one():
    p, q = np.array([5, 3, 2]), np.array([2, 4, 3])

    def plain(a, b):
        a, b = a / a.sum(), b / b.sum()
        return (a * np.log(a / b)).sum()

    def jackknife(counts, of):
        each = [of(counts - e) for e, c in zip(np.eye(3), counts) for _ in range(c)]
        n, each = counts.sum(), np.array(each)
        bias = (n - 1) * (each.mean() - plain(p, q))
        return bias, (n - 1) / n * ((each - each.mean()) ** 2).sum()

    (bias_p, var_p), (bias_q, var_q) = (
        jackknife(p, lambda c: plain(c, q)),
        jackknife(q, lambda c: plain(p, c)),
    )
    found = outcomes.plug_in(p, q, get("forward_kl"))
    assert found.value == pytest.approx(plain(p, q) - bias_p - bias_q, abs=1e-5)
    assert found.error == pytest.approx(math.sqrt(var_p + var_q), rel=1e-4)


def test_integers_are_outcomes():
    r = rng(9)
    p, q = np.array([0.5, 0.3, 0.2]), np.array([0.2, 0.3, 0.5])
    x_p, x_q = (r.choice(3, 2000, p=law) for law in (p, q))
    found = kd.estimate(x_p, x_q, "forward_kl")
    want = (p * np.log(p / q)).sum()
    assert found.interval[0] < want < found.interval[1]
    assert found.half_width < 0.1


def test_reverse_is_forward_with_the_samples_exchanged(on_the_line):
    x_p, x_q = (x[:150] for x in on_the_line)
    reverse, forward = (
        kd.estimate(x_p, x_q, "reverse_kl"),
        kd.estimate(x_q, x_p, "forward_kl"),
    )
    assert reverse.value == forward.value
    assert reverse.families["p"] == forward.families["q"]


X = rng(10).normal(size=(400, 2))
BAD = np.where(np.arange(800).reshape(400, 2) == 11, np.nan, X)


@pytest.mark.parametrize(
    ("x_p", "x_q", "words"),
    [
        (X[:20], X[20:40], "too few"),
        (np.repeat(X[:200], 2, axis=0), X, "copies"),
        (X * [1, 0], X, "constant"),
        (X * 0, X * 0, "one and the same point"),
        (X @ [[1, 1], [1, 1]], X @ [[1, 1], [1, 1]], "linearly"),
        (X @ [[1, 1], [1, 1]], X[::-1], "fewer dimensions"),
        (X[:200, :1] + 9, X[:, 1:], "beyond"),
    ],
)
def test_it_abstains_and_says_why(x_p, x_q, words):
    found = kd.estimate(x_p, x_q, "forward_kl")
    assert found.abstained and math.isnan(found.interval[0])
    assert words in found.reason and words in str(found)
    assert found.remedy


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((BAD, X, "forward_kl"), "x_p holds NaN or infinity in 1 of 400 rows.* row 5"),
        ((X, X[:, :1], "forward_kl"), "one d"),
        ((X[:0], X, "forward_kl"), "a point at least"),
        ((X, X, "pearson_chi2"), "divergence of samples"),
    ],
)
def test_what_is_wrong_raises(arguments, words):
    with pytest.raises(ValueError, match=words):
        kd.estimate(*arguments)


def test_options_that_do_not_fit_raise():
    with pytest.raises(ValueError, match="'knn'"):
        kd.estimate(X, X, "forward_kl", method="knnn")
    with pytest.raises(ValueError, match="forward_kl and reverse_kl"):
        kd.estimate(X, X, "total_variation", method="knn")
    with pytest.raises(ValueError, match="level"):
        kd.estimate(X, X, "forward_kl", level=1.0)
    with pytest.raises(TypeError, match="real numbers"):
        kd.estimate(np.array([["a"]]), X, "forward_kl")


def test_a_constant_column_of_both_is_left_out():
    same = np.ones((400, 1))
    found = inspection.inspected(np.hstack([same, X]), np.hstack([same, X[::-1]]))
    np.testing.assert_array_equal(found.p, X)
    assert "column 0" in found.notes[0] and not found.discrete


def test_rounded_points_keep_their_divergence(on_the_line):
    x_p, x_q = (np.round(x, 1) for x in on_the_line)
    found = kd.estimate(x_p, x_q, "forward_kl")
    assert found.interval[0] < exact("forward_kl") < found.interval[1]
    assert "whole numbers" in found.notes[0]


def test_thin_samples_are_told_from_full_ones():
    r = rng(12)
    full, angle = r.normal(size=(900, 2)), r.uniform(0, 6, 900)
    circle = 2 * np.stack([np.cos(angle), np.sin(angle)], axis=1)
    wave = np.stack([angle - 3, np.sin(3 * angle)], axis=1)
    for surface in (circle, wave):
        assert is_thin(surface, full)
        assert not is_thin(full, surface)
    assert not is_thin(full, r.standard_t(2, (900, 2)))
    assert not is_thin(r.standard_t(2, (900, 2)), full)


def test_bounded_divergences_are_estimated_where_the_supports_are_apart():
    found = kd.estimate(X[:200, :1] + 9, X[:, 1:], "jensen_shannon")
    assert found.interval[0] > 0.6
    assert found.interval[1] <= math.log(2) + 1e-6


@pytest.mark.parametrize(
    ("method", "kind", "most"),
    [
        ("knn", "forward_kl", 0.3),
        ("kde", "squared_hellinger", 0.08),
        ("classifier", "jensen_shannon", 0.08),
    ],
)
def test_other_methods(method, kind, most, on_the_line):
    found = kd.estimate(*on_the_line, kind, method=method)
    assert found.value == pytest.approx(exact(kind), abs=most)
    assert found.method == method and "given the method" in str(found)


@pytest.mark.parametrize("method", ["cauchy_schwarz", "sinkhorn"])
def test_methods_of_another_divergence_say_so(method, on_the_line):
    near, far = (
        kd.estimate(x_p[:128], on_the_line[1][:128], "forward_kl", method=method)
        for x_p in (on_the_line[1][128:], on_the_line[0])
    )
    assert near.value < far.value
    assert near.divergence != "forward_kl" and "no bound" in near.notes[-1]


def test_values_that_repeat_are_whole_numbers():
    x_p, x_q = np.array([2, 4, 4, 6] * 20) / 10, np.array([2, 2, 6, 8] * 20) / 10
    found = inspection.inspected(x_p, x_q)
    assert found.discrete
    assert set(found.p[:, 0]) == {0, 1, 2} and set(found.q[:, 0]) == {0, 2, 3}
