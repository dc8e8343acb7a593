"""NaN that has no weight changes nothing; NaN that counts is traced to its source."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from kljax.errors import NonFiniteLoss
from kljax.training import Loss, Player, fit, init_state, jit_step, make_step

RNG = np.random.default_rng(0)
X = RNG.normal(size=(6, 2)).astype(np.float32)
Y = RNG.normal(size=6).astype(np.float32)
W = np.array([0.5, -1.0], np.float32)


def loss(w, *, state, frozen, batch, key):
    error = batch["x"] @ w - batch["y"]
    shift = 0 if frozen is None else frozen["shift"]
    metrics = {"size": jnp.abs(error), "noise": jnp.float32(1)}
    return Loss(error**2 + shift + 1 / batch.get("scale", 1), metrics)


PLAYERS = [Player("m", loss, optax.sgd(0.1))]


def start(w=W):
    return init_state(jax.random.key(0), {"m": w}, PLAYERS)


@pytest.mark.parametrize("accumulate", [1, 3])
def test_what_has_no_weight_may_hold_anything(accumulate, x64):
    """1,000 patterns of weights and of NaN, inf and -inf below weight 0, at once."""
    weights = RNG.integers(0, 3, (1000, 6)).astype(float)
    weights[0], weights[1] = 0, 1
    x = RNG.normal(size=(1000, 6, 2))
    y = RNG.normal(size=(1000, 6))
    poison = RNG.choice([np.nan, np.inf, -np.inf, 7.0], size=x.shape)
    idle = weights == 0
    dirty = np.where(idle[..., None], poison, x)
    step = make_step(PLAYERS, accumulate=accumulate)
    state, metrics = jax.jit(jax.vmap(step, in_axes=(None, 0)))(
        start(np.float64(W)),
        {"x": dirty, "y": np.where(idle, np.nan, y), "weights": weights},
    )
    error = x @ W - y
    total = np.maximum(weights.sum(1), 1e-300)
    mean = (weights * (error**2 + 1)).sum(1) / total
    grad = 2 * np.einsum("nb,nb,nbd->nd", weights, error, x) / total[:, None]
    np.testing.assert_allclose(metrics["m/loss"], mean, rtol=1e-10)
    np.testing.assert_allclose(state.params["m"], W - 0.1 * grad, atol=1e-10)
    size = (weights * np.abs(error)).sum(1) / total
    np.testing.assert_allclose(metrics["size"], size, rtol=1e-10)
    assert metrics["finite"].all()


def test_nan_with_weight_shows_in_every_pattern():
    weights = (RNG.random((100, 6)) < 0.5).astype(np.float32)
    bad = RNG.random((100, 6, 2)) < 0.1
    batch = {"x": np.where(bad, np.nan, X), "weights": weights}
    step = jax.vmap(make_step(PLAYERS), in_axes=(None, 0))
    y = np.broadcast_to(Y, (100, 6))
    state, metrics = jax.jit(step)(start(), batch | {"y": y})
    counts = (bad.any(-1) & (weights > 0)).any(-1)
    assert 10 < counts.sum() < 90
    np.testing.assert_array_equal(metrics["finite"], ~counts)
    np.testing.assert_array_equal(np.isnan(metrics["m/loss"]), counts)
    np.testing.assert_array_equal(np.isnan(state.params["m"]).any(-1), counts)


def test_a_derivative_that_is_not_finite_is_the_losses_own():
    """As in every library: 0 · ∞ where an example of weight 0 has no derivative."""

    def root(w, *, batch, **_):
        return Loss(jnp.sqrt(jnp.abs(w * batch["x"])))

    players = [Player("m", root, optax.sgd(0.1))]
    state = init_state(jax.random.key(0), {"m": np.float32(1)}, players)
    batch = {"x": np.float32([1, 0]), "weights": np.float32([1, 0])}
    _, metrics = jit_step(make_step(players))(state, batch)
    assert metrics["m/loss"] == 1 and np.isnan(metrics["m/grad_norm"])


def bad(**fields):
    """A batch whose third step has these fields."""
    plain = {"x": X, "y": Y, "scale": np.linspace(1, 2, 6, dtype=np.float32)}
    return lambda n: plain | (fields if n == 2 else {})


def spoilt(array, value, *rows):
    array = array.copy()
    array[list(rows)] = value
    return array


GENTLE = "ower the learning rate, clip the gradient, or compute in float32"
CASES = {
    "NaN in x": (
        bad(x=spoilt(X, np.nan, 1, 4)),
        None,
        [
            r"batch\['x'\] holds NaN in 2 of 6 examples: mend that, or give",
            "no learning rate helps",
        ],
    ),
    "inf in y": (
        bad(y=spoilt(Y, np.inf, 0)),
        None,
        [r"batch\['y'\] holds inf in 1 of 6 examples"],
    ),
    "only what counts": (
        bad(
            x=spoilt(X, np.nan, 0),
            y=spoilt(Y, np.nan, 1),
            weights=np.float32([0, 1, 1, 1, 1, 1]),
        ),
        None,
        [r"batch\['y'\] holds NaN in 1 of 5 examples: mend"],
    ),
    "bfloat16": (
        bad(x=jnp.asarray(spoilt(X, np.nan, 3), jnp.bfloat16)),
        None,
        [r"batch\['x'\] holds NaN in 1 of 6 examples"],
    ),
    "frozen": (
        bad(),
        {"shift": np.nan},
        [r"step 1, .*frozen\['shift'\] holds NaN: mend that; no l"],
    ),
    "a scale of 0": (
        bad(scale=np.zeros(6, np.float32)),
        None,
        [r"step 3, role m: .*batch\['scale'\] is 0 everywhere: is that meant\?"],
    ),
    "-inf": (
        bad(x=spoilt(X, -np.inf, 5)),
        None,
        [
            r"batch\['x'\] holds -inf, which only a logit may: is that meant\? L"
            + GENTLE
        ],
    ),
}


@pytest.fixture(scope="module")
def step():
    return jit_step(make_step(PLAYERS))


@pytest.mark.parametrize("name", CASES)
def test_the_message_names_what_is_not_finite(name, step):
    batches, frozen, words = CASES[name]
    with pytest.raises(NonFiniteLoss, match="role m: not finite") as caught:
        fit(step, start(), batches, steps=4, frozen=frozen)
    for word in words:
        caught.match(word)
    assert ("learning rate, clip" in str(caught.value)) == (
        name in ("a scale of 0", "-inf")
    )


def test_without_a_bad_field_the_step_and_the_loss_say_what_helps(step):
    huge = start(np.float32([1e30, 1e30]))
    with pytest.raises(
        NonFiniteLoss, match=r"step 1, .*No update was made before: look"
    ):
        fit(step, huge, bad(), steps=2)
    rate = [Player("m", loss, optax.sgd(1e18))]
    with pytest.raises(NonFiniteLoss, match=rf"step [23], .*\. L{GENTLE}"):
        fit(make_step(rate), start(), bad(), steps=9)

    def norm(w, *, batch, **_):
        return Loss(jnp.linalg.norm(w - w) * batch["y"] + 1)

    flat = [Player("m", norm, optax.sgd(0.1))]
    with pytest.raises(NonFiniteLoss, match=rf"loss itself is finite.*l{GENTLE}"):
        fit(make_step(flat), start(), bad(), steps=2)
