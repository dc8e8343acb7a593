"""A small residual network with batch normalization, trained as users train it."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from kljax.models.batch_norm import BatchNorm
from kljax.models.functional import pure
from kljax.training import (
    Loss,
    Player,
    RunFolder,
    data_mesh,
    fit,
    init_state,
    jit_step,
    make_step,
    replicate,
    shard_batch,
    state_digest,
)


class Residual(nnx.Module):
    """Two normalized convolutions beside a skip; the mean over pixels; logits."""

    def __init__(self, *, rngs: nnx.Rngs):
        conv = {"kernel_size": (3, 3), "use_bias": False, "rngs": rngs}
        self.conv_in = nnx.Conv(1, 3, **conv)
        self.convs = nnx.List([nnx.Conv(3, 3, **conv) for _ in range(2)])
        self.norms = nnx.List([BatchNorm(3, rngs=rngs) for _ in range(2)])
        self.head = nnx.Linear(3, 2, rngs=rngs)

    def __call__(self, x, *, train, where=None):
        x = self.conv_in(x)
        y = x
        for conv, norm in zip(self.convs, self.norms):
            y = conv(jax.nn.relu(norm(y, train=train, where=where)))
        return self.head(jnp.mean(x + y, axis=(1, 2)))


KEY = jax.random.key(0)
APPLY, INITIAL = pure(lambda rngs: Residual(rngs=rngs), stateful=True)


def loss(params, *, state, frozen, batch, key):
    logits, model_state = APPLY(
        params,
        state.model_state["net"],
        batch["x"],
        train=True,
        where=batch["weights"] > 0,
    )
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, batch["y"])
    return Loss(losses, model_state=model_state)


PLAYERS = [Player("net", loss, optax.sgd(0.1))]
STEP = make_step(PLAYERS)
COMPILED = jax.jit(STEP)  # without donation: the tests look at old states, too


def state_of(seed=0):
    params, model_state = INITIAL(jax.random.key(seed))
    return init_state(
        jax.random.key(seed), {"net": params}, PLAYERS, model_state={"net": model_state}
    )


def batch_of(n):
    rng = np.random.default_rng(n)
    x = rng.normal(1, 2, (8, 4, 4, 1)).astype(np.float32)
    weights = np.float32([1, 2, 1, 1, 0, 1, 0, 1])
    x[4] = 1e3  # of weight 0
    return {"x": x, "y": rng.integers(0, 2, 8), "weights": weights}


def close(tree, other, **tolerance):
    for a, b in zip(jax.tree.leaves(tree), jax.tree.leaves(other), strict=True):
        if not jnp.issubdtype(a.dtype, jax.dtypes.prng_key):
            np.testing.assert_allclose(a, b, **tolerance)


@pytest.fixture(scope="module")
def trained():
    states, state = [], state_of()
    for n in range(4):
        state, metrics = COMPILED(state, batch_of(n))
        assert metrics["finite"]
        states.append(state)
    return states


def test_the_averages_are_those_of_numpy(trained):
    """The first norm sees the first convolution of what counts."""
    kernel = np.asarray(state_of().params["net"]["conv_in"]["kernel"], np.float64)
    batch = batch_of(0)
    x = np.pad(batch["x"][batch["weights"] > 0], [(0, 0), (1, 1), (1, 1), (0, 0)])
    patches = np.lib.stride_tricks.sliding_window_view(x, (3, 3), axis=(1, 2))
    seen = np.einsum("bhwcij,ijcd->bhwd", patches, kernel).reshape(-1, 3)
    found = trained[0].model_state["net"]["norms"][0]
    np.testing.assert_allclose(found["mean"], 0.1 * seen.mean(0), rtol=1e-5, atol=1e-6)
    variance = 0.9 + 0.1 * seen.var(0, ddof=1)
    np.testing.assert_allclose(found["var"], variance, rtol=1e-5)
    params, moved = trained[-1].params["net"], trained[-1].model_state["net"]
    for new, old in zip(jax.tree.leaves(moved), jax.tree.leaves(INITIAL(KEY)[1])):
        assert (np.asarray(new) != np.asarray(old)).all()
    # Outside of training they are used, and stay.
    one, same = APPLY(params, moved, batch["x"][:1], train=False)
    two, _ = APPLY(params, moved, batch["x"][:2], train=False)
    np.testing.assert_allclose(one[0], two[0], rtol=1e-5)
    close(same, moved, rtol=0)


def test_resumed_bit_for_bit(trained, tmp_path):
    ends = []
    with RunFolder(tmp_path, {}) as run:
        for steps in (2, 4):
            ends.append(fit(COMPILED, state_of(), batch_of, steps=steps, run=run))
    assert state_digest(ends[0]) == state_digest(trained[1])
    assert state_digest(ends[1]) == state_digest(trained[3])


def test_what_has_no_weight_moves_nothing(trained):
    batch = batch_of(0)
    other = batch | {"x": batch["x"].copy()}
    other["x"][[4, 6]] = -7
    close(COMPILED(state_of(), other)[0], trained[0], rtol=1e-6)
    none = batch | {"weights": np.zeros(8, np.float32)}
    same, metrics = COMPILED(trained[0], none)
    close(same.model_state, trained[0].model_state, rtol=0)
    assert metrics["finite"]


def test_four_devices_equal_one(trained):
    mesh = data_mesh(jax.devices()[:4])
    state = replicate(state_of(), mesh)
    for n in range(2):
        state, _ = COMPILED(state, shard_batch(batch_of(n), mesh))
    close(state, trained[1], rtol=1e-5, atol=1e-6)


def test_together_equals_one_by_one(trained):
    pair = jax.tree.map(lambda *leaves: jnp.stack(leaves), state_of(1), state_of(0))
    pair, _ = jit_step(jax.vmap(STEP, in_axes=(0, None)))(pair, batch_of(0))
    close(jax.tree.map(lambda x: x[1], pair), trained[0], rtol=1e-5, atol=1e-6)


def test_finite_watches_the_averages(trained):
    """A loss that is finite, made by averages that are not."""

    def overflowing(w, *, state, frozen, batch, key):
        return Loss(w * batch["x"], model_state=state.model_state["m"] * 1e30)

    player = Player("m", overflowing, optax.sgd(0.1))
    start = {"m": jnp.float32(1e30)}
    state = init_state(KEY, {"m": jnp.ones(())}, [player], model_state=start)
    _, metrics = make_step([player])(state, {"x": np.ones(2, np.float32)})
    assert not metrics["finite"] and np.isfinite(metrics["m/loss"])


def test_layer_against_torch():
    torch = pytest.importorskip("torch")
    theirs = torch.nn.BatchNorm2d(3)
    apply, initial = pure(lambda rngs: BatchNorm(3, rngs=rngs), stateful=True)
    params, model_state = initial(KEY)
    for n in range(2):
        x = np.random.default_rng(n).normal(3, 2, (4, 2, 2, 3)).astype(np.float32)
        ours, model_state = apply(params, model_state, x, train=True)
        expected = theirs(torch.tensor(x).permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        np.testing.assert_allclose(ours, expected.detach(), rtol=1e-4, atol=1e-5)
    for name, value in (("mean", theirs.running_mean), ("var", theirs.running_var)):
        np.testing.assert_allclose(model_state[name], value, rtol=1e-5)


def test_other_variables_are_refused_by_name():
    class Dropping(nnx.Module):
        def __init__(self, rngs):
            self.norm = nnx.BatchNorm(2, rngs=rngs)
            self.drop = nnx.Dropout(0.5, rngs=rngs)

    with pytest.raises(TypeError, match=r"drop\.rngs\.\w+ of kind Rng"):
        pure(Dropping, stateful=True)
    with pytest.raises(TypeError, match=r"mean of kind BatchStat.*stateful=True"):
        pure(lambda rngs: BatchNorm(2, rngs=rngs))
    with pytest.raises(ValueError, match=r"momentum must lie in \[0, 1\), got 1"):
        BatchNorm(2, momentum=1, rngs=nnx.Rngs(0))
