"""MLP, U-Net and DiT: one interface, one set of checks."""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from kljax.models import embedding
from kljax.models.functional import functional, parameter_count, pure
from kljax.models.mlp import MLPDenoiser
from kljax.models.vision.dit import DiT
from kljax.models.vision.unet import UNet

CLASSES = 3
# Initial values by the cheap generator: its programs compile in half the time.
KEY = jax.random.key(0, impl="unsafe_rbg")
# The U-Net's size is one that its levels do not divide, the DiT's one that its patch
# does not divide: both pad and crop.
CASES = {
    "mlp": (
        lambda rngs: MLPDenoiser(18, CLASSES, width=16, depth=2, rngs=rngs),
        (3, 3, 2),
        ((16,), (16,)),
    ),
    "unet": (
        lambda rngs: UNet(9, 2, CLASSES, width=8, blocks=1, attention=(5,), rngs=rngs),
        (9, 9, 2),
        ((10, 10, 8), (5, 5, 16)),
    ),
    "dit": (
        lambda rngs: DiT(9, 2, CLASSES, width=16, depth=2, heads=2, rngs=rngs),
        (9, 9, 2),
        ((5, 5, 16), (5, 5, 16)),
    ),
}


class Trained(NamedTuple):
    apply: Callable
    output: Callable
    losses: list[float]
    zero_loss: float
    first_gradient: dict


@functools.cache
def trained(name: str) -> Trained:
    """The model after 40 Adam steps on one batch: one compilation serves all tests."""
    build, event, _ = CASES[name]
    apply, params = functional(build, KEY)
    rng = np.random.default_rng(0)
    x, target = np.float32(rng.normal(size=(2, 4, *event)))
    optimizer = optax.adam(1e-2)

    @jax.jit
    def step(params, opt_state, label, ids):
        def loss(params):
            out, features = apply(params, x, label, ids, features=True)
            return jnp.mean((out - target) ** 2), (out, features)

        (value, seen), gradient = jax.value_and_grad(loss, has_aux=True)(params)
        updates, opt_state = optimizer.update(gradient, opt_state, params)
        return value, seen, gradient, optax.apply_updates(params, updates), opt_state

    opt_state, losses = jax.jit(optimizer.init)(params), []
    label, ids, first = np.linspace(-1, 1, 4, dtype=np.float32), np.arange(4), {}
    for _ in range(40):
        value, _, gradient, params, opt_state = step(params, opt_state, label, ids)
        first = first or gradient
        losses.append(float(value))

    def output(label, ids):
        return step(params, opt_state, label, ids)[1]

    return Trained(apply, output, losses, float(np.mean(target**2)), first)


@pytest.mark.parametrize("name", CASES)
def test_shapes_features_and_conditions(name):
    """Output like x, features as announced; class and noise level matter."""
    build, event, shapes = CASES[name]
    net = trained(name)
    label, null = np.linspace(-1, 1, 4, dtype=np.float32), np.full(4, CLASSES)
    out, features = net.output(label, null)
    assert out.shape == (4, *event)
    assert tuple(f.shape[1:] for f in features) == shapes
    announced = []
    jax.eval_shape(lambda: announced.append(build(nnx.Rngs(0)).feature_shapes))
    assert announced == [shapes]
    out = np.asarray(out)
    other, _ = net.output(label, np.zeros(4, int))
    assert np.abs(other - out).max() > 1e-3, "the class changes nothing"
    moved, _ = net.output(label + np.float32(0.5), null)
    assert np.abs(moved - out).max() > 1e-3, "the noise level does nothing"


def test_null_class():
    """No class is the last id of the table, with a row of its own."""
    apply, params = functional(
        lambda rngs: embedding.ConditionEmbedding(8, CLASSES, rngs=rngs), KEY
    )
    label = np.linspace(-1, 1, 4, dtype=np.float32)
    run = jax.jit(apply)
    null = np.asarray(run(params, label, None))
    np.testing.assert_array_equal(null, run(params, label, np.full(4, CLASSES)))
    classes = run(params, label, np.arange(4))
    gap = np.abs(null - classes).max(axis=1)
    assert (gap[:CLASSES] > 1e-3).all()
    assert gap[CLASSES] == 0


@pytest.mark.parametrize("name", CASES)
def test_overfits_one_batch(name):
    """40 steps take most of the loss away; the first gradient is finite.

    The first loss is that of the output 0: the last layer starts at zero.
    """
    net = trained(name)
    assert net.losses[0] == pytest.approx(net.zero_loss, rel=1e-5)
    assert all(np.isfinite(g).all() for g in jax.tree.leaves(net.first_gradient))
    assert net.losses[-1] < 0.3 * net.losses[0]


def test_stacked_seeds():
    """`vmap` over keys and over parameters equals the loop."""
    build, event, _ = CASES["mlp"]
    apply, initial = pure(build)
    stacked = jax.tree.map(
        np.asarray, jax.jit(jax.vmap(initial))(jax.random.split(KEY, 3))
    )
    last = np.random.default_rng(0).normal(size=(3, 16, 18))
    stacked["dense_out"]["kernel"] = np.float32(last)
    x, label = np.ones((2, *event), np.float32), np.zeros(2, np.float32)
    run = jax.jit(lambda p: apply(p, x, label))
    together = np.asarray(jax.jit(jax.vmap(run))(stacked))
    for i in range(3):
        one = run(jax.tree.map(lambda leaf, i=i: leaf[i], stacked))
        np.testing.assert_allclose(together[i], one, atol=1e-5)
    assert np.abs(together[0] - together[1]).max() > 1e-3
    assert parameter_count(stacked) == 3 * parameter_count(initial(KEY))


def test_unet_levels_for_every_size():
    """Default levels leave 4 to 8 pixels at the bottom, and enough at the top."""
    for size in (8, 15, 28, 33, 64):
        found = []

        def trace(size=size, found=found):
            model = UNet(size, 1, width=4, blocks=1, rngs=nnx.Rngs(0))
            found.append(model.resolutions)
            return model(jnp.ones((1, size, size, 1)), jnp.zeros(1))

        assert jax.eval_shape(trace).shape == (1, size, size, 1)
        assert found[0][0] >= size
        assert 4 <= found[0][-1] <= 8


def test_sinusoidal_against_numpy():
    """Frequencies are geometric from low to high, sines before cosines."""
    label = np.array([-1.5, 0.0, 0.7])
    f = 100.0 ** (np.arange(4) / 3)
    angles = label[:, None] * f
    reference = np.concatenate([np.sin(angles), np.cos(angles)], axis=1)
    out = embedding.sinusoidal(jnp.asarray(label, jnp.float32), 8)
    np.testing.assert_allclose(out, reference, atol=2e-5)


BAD = {
    "size is 7": lambda: UNet(7, 1, rngs=nnx.Rngs(0)),
    "size is 65": lambda: DiT(65, 3, rngs=nnx.Rngs(0)),
    "channels must be at least 1, got 0": lambda: UNet(8, 0, rngs=nnx.Rngs(0)),
    "patch must be at most 4, got 6": lambda: DiT(8, 1, patch=6, rngs=nnx.Rngs(0)),
    "width is 30": lambda: DiT(8, 1, width=30, rngs=nnx.Rngs(0)),
    "multipliers has 5 levels": lambda: UNet(
        8, 1, multipliers=(1, 1, 1, 1, 1), rngs=nnx.Rngs(0)
    ),
    "depth must be at least 1, got 0": lambda: MLPDenoiser(
        4, depth=0, rngs=nnx.Rngs(0)
    ),
    "num_classes must be at least 0, got -1": lambda: MLPDenoiser(
        4, -1, width=2, rngs=nnx.Rngs(0)
    ),
    "size is 3; it must be even": lambda: embedding.sinusoidal(jnp.zeros(2), 3),
    "label has shape": lambda: embedding.sinusoidal(jnp.zeros((2, 2)), 4),
}


@pytest.mark.parametrize("message", BAD)
def test_bad_sizes(message):
    """What is wrong is named, with its value."""
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(lambda: (BAD[message](), None)[1])


def test_bad_calls():
    """A wrong input shape and wrong class ids are refused at trace time."""
    for name, (_, event, _) in CASES.items():
        net = trained(name)
        params = net.first_gradient  # of the same structure
        with pytest.raises(ValueError, match="was built for"):
            jax.eval_shape(net.apply, params, jnp.ones((2, 7, 7, 1)), jnp.ones(2))
        x = jnp.ones((2, *event))
        with pytest.raises(ValueError, match="class_ids has shape"):
            jax.eval_shape(net.apply, params, x, jnp.ones(2), jnp.zeros(3, int))
        with pytest.raises(ValueError, match="dtype float32"):
            jax.eval_shape(net.apply, params, x, jnp.ones(2), jnp.zeros(2))
