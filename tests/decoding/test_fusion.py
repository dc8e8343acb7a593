"""Logit fusion against float64 NumPy: definitions, scans, autodiff."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import optimize

from kljax.decoding.fusion.curve import movement, prepare
from kljax.decoding.fusion.grid import grid_weights
from kljax.decoding.fusion.logits import fuse
from kljax.decoding.fusion.settings import PRESETS, Fusion, preset, solve_weights

N, V = 200, 48  # one shape, so that programs are compiled once
STATIC = ("rule", "init", "cross", "target", "pad_vocab")
compiled_fuse = jax.jit(fuse)


@functools.partial(jax.jit, static_argnames=STATIC)
def solve(z, s, e, where=None, **settings):
    """Numbers are traced, names are not."""
    return solve_weights(z, s, e, Fusion(**settings), where=where)


def log_softmax(x):
    x = x - x.max(axis=-1, keepdims=True)
    return x - np.log(np.exp(x).sum(axis=-1, keepdims=True))


def kl(log_p, log_q):
    return (np.exp(log_p) * (log_p - log_q)).sum(axis=-1)


def objective(z, s, experts, alpha, *, cross=False):
    """Σ_t (F − a_t)² + (R − b_t)² of one row, from the definitions."""
    p, q = log_softmax(z), log_softmax(s)
    fused = log_softmax(z + np.tensordot(alpha, experts - s, axes=1))
    forward, reverse = kl(fused, p), kl(p, fused)
    total = 0.0
    for s_t in log_softmax(experts):
        a, b = kl(s_t, q), kl(q, s_t)
        a, b = (b, a) if cross else (a, b)
        total += (forward - a) ** 2 + (reverse - b) ** 2
    return total


def scan(z, s, e, points=4001, high=2.0):
    """The least objective over a fine grid, for rows [n v] with one expert."""
    p, d = np.exp(log_softmax(z)), e - s
    d = d - (p * d).sum(axis=-1, keepdims=True)
    a, b = kl(log_softmax(e), log_softmax(s)), kl(log_softmax(s), log_softmax(e))
    best, where = np.full(len(z), np.inf), np.zeros(len(z))
    for alpha in np.linspace(0, high, points):
        l = log_softmax(z) + alpha * d
        top = l.max(axis=-1)
        w = np.exp(l - top[:, None])
        total = w.sum(axis=-1)
        psi = top + np.log(total)
        forward = alpha * (w * d).sum(axis=-1) / total - psi
        loss = (forward - a) ** 2 + (psi - b) ** 2
        better = loss < best
        best, where = np.where(better, loss, best), np.where(better, alpha, where)
    return best, where


@functools.cache
def scanned():
    """A thousand rows, 200 of each kind, with the fine scan's and the grid's loss."""
    cases = []
    for seed, kind in enumerate(KINDS):
        z, s, e = rows(N, V, kind, seed=seed)
        fine, coarse = (scan(z, s, e[:, 0], n)[0] for n in (4001, 21))
        cases.append(((z, s, e), fine, coarse))
    return cases


def rows(n, v, kind="mid", experts=1, seed=0):
    """Large, base and experts' logits: how sharp each is, and how heavy the change."""
    rng = np.random.default_rng(seed)
    large, small, tail = {
        "flat": (0.5, 0.5, None),
        "mid": (2.0, 2.0, None),
        "peaky": (5.0, 5.0, None),
        "large peaky": (6.0, 2.0, None),
        "heavy": (2.0, 2.0, 3),
    }[kind]
    shared = rng.normal(size=(n, v))
    z = large * (shared + 0.5 * rng.normal(size=(n, v)))
    s = small * (shared + 0.5 * rng.normal(size=(n, v)))
    shape = (n, experts, v)
    change = rng.normal(size=shape) if tail is None else rng.standard_t(tail, shape)
    return z, s, s[:, None] + change


KINDS = ("flat", "mid", "peaky", "large peaky", "heavy")


# ------------------------------------------------------------------ A: the mathematics


def test_the_calculus_agrees_with_autodiff(x64):
    z, s, e = (x[0] for x in rows(1, 100, experts=3))
    alpha = jnp.array([0.7, 0.3, 1.1])

    def move(alpha):
        p = jax.nn.log_softmax(z)
        fused = jax.nn.log_softmax(z + alpha @ (e - s))
        forward = jnp.sum(jnp.exp(fused) * (fused - p))
        return forward, jnp.sum(jnp.exp(p) * (p - fused))

    @jax.jit
    def both(alpha):
        problem = prepare(jnp.asarray(z), jnp.asarray(s), jnp.asarray(e))
        ours = movement(problem, alpha)
        curved = jax.hessian(lambda x: move(x)[1])(alpha)
        return problem, ours, move(alpha), jax.jacobian(move)(alpha), curved

    problem, ours, values, slopes, curvature = both(alpha)
    close = functools.partial(np.testing.assert_allclose, rtol=1e-9)
    close([alpha @ ours.mean - ours.psi, ours.psi], values)
    close(ours.covariance @ alpha, slopes[0])
    close(ours.mean, slopes[1], rtol=1e-8)  # the mean of d under P is taken off
    close(ours.covariance, curvature, rtol=1e-6)
    q = log_softmax(s)
    close(problem.forward, [kl(x, q) for x in log_softmax(e)])
    close(problem.reverse, [kl(q, x) for x in log_softmax(e)])


def test_the_loss_is_the_objective_and_only_mean_targets_matter(x64):
    z, s, e = rows(8, V, experts=3)
    alpha, loss = solve(z, s, e, rule="static", weight=jnp.array([0.4, 0.9, 0.2]))
    for i in range(8):
        want = objective(z[i], s[i], e[i], np.asarray(alpha[i]))
        np.testing.assert_allclose(loss[i], want, rtol=1e-12)
        # J = T[(F − ā)² + (R − b̄)²] + Σ(a_t − ā)² + Σ(b_t − b̄)².
        q, p = log_softmax(s[i]), log_softmax(z[i])
        a = np.array([kl(x, q) for x in log_softmax(e[i])])
        b = np.array([kl(q, x) for x in log_softmax(e[i])])
        fused = log_softmax(z[i] + np.asarray(alpha[i]) @ (e[i] - s[i]))
        spread = ((a - a.mean()) ** 2).sum() + ((b - b.mean()) ** 2).sum()
        parts = (kl(fused, p) - a.mean()) ** 2 + (kl(p, fused) - b.mean()) ** 2
        np.testing.assert_allclose(want, 3 * parts + spread, rtol=1e-12)


@pytest.mark.parametrize("rule", ["dynamic", "kl_ball", "jeffreys"])
def test_invariances(rule, x64):
    z, s, e = rows(N, V)
    plain = solve(z, s, e, rule=rule).alpha
    moved = solve(z + 30, s - 7, e + 11, rule=rule).alpha
    np.testing.assert_allclose(moved, plain, atol=1e-9)
    order = np.random.default_rng(0).permutation(V)
    permuted = solve(z[:, order], s[:, order], e[..., order], rule=rule).alpha
    np.testing.assert_allclose(permuted, plain, atol=1e-9)
    # A large model that is the small one moves exactly as the small one did.
    same = solve(s, s, e, rule=rule, iterations=8).alpha
    np.testing.assert_allclose(same, 1, atol=1e-6)
    # An expert that learnt nothing moves nothing.
    same, loss = solve(z, s, s[:, None], rule=rule)
    assert np.isfinite(same).all() and (np.asarray(loss) < 1e-12).all()
    fused = log_softmax(np.asarray(compiled_fuse(z, s, s[:, None], same)))
    np.testing.assert_allclose(fused, log_softmax(z), atol=1e-12)


def test_the_row_with_two_minima(x64):
    z = np.array([[11.2, 7.6, -17.8, 6.2]])
    s = np.array([[-10.6, 4.3, -3.2, 3.3]])
    e = (s + np.array([[-9, -8.9, 22.7, -5.6]]))[:, None]
    best, where = scan(z, s, e[:, 0])
    # Among impossible outcomes, so that the program is one that is compiled anyway.
    pads = [np.full((N, *x.shape[1:-1], V), -np.inf) for x in (z, s, e)]
    for pad, x in zip(pads, (z, s, e)):
        pad[..., 5:9] = x
    alpha, loss = solve(*pads, init="scan", iterations=8)
    assert abs(where[0] - 1.64) < 0.01 and abs(alpha[0, 0] - where[0]) < 1e-3
    assert 449 < loss[0] <= best[0] * (1 + 1e-6)
    other = [objective(z[0], s[0], e[0], np.array([x])) for x in (0.85, 0.9, 0.95)]
    assert other[1] < min(other[0], other[2]) and other[1] > loss[0]


# ------------------------------------------------------------------ B: the solver


@pytest.mark.parametrize("init", ["analytic", "scan"])
def test_no_worse_than_a_fine_scan_on_a_thousand_rows(init, x64):
    wins, ours, grid = [], [], []
    for arrays, fine, coarse in scanned():
        loss = np.asarray(solve(*arrays, init=init, iterations=6).loss)
        wins.append(loss <= fine * (1 + 1e-4) + 1e-8)
        ours.append(loss.mean())
        grid.append(coarse.mean())
    assert np.mean(wins) >= 0.995, [x.mean() for x in wins]
    assert np.mean(ours) < np.mean(grid)
    assert all(x < y for x, y in zip(ours, grid)), (ours, grid)


@pytest.mark.optimized
def test_float32_and_four_iterations_are_near_float64():
    z, s, e = (np.float32(x) for x in rows(N, V, "mid"))
    four, eight = (np.asarray(solve(z, s, e, iterations=n).alpha) for n in (4, 8))
    with jax.enable_x64(True):
        z, s, e = (np.float64(x) for x in (z, s, e))
        want = np.asarray(solve(z, s, e, iterations=20).alpha)
    assert np.abs(eight - want).max() < 1e-5
    # So few outcomes are harder than a vocabulary.
    assert np.abs(four - want).max() < 2e-4 and np.abs(four - want).mean() < 2e-6


@pytest.mark.parametrize("rule", ["kl_ball", "jeffreys"])
def test_monotone_rules_find_the_root(rule, x64):
    for kind in ("mid", "large peaky", "heavy"):
        z, s, e = rows(N, V, kind)
        alpha = np.asarray(solve(z, s, e, rule=rule, iterations=12).alpha)[:, 0]
        for i in range(12):
            p, q, t = log_softmax(z[i]), log_softmax(s[i]), log_softmax(e[i, 0])

            def gap(x, row=z[i], d=e[i, 0] - s[i], p=p, q=q, t=t):
                fused = log_softmax(row + x * d)
                if rule == "kl_ball":
                    return kl(fused, p) - kl(t, q)
                return kl(fused, p) + kl(p, fused) - kl(t, q) - kl(q, t)

            want = optimize.brentq(gap, 0, 2) if gap(2.0) > 0 else 2.0
            np.testing.assert_allclose(alpha[i], want, atol=1e-5)


def test_cross_matches_the_other_way_round(x64):
    z, s, e = rows(N, V, "large peaky")
    alpha, loss = solve(z, s, e, cross=True, iterations=8)
    for i in range(6):
        of = lambda x, i=i: objective(z[i], s[i], e[i], x, cross=True)
        np.testing.assert_allclose(loss[i], of(np.asarray(alpha[i])), rtol=1e-9)
        assert loss[i] <= min(of(np.array([x])) for x in np.linspace(0, 2, 41)) + 1e-9


@pytest.mark.parametrize("target", ["mean", "own"])
def test_axis_takes_one_expert(target, x64):
    z, s, e = rows(8, V, experts=3)
    e[:, 1] = s + 0.3 * (e[:, 1] - s)
    alpha, loss = solve(z, s, e, rule="axis", target=target, iterations=8)
    alpha = np.asarray(alpha)
    assert ((alpha > 0).sum(axis=1) == 1).all()
    for i in range(8):
        np.testing.assert_allclose(loss[i], objective(z[i], s[i], e[i], alpha[i]))
        if target == "mean":  # Algorithm 1 over a fine grid
            each = [
                objective(z[i], s[i], e[i], x * np.eye(3)[t])
                for t in range(3)
                for x in np.linspace(0, 2, 201)
            ]
            assert loss[i] <= min(each) + 1e-8
        else:
            t = int(np.argmax(alpha[i]))
            of = lambda x, i=i, t=t: objective(z[i], s[i], e[i, [t]], np.array([x]))
            grid = [of(x) for x in np.linspace(0, 2, 101)]
            assert of(alpha[i, t]) <= min(grid) + 1e-8


def test_projection_is_the_convex_problems_minimum(x64):
    z, s, e = rows(8, V, experts=3)
    alpha, loss = solve(z, s, e, rule="projection", max_weight=1.0, iterations=12)
    for i in range(8):
        d = e[i] - s[i]
        p, q = np.exp(log_softmax(z[i])), np.exp(log_softmax(s[i]))
        c = np.array([(np.exp(log_softmax(x)) - q) @ y for x, y in zip(e[i], d)])

        def dual(x, i=i, d=d, p=p, c=c):
            l = z[i] + x @ d
            value = np.log(np.exp(l - z[i].max()).sum())
            value -= np.log(np.exp(z[i] - z[i].max()).sum()) + x @ (d @ p + c)
            return value, d @ np.exp(log_softmax(l)) - d @ p - c

        found = optimize.minimize(
            dual, np.full(3, 0.5), jac=True, bounds=[(0, 1)] * 3, tol=1e-14
        )
        np.testing.assert_allclose(alpha[i], found.x, atol=1e-5)
        gap = dual(np.asarray(alpha[i]))[1]
        np.testing.assert_allclose(loss[i], gap @ gap, rtol=1e-6, atol=1e-20)


def test_projection_takes_equal_and_useless_experts(x64):
    z, s, e = rows(8, V, experts=3)
    e[:, 1] = e[:, 0]
    options = {"rule": "projection", "max_weight": 1.0, "iterations": 12}
    alpha = np.asarray(solve(z, s, e, **options).alpha)
    np.testing.assert_allclose(alpha[:, 0], alpha[:, 1], atol=1e-6)
    e[:] = s[:, None]
    assert np.isfinite(solve(z, s, e, **options).alpha).all()


def test_projection_bears_laws_of_one_or_two_tokens():
    z, s, *e = 15 * np.random.default_rng(0).normal(size=(6, 400, V)).astype("f4")
    experts = s[:, None] + np.stack(e, axis=1)
    alpha, loss = solve(z, s, experts, rule="projection", iterations=12)
    assert np.isfinite(loss).all()
    assert ((alpha >= 0) & (alpha <= 2)).all()


# ------------------------------------------------------------------ the literal grid


def test_the_literal_grid(x64):
    z, s, e = rows(6, 70, experts=2)
    alpha, loss = jax.jit(grid_weights)(z, s, e)
    for i in range(6):
        tried = {
            (t, x): objective(z[i], s[i], e[i], x * np.eye(2)[t])
            for t in range(2)
            for x in np.linspace(0, 2, 21)
        }
        t, x = min(tried, key=tried.__getitem__)
        np.testing.assert_allclose(alpha[i], x * np.eye(2)[t], atol=1e-12)
        np.testing.assert_allclose(loss[i], tried[t, x], rtol=1e-9)


# ------------------------------------------------------------------ impossible outcomes


def test_impossible_outcomes_are_taken_away_everywhere():
    short = z, s, e = rows(N, V)
    wide = [np.pad(x, [(0, 0)] * (x.ndim - 1) + [(0, 3)]) for x in short]
    found = []
    for missing in ((0, 1, 2), (0,), (1,), (2,), (1, 2)):
        padded = [np.float32(x) for x in wide]
        for which in missing:
            padded[which][..., V:] = -np.inf if which else np.finfo(np.float32).min
        found.append(solve(*padded))
        fused = compiled_fuse(*padded, found[-1].alpha)
        assert not np.isnan(fused).any()
    where = np.broadcast_to(np.arange(V + 3) < V, (N, V + 3))
    short = [np.float32(x) for x in (wide[0], s, e)]
    found.append(solve(*short, where=where, pad_vocab=True))
    for alpha, loss in found:
        np.testing.assert_allclose(alpha, found[0].alpha, rtol=1e-3, atol=1e-4)
        for i in range(0, N, 20):
            want = objective(z[i], s[i], e[i], np.asarray(alpha[i]))
            np.testing.assert_allclose(loss[i], want, rtol=1e-3, atol=1e-5)


def test_fusing_impossible_outcomes():
    inf = np.inf
    z = jnp.array([-inf, 1.0, 2.0, 3.0, 4.0])
    s = jnp.array([0.0, 0.0, -inf, 0.0, -inf])
    e = jnp.array([[1.0, 1.0, 1.0, -inf, -inf]])
    assert fuse(z, s, e, 0.5).tolist() == [-inf, 1.5, 2.0, -inf, 4.0]
    assert fuse(z, s, e, 0.0).tolist() == [-inf, 1.0, 2.0, 3.0, 4.0]
    grown = fuse(z, s[:2], e[:, :2], 0.5, pad_vocab=True)
    assert grown.tolist() == [-inf, 1.5, 2.0, 3.0, 4.0]


@pytest.mark.parametrize("rule", ["dynamic", "kl_ball", "projection"])
def test_extreme_rows_stay_finite(rule):
    v = 8
    nothing = np.full(v, -np.inf)
    sure = np.where(np.arange(v) == 2, 0, -1e4)
    huge = 3e38 * np.cos(np.arange(v))
    pairs = [(nothing, sure), (sure, sure[::-1]), (huge, -huge), (sure, nothing)]
    cases = [(z, s, e) for z, e in pairs for s in (nothing, sure, huge, np.zeros(v))]
    z, s, e = (np.float32(np.stack(x)) for x in zip(*cases))
    alpha, loss = solve(z, s, e[:, None], rule=rule)
    alpha = np.asarray(alpha)
    assert ((alpha >= 0) & (alpha <= 2)).all(), alpha
    assert not np.isnan(loss).any()


# ------------------------------------------------------------------ transformations


def test_vmap_and_batch_agree_and_compile_once():
    z, s, e = (np.float32(x) for x in rows(N, V))

    @jax.jit
    @functools.partial(chex.assert_max_traces, n=1)
    def mapped(z, s, e):
        return jax.vmap(solve_weights)(z, s, e).alpha

    for shift in (0.0, 3.0):
        batch = solve(z + np.float32(shift), s, e).alpha
        np.testing.assert_allclose(mapped(z, s, e), batch, atol=1e-4)


def test_half_precision_is_raised_and_no_gradient_passes():
    z, s, e = (jnp.asarray(x, jnp.bfloat16) for x in rows(3, 50))

    def of(z):
        alpha = solve_weights(z, s, e).alpha
        return alpha.sum(), alpha

    (_, alpha), slope = jax.jit(jax.value_and_grad(of, has_aux=True))(z)
    assert alpha.dtype == jnp.float32 and (slope == 0).all()


@pytest.mark.inspected
def test_memory_is_that_of_a_few_rows():
    z, e = (jax.ShapeDtypeStruct(x, jnp.float32) for x in ((64, 4096), (64, 1, 4096)))
    program = solve.lower(z, z, e).compile()
    assert program.memory_analysis().temp_size_in_bytes < 40 * 4 * 4096


# ------------------------------------------------------------------ settings and errors


def test_settings_of_the_literature():
    z, s, e = (np.float32(x) for x in rows(4, 30))
    three = (z, s, e[:, 0])

    @jax.jit
    def found():
        names = ("proxy_tuning", "dexperts")
        small = np.concatenate([s[:, None], e, e], axis=1)  # one entry, three models
        return (
            *(preset(name)(three) for name in names),
            preset("contrastive")((z, s)),
            PRESETS["dynamic"]((z, small)),
        )

    (proxy, info), (experts, _), (contrast, _), (several, picked) = found()
    close = functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-5)
    close(proxy, z + (e[:, 0] - s))
    assert info["alpha"].tolist() == [[1.0]] * 4
    close(experts, z + 2 * (e[:, 0] - s))
    p, contrast = np.exp(log_softmax(z)), np.asarray(contrast)
    plausible = p >= 0.1 * p.max(axis=-1, keepdims=True)
    assert (np.isfinite(contrast) == plausible).all()
    close(contrast[plausible], (1.5 * z - 0.5 * s)[plausible])
    alpha = np.asarray(picked["alpha"])  # axis, by itself, and the first of equals
    assert alpha.shape == (4, 2) and (alpha[:, 0] > 0).all() and not alpha[:, 1].any()
    close(several, z + alpha[:, :1] * (e[:, 0] - s))


@pytest.mark.parametrize(
    "change, words",
    [
        ({"rule": "dinamic"}, "rule: expected one of dynamic, kl_ball"),
        ({"init": "grid"}, "init: expected one of analytic, scan"),
        ({"rule": "axis", "target": "all"}, "target: expected one of mean, own"),
        ({"iterations": 0}, "iterations must be at least 1"),
        ({"max_weight": 0.0}, "max_weight: expected > 0"),
        ({"max_weight": (1.0, 2.0)}, r"max_weight: expected one number or one per"),
        ({"where": np.ones((1, 2, 9), bool)}, "where: expected the rank"),
    ],
)
def test_bad_options(change, words):
    z = jnp.zeros((2, 9))
    with pytest.raises(ValueError, match=words):
        where = change.pop("where", None)
        solve_weights(z, z, z[:, None], Fusion(**change), where=where)


def test_bad_logits():
    z = jnp.zeros((2, 9))
    with pytest.raises(
        ValueError, match=r"one expert is expert_logits\[..., None, :\]"
    ):
        solve_weights(z, z, z)
    with pytest.raises(ValueError, match=r"vocabularies differ \(9, 9, 8 entries\)"):
        solve_weights(z, z, z[:, None, :8])
    with pytest.raises(ValueError, match=r"base_logits: expected \(2, 9\)"):
        solve_weights(z, z[0], z[:, None])
    with pytest.raises(ValueError, match='Use rule="axis"'):
        solve_weights(z, z, jnp.zeros((2, 3, 9)), Fusion(rule="dynamic"))
    with pytest.raises(ValueError, match=r"alpha: shape \(3,\) does not broadcast"):
        fuse(z, z, z[:, None], jnp.ones(3))
    with pytest.raises(ValueError, match="got 1 array"):
        Fusion()((z,))
    with pytest.raises(ValueError, match=r"vocabularies differ \(9, 9, 9, 8"):
        Fusion()((z, z, z, z[:, :8]))
    with pytest.raises(ValueError, match="'proxy' is not known; known: dynamic"):
        preset("proxy")
    with pytest.raises(ValueError, match="plausibility: expected in"):
        Fusion(plausibility=0.0)
