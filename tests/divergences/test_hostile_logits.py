"""Ten thousand rows of finite masks, impossible outcomes and NaN for every distance."""

import closed_forms
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from references import FORMS

import kljax.divergences as kd

F32 = np.float32
STAND_INS = F32([-1e4, -65504, -1e9, -3.3895314e38, np.finfo(F32).min, -np.inf])
N, V = 10_000, 6


def _distances():
    yield from (
        (n, lambda p, q, n=n, **o: kd.divergence(p, q, n, **o))
        for n in kd.names()
        if n in FORMS
    )
    yield "renyi(0.5)", lambda p, q, **o: kd.renyi(p, q, alpha=0.5, **o)
    yield "renyi(2)", lambda p, q, **o: kd.renyi(p, q, alpha=2.0, **o)
    yield "cauchy_schwarz", kd.cauchy_schwarz
    yield "cross_entropy", kd.cross_entropy
    yield "entropy", lambda p, q, **o: kd.entropy(p, **o)


DISTANCES = dict(_distances())
LOGARITHMS = ("renyi(0.5)", "renyi(2)", "cauchy_schwarz")


def cases():
    """Both sides, the mask, and which rows have a NaN that counts."""
    rng = np.random.default_rng(0)
    scale = 10 ** rng.uniform(-2, 0.7, size=(N, 1))
    p = rng.normal(size=(N, V)) * scale
    q = np.where(rng.uniform(size=(N, 1)) < 0.3, p, rng.normal(size=(N, V)) * scale)
    q = q + rng.choice([0, 1e-3, 0.1], size=(N, 1)) * rng.normal(size=(N, V))
    lost = rng.uniform(size=(2, N, V)) < rng.choice([0, 0.2, 0.5], size=(2, N, 1))
    same = rng.uniform(size=N) < 0.3
    lost[1, same] = lost[0, same]
    # The mode of either side is what the other side lacks.
    row, kind = np.arange(N), rng.integers(4, size=N)
    lost[1, row, p.argmax(-1)] |= kind == 0
    lost[0, row, q.argmax(-1)] |= kind == 1
    for side, missing in zip((p, q), lost):
        mixed = rng.choice(STAND_INS, size=(N, V))
        alike = rng.choice(STAND_INS, size=(N, 1))
        fill = np.where(rng.uniform(size=(N, 1)) < 0.5, mixed, alike)
        side[missing] = fill[missing]
    where = rng.uniform(size=(N, V)) >= rng.choice([0, 0.3, 1.0], size=(N, 1))
    wrong = rng.choice([np.nan, np.inf], size=(2, N, V))
    strays = rng.uniform(size=(2, N, V)) < 0.3
    spoils = (rng.uniform(size=(N, 1)) < 0.2) & (rng.uniform(size=(2, N, V)) < 0.2)
    for side, bad, stray, spoil in zip((p, q), wrong, strays, spoils):
        side[:] = np.where((stray & ~where) | (spoil & where), bad, side)
    return F32(p), F32(q), where, (spoils & where).any(-1)


@pytest.fixture(scope="module")
def found():
    p, q, where, spoiled = cases()

    @jax.jit
    def every(p, q, where):
        def one(distance):
            def total(p, q, t):
                return distance(p, q, where=where, temperature=t)

            ones = jnp.ones(N)
            value, pull = jax.vjp(total, p, q, ones)
            return value, *pull(ones)

        return {name: one(distance) for name, distance in DISTANCES.items()}

    return p, q, where, spoiled, jax.device_get(every(p, q, where))


@pytest.mark.parametrize("name", DISTANCES)
def test_every_row_is_right_or_nan(found, name):
    p, q, where, (p_spoiled, q_spoiled), results = found
    value, in_p, in_q, in_temperature = (np.float64(x) for x in results[name])
    spoiled = p_spoiled if name == "entropy" else p_spoiled | q_spoiled
    assert 800 < spoiled.sum() < 5000
    assert np.isnan(value[spoiled]).all() and not np.isnan(value[~spoiled]).any()
    assert np.isnan(in_temperature[spoiled]).all()
    assert not np.isnan(in_temperature[~spoiled & ~(np.abs(value) > 1e37)]).any()
    for side, gradient in ((p, in_p), (q, in_q)):
        assert (gradient[~where] == 0).all()
        if name == "entropy" and side is q:
            continue
        counts = where & np.isfinite(np.where(np.isneginf(side), np.inf, side))
        assert np.isnan(gradient[spoiled][counts[spoiled]]).all()
        assert not np.isnan(gradient[~spoiled]).any()

    sound = ~spoiled
    p, q = (np.where(where, np.float64(x), -np.inf)[sound] for x in (p, q))
    if name == "entropy":
        q = p
    want, want_p, want_q, terms = closed_forms.value_and_gradients(FORMS[name], p, q)
    if name in LOGARITHMS:  # of powers, whose exponents are as large as the value
        terms = np.maximum(terms, want)
    value, in_p, in_q = value[sound], in_p[sound], in_q[sound]
    huge = np.isfinite(want) & (want > 1e37)
    infinite = want == np.inf
    assert (value[infinite] == np.inf).all() and (value[huge] > 1e37).all()
    exact = ~huge & ~infinite
    np.testing.assert_allclose(value[exact], want[exact], rtol=1e-5, atol=2e-9)
    for got, right in ((in_p, want_p), (in_q, want_q)):
        assert (got[infinite] == 0).all()
        size = np.abs(right).max(-1)
        kept = exact & (size < 1e37)
        error = np.abs(got - right).max(-1)[kept]
        noise = 6e-7 * np.maximum(terms, 2)[kept]  # of a difference in float32
        assert (error <= 1e-5 * size[kept] + noise).all()
