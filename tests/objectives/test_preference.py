"""Preferences: f-DPO against printed derivatives, DPO, KTO for pairs."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kljax.generators import names
from kljax.objectives.preference import kto_pair_loss, preference_loss

RNG = np.random.default_rng(0)
Q, P = RNG.normal(size=(2, 5, 2)) - 3
BETA = 0.4
# f'(r) of f-DPO's table, r = q/p, up to a constant.
SLOPES = {
    "reverse_kl": np.log,
    "forward_kl": lambda r: -1 / r,
    "jensen_shannon": lambda r: 0.5 * np.log(2 * r / (1 + r)),
    "jeffreys": lambda r: np.log(r) - 1 / r,
    "squared_hellinger": lambda r: -0.5 * r**-0.5,
    "alpha": lambda r: -(r**-0.5) / 0.5,
}
FINITE = {"skew_forward_kl", "total_variation", "neyman_chi2", "le_cam"}
FINITE |= {"softened_reverse_kl"}


@jax.jit
def of(q, p, where):
    found = {}
    for name in [*SLOPES, "kto"]:

        def total(q, name=name):
            if name == "kto":
                losses, metrics = kto_pair_loss(q, p, beta=BETA, where=where)
            else:
                losses, metrics = preference_loss(q, p, name, beta=BETA)
            return jnp.where(where, losses, 0).sum(), (losses, metrics)

        slope, rest = jax.grad(total, has_aux=True)(q)
        found[name] = *rest, slope
    return found


EVERY = np.ones(5, bool)


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def test_losses_and_slopes_in_closed_form(x64):
    found = of(Q, P, EVERY)
    ratio = np.exp(Q - P)
    for name, slope in SLOPES.items():
        losses, metrics, moved = found[name]
        first, second = slope(ratio).T
        margin = BETA * (first - second)
        np.testing.assert_allclose(losses, -np.log(sigmoid(margin)), rtol=1e-9)
        np.testing.assert_allclose(metrics["preference/margin"], margin, rtol=1e-9)
        assert (metrics["preference/accuracy"] == (margin > 0)).all()
        near = (slope(ratio * np.exp(1e-6)) - slope(ratio * np.exp(-1e-6))) / 2e-6
        want = -BETA * sigmoid(-margin)[:, None] * near * [1, -1]
        np.testing.assert_allclose(moved, want, rtol=1e-7)
    gains = Q - P
    z = np.maximum(gains.mean(0), 0)
    first, second = (sigmoid(BETA * x) for x in (gains - z[::-1]).T * [[1], [-1]])
    losses, metrics, moved = found["kto"]
    np.testing.assert_allclose(losses, 1 - (first + second) / 2, rtol=1e-12)
    slopes = [-first * (1 - first), second * (1 - second)]
    np.testing.assert_allclose(moved, BETA / 2 * np.stack(slopes, 1), rtol=1e-12)
    np.testing.assert_allclose(
        metrics["preference/margin"], BETA * (gains @ [1, -1]), rtol=1e-12
    )


def test_the_reference_enters_and_what_does_not_count_does_not(x64):
    mine, others = of(Q, P, EVERY), of(Q, P[::-1], EVERY)
    for name, (_, _, slope) in mine.items():
        change = np.linalg.norm(others[name][2] - slope) / np.linalg.norm(slope)
        assert change > 0.1, name
    kept = np.array([True, True, False, True, False])
    spoiled = np.where(kept[:, None], Q, np.nan)
    assert (
        of(spoiled, P, kept)["kto"][0][kept] == of(Q, P, kept)["kto"][0][kept]
    ).all()


def test_labels_that_may_be_wrong():
    plain, _ = preference_loss(Q, P)
    swapped, _ = preference_loss(Q[:, ::-1], P[:, ::-1])
    found, _ = preference_loss(Q, P, label_smoothing=0.1)
    np.testing.assert_allclose(found, 0.9 * plain + 0.1 * swapped, rtol=1e-5)
    far, _ = preference_loss(Q * 1e4, P, beta=1.0)
    assert np.isfinite(far).all()


def test_a_slope_that_is_finite_without_mass_is_refused():
    for name in names():
        if name in FINITE:
            with pytest.raises(ValueError, match="finite slope"):
                preference_loss(Q, P, name)
        else:
            preference_loss(Q, P, name)
    with pytest.raises(ValueError, match="finite slope"):
        preference_loss(Q, P, "alpha", alpha=-1.0)
    with pytest.raises(ValueError, match=r"must be \[\*b, 2\]"):
        preference_loss(Q[:, :1], P[:, :1])
    with pytest.raises(ValueError, match=r"where has shape \(2,\)"):
        kto_pair_loss(Q, P, where=jnp.ones(2, bool))
