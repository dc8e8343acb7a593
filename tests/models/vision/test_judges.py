"""Discriminator heads and the judging classifier."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from scipy import ndimage

from kljax.models.functional import functional
from kljax.models.vision.classifier import ConvClassifier, random_shift
from kljax.models.vision.discriminator import Discriminator

KEY = jax.random.key(0, impl="unsafe_rbg")


def fitted(loss, params, steps, rate):
    """Adam on `loss(params, step)`; returns the parameters and the losses."""
    optimizer = optax.adam(rate)

    @jax.jit
    def step(params, opt_state, i):
        value, gradient = jax.value_and_grad(loss)(params, i)
        updates, opt_state = optimizer.update(gradient, opt_state, params)
        return value, optax.apply_updates(params, updates), opt_state

    opt_state, losses = jax.jit(optimizer.init)(params), []
    for i in range(steps):
        value, params, opt_state = step(params, opt_state, i)
        losses.append(float(value))
    return params, losses


def test_vector_head_learns_the_log_ratio():
    """Trained on N(1, 1) against N(-1, 1), the logit is 2 v of the class's own sign.

    log N(v; m, 1) / N(v; -m, 1) = 2 m v; class 1 has the two laws exchanged, so only
    a head that reads its class can be right.
    """
    apply, params = functional(
        lambda rngs: Discriminator(((8,), (8,)), 2, width=32, rngs=rngs), KEY
    )
    # Features that keep v after a LayerNorm: it stands against a constant pattern.
    pattern = jnp.array([1.0, -1.0, 2.0, -2.0, 0.0, 0.0, 0.0, 0.0])

    def features(v):
        first = pattern.at[4].set(0.0) + v[:, None] * jnp.eye(8)[5]
        return first, -first

    def logit(params, v, ids):
        return apply(params, features(v), jnp.zeros(v.shape), ids).mean(-1)

    def loss(params, i):
        keys = jax.random.split(jax.random.fold_in(KEY, i), 2)
        real, fake = jax.random.normal(keys[0], (2, 256))
        ids = jnp.arange(256) % 2
        sign = 1.0 - 2.0 * ids
        return jnp.mean(
            jax.nn.softplus(-logit(params, real + sign, ids))
            + jax.nn.softplus(logit(params, fake - sign, ids))
        )

    params, _ = fitted(loss, params, 300, 3e-3)
    v = jnp.linspace(-1.5, 1.5, 31)
    for c, sign in ((0, 1.0), (1, -1.0)):
        learned = np.asarray(logit(params, v, jnp.full(31, c)))
        slope = np.polyfit(np.asarray(v), learned, 1)[0]
        assert np.corrcoef(learned, sign * np.asarray(v))[0, 1] > 0.98
        assert abs(slope - 2.0 * sign) < 0.5


def test_map_heads_have_a_logit_each_and_a_gradient():
    """One logit per map; the gradient reaches every map (the GAN term needs it)."""
    shapes = ((7, 7, 8), (4, 4, 16))
    apply, params = functional(
        lambda rngs: Discriminator(shapes, 0, width=16, rngs=rngs), KEY
    )
    maps = tuple(jax.random.normal(KEY, (3, *shape)) for shape in shapes)

    @jax.jit
    def run(maps):
        out, pull = jax.vjp(lambda m: apply(params, m, jnp.zeros(3)), maps)
        return out, pull(jnp.ones_like(out))[0]

    logits, gradient = run(maps)
    assert logits.shape == (3, 2)
    for g in gradient:
        assert np.isfinite(g).all()
        assert np.abs(np.asarray(g)).max() > 0


def test_random_shift_against_scipy():
    """Linear interpolation with repeated borders, one shift per image."""
    images = np.random.default_rng(0).normal(size=(3, 8, 8, 2)).astype(np.float32)
    out = np.asarray(random_shift(KEY, jnp.asarray(images), limit=0.7))
    dy, dx = np.asarray(jax.random.uniform(KEY, (2, 3), minval=-0.7, maxval=0.7))
    for i in range(3):
        for c in range(2):
            reference = ndimage.shift(
                images[i, :, :, c].astype(np.float64),
                (-dy[i], -dx[i]),
                order=1,
                mode="nearest",
            )
            np.testing.assert_allclose(out[i, :, :, c], reference, atol=1e-5)
    still = random_shift(KEY, jnp.asarray(images), limit=0.0)
    np.testing.assert_array_equal(still, images)


def test_classifier_overfits_and_its_features_are_nonnegative():
    """A small batch is learned by heart."""
    apply, params = functional(lambda rngs: ConvClassifier(8, 1, 4, rngs=rngs), KEY)
    images = jax.random.normal(KEY, (16, 8, 8, 1))
    labels = jnp.arange(16) % 4

    def loss(params, i):
        logits, _ = apply(params, images)
        one_hot = jax.nn.one_hot(labels, 4)
        return optax.softmax_cross_entropy(logits, one_hot).mean()

    params, losses = fitted(loss, params, 60, 5e-3)
    logits, features = jax.jit(apply)(params, images)
    assert losses[-1] < 0.1 * losses[0]
    assert (np.asarray(logits).argmax(-1) == np.asarray(labels)).all()
    assert features.shape == (16, 64)
    assert (np.asarray(features) >= 0).all()


def test_classifier_takes_every_size():
    """8 to 64 pixels, gray or colored, always down to 4 to 7 pixels."""

    def trace(size, channels):
        model = ConvClassifier(size, channels, 5, rngs=nnx.Rngs(0))
        side = (model.dense.kernel.shape[0] // model.convs[-1].out_features) ** 0.5
        assert 4 <= side <= 7
        return model(jnp.ones((2, size, size, channels)))

    for size, channels in (
        (8, 1),
        (15, 3),
        (16, 1),
        (31, 1),
        (32, 3),
        (63, 3),
        (64, 3),
    ):
        logits, features = jax.eval_shape(lambda s=size, c=channels: trace(s, c))
        assert logits.shape == (2, 5)
        assert features.shape == (2, 64)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: ConvClassifier(5, 1, 3, rngs=nnx.Rngs(0)), "size is 5"),
        (
            lambda: ConvClassifier(8, 1, 1, rngs=nnx.Rngs(0)),
            "num_classes must be at least 2, got 1",
        ),
        (lambda: Discriminator((), rngs=nnx.Rngs(0)), "feature_shapes is"),
        (lambda: Discriminator(((3,), (2, 2, 3)), rngs=nnx.Rngs(0)), "not mixed"),
        (lambda: random_shift(KEY, jnp.ones((1, 2, 2, 1)), limit=-1.0), "limit is"),
    ],
)
def test_bad_arguments_of_judges(build, message):
    """What is wrong is named, with its value."""
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(lambda: (build(), None)[1])


def test_bad_inputs_of_judges():
    """Wrong shapes are refused at trace time."""

    def classify():
        return ConvClassifier(8, 1, 3, rngs=nnx.Rngs(0))(jnp.ones((2, 9, 9, 1)))

    def discriminate():
        head = Discriminator(((4,),), rngs=nnx.Rngs(0))
        return head((jnp.ones((2, 5)),), jnp.zeros(2))

    for call, message in ((classify, "was built for"), (discriminate, "have shapes")):
        with pytest.raises(ValueError, match=message):
            jax.eval_shape(call)
