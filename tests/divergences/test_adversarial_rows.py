"""Value and gradients are right to 1e-5 in rows that are made to be hard."""

import adversarial
import closed_forms
import jax
import numpy as np
import pytest
from references import FORMS

import kljax.divergences as kd
from kljax.kernels.logits.summed import summed_state

pytestmark = pytest.mark.optimized

# A sum over the row, two, terms of a mixture, a kink, a heavy tail.
KINDS = "forward_kl", "jeffreys", "jensen_shannon", "total_variation", "neyman_chi2"
SIZES = {50: 60_000, 300: 30_000, 1000: 9_000, 4096: 900, 32768: 90, 152_000: 10}
"""Rows by number of outcomes."""


def worst(names, rng, rows, width):
    """Rows looked at, and the largest error in units of the bar, by name."""
    blocks = -(-rows * width // 2**21)
    block = -(-rows // blocks)
    looked, largest = {}, {}
    for _ in range(blocks):
        sides = adversarial.rows(rng, block, width)
        for name, errors in adversarial.misses(names, *sides).items():
            seen = errors[~np.isnan(errors[:, 0])]
            looked[name] = looked.get(name, 0) + len(seen)
            largest[name] = max(largest.get(name, 0), seen.max(initial=0))
    return looked, largest


def test_some_thousand_rows():
    looked, largest = worst(KINDS, np.random.default_rng(0), 3_000, 300)
    assert min(looked.values()) > 2_000
    assert max(largest.values()) <= 1, largest


def unbalanced(names, p, q):
    """Σ gradient / Σ |gradient| of all rows and both sides, by name.

    In hard rows a gradient may be all but 0 where its terms are not: as for its error,
    they are added to the size there.
    """
    results = jax.device_get(adversarial.found(names, p, q))
    found = {}
    for name in names:
        value, *_, terms = closed_forms.value_and_gradients(FORMS[name], p, q)
        kept = (value >= adversarial.SMALLEST) & (value < 1e30)
        noise = np.maximum(terms * np.minimum(value, 1), value)
        gradients = [np.float64(x)[kept] for x in results[name][1:]]
        sums = [x.sum(-1) / (np.abs(x).sum(-1) + noise[kept]) for x in gradients]
        found[name] = np.stack(sums)
    return found


def gaussian(rng, rows, width):
    """Pairs of rows whose difference is from 1e-3 to 1."""
    p = 2 * rng.normal(size=(rows, width))
    size = rng.choice([1, 0.1, 1e-2, 1e-3], size=(rows, 1))
    return np.float32(p), np.float32(p + size * rng.normal(size=(rows, width)))


def check_rounding(names, sides):
    for name, sums in unbalanced(names, *sides).items():
        assert np.sqrt((sums**2).mean(-1)).max() <= 1e-7, name
        # What is not rounding, as an exponential's own error, has one sign.
        assert np.abs(sums.mean(-1)).max() <= 2e-8, name


def test_gradients_add_up_to_nothing():
    rng = np.random.default_rng(3)
    check_rounding(KINDS, gaussian(rng, 3_000, 300))  # one program with the rows above
    check_rounding(KINDS, adversarial.rows(rng, 3_000, 300))


_LONG_ROWS = "rounding of 33,000 terms: 2.2e-7, root mean square, in adversarial rows"


@pytest.mark.slow
@pytest.mark.parametrize(
    "rows,width",
    [
        (600, 300),
        pytest.param(
            80, 33_000, marks=pytest.mark.xfail(reason=_LONG_ROWS, strict=True)
        ),
    ],
)
def test_gradients_of_all_add_up_to_nothing(rows, width):
    """Below the size up to which gradients are kept, and above."""
    rng = np.random.default_rng(width)
    check_rounding(kd.names(), gaussian(rng, rows, width))
    check_rounding(kd.names(), adversarial.rows(rng, rows, width))


@pytest.mark.slow
def test_sums_of_long_rows_lean_to_neither_side():
    rng = np.random.default_rng(4)
    for sides in gaussian(rng, 80, 33_000), adversarial.rows(rng, 80, 33_000):
        for name, sums in unbalanced(kd.names(), *sides).items():
            assert np.abs(sums.mean(-1)).max() <= 1e-7, name


def test_a_nearly_flat_row_whose_mode_stands_out():
    # The first that was found: the reference is what all other outcomes are not.
    rng = np.random.default_rng(1)
    p, q = np.float32(1e-2 * rng.normal(size=(2, 16, 32768)))
    p[:8, 5] += 2
    q[8:, 5] += 2
    for errors in adversarial.misses(("forward_kl", "reverse_kl"), p, q).values():
        assert errors.max() <= 1


@pytest.mark.parametrize("name", ["forward_kl", "reverse_kl", "jeffreys"])
def test_the_form_that_accelerators_use(name):
    rng = np.random.default_rng(2)
    state = jax.jit(lambda *rows: summed_state(kd.get(name), None, rows).value)
    for n, width in ((2_000, 300), (30, 32768)):
        p, q = adversarial.rows(rng, n, width)
        want, *_ = closed_forms.value_and_gradients(FORMS[name], p, q)
        kept = (want >= adversarial.SMALLEST) & (want < 1e30)
        assert kept.sum() > 0.6 * n
        found = np.float64(state(p, q, None, None))[:, 0]
        error = np.abs(found[kept] / want[kept] - 1)
        assert error.max() <= adversarial.BAR


@pytest.mark.parametrize("name", ["forward_kl", "jensen_shannon", "total_variation"])
def test_nothing_of_a_cpu_is_in_an_accelerators_program(name):
    def loss(p, q):
        return kd.divergence(p, q, name).sum()

    rows = (jax.ShapeDtypeStruct((512, 32768), np.float32),) * 2
    traced = jax.jit(jax.value_and_grad(loss, argnums=1)).trace(*rows)

    def program(platform):
        return traced.lower(lowering_platforms=(platform,)).as_text()

    own = "bitcast_convert", "dynamic_slice"
    assert all(x in program("cpu") for x in own)
    assert not any(x in program("cuda") for x in own)


@pytest.mark.slow
@pytest.mark.parametrize("width", SIZES)
def test_a_hundred_thousand_rows(width):
    looked, largest = worst(
        kd.names(), np.random.default_rng(width), SIZES[width], width
    )
    assert min(looked.values()) > 0.6 * SIZES[width]
    assert max(largest.values()) <= 1, largest
