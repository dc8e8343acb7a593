"""Residual networks: published sizes, PyTorch's numbers, the augmentation."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from kljax.models.dense import MLP
from kljax.models.functional import functional, parameter_count, pure
from kljax.models.vision.images import random_crop
from kljax.models.vision.resnet import ResNet

KEY = jax.random.key(0)


def built(widths, blocks, channels=3):
    build = functools.partial(ResNet, channels, 10, widths=widths, blocks=blocks)
    return pure(lambda rngs: build(rngs=rngs), stateful=True)


@pytest.mark.parametrize(
    ("widths", "blocks", "count"),
    [
        ((64, 128, 256, 512), (2, 2, 2, 2), 11_173_962),  # ResNet-18 for CIFAR
        ((16, 32, 64), (3, 3, 3), 272_474),  # ResNet-20, with projections
    ],
)
def test_published_numbers_of_weights(widths, blocks, count):
    params, _ = jax.eval_shape(built(widths, blocks)[1], KEY)
    assert parameter_count(params) == count


def test_logits_are_those_of_torch():
    torch = pytest.importorskip("torch")
    apply, initial = built((4, 6), (1, 2), channels=1)
    params, state = initial(KEY)
    x = np.random.default_rng(0).normal(size=(3, 9, 9, 1)).astype(np.float32)
    _, state = apply(params, state, x, train=True)  # statistics that are not 0 and 1
    conv, norm = torch.nn.functional.conv2d, torch.nn.functional.batch_norm
    tensor = lambda x: torch.tensor(np.array(x))

    def layer(x, names, stride=1):
        """A convolution and its norm, by their names in the pytree."""
        parts, stats = params, state
        for name in names[0]:
            parts = parts[name]
        kernel = tensor(parts["kernel"]).permute(3, 2, 0, 1)
        parts = params
        for name in names[1]:
            parts, stats = parts[name], stats[name]
        x = conv(x, kernel, stride=stride, padding=kernel.shape[-1] // 2)
        found = map(
            tensor, (stats["mean"], stats["var"], parts["scale"], parts["bias"])
        )
        return norm(x, *found, eps=1e-5)

    y = layer(tensor(x).permute(0, 3, 1, 2), (("stem",), ("norm",))).relu()
    for i, stride in enumerate((1, 2, 1)):
        at = ("blocks", i)
        inner = layer(y, ((*at, "conv_in"), (*at, "norm_in")), stride).relu()
        inner = layer(inner, ((*at, "conv_out"), (*at, "norm_out")))
        if stride > 1:
            y = layer(y, ((*at, "skip"), (*at, "norm_skip")), stride)
        y = (y + inner).relu()
    head = {name: tensor(value) for name, value in params["head"].items()}
    expected = y.mean((2, 3)) @ head["kernel"] + head["bias"]
    shown = functools.partial(apply, train=False, features=True)
    (found, inside), same = jax.jit(shown)(params, state, x)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
    last = y.permute(0, 2, 3, 1).numpy()
    np.testing.assert_allclose(inside[-1], last, rtol=1e-4, atol=1e-5)
    assert len(inside) == 4
    assert jax.tree.all(jax.tree.map(np.array_equal, same, state))


def test_what_is_wrong_is_named():
    for widths, blocks in (((4, 8), (1,)), ((), ()), ((4,), (0,))):
        with pytest.raises(
            ValueError, match="a width and a number of blocks per stage"
        ):
            ResNet(1, 10, widths=widths, blocks=blocks, rngs=nnx.Rngs(0))
    with pytest.raises(ValueError, match="sizes must be two positive ones at least"):
        MLP((3,), rngs=nnx.Rngs(0))
    with pytest.raises(ValueError, match="margin is -1"):
        random_crop(KEY, jnp.ones((1, 8, 8, 1)), margin=-1)


def test_perceptron_is_that_of_numpy():
    apply, params = functional(lambda rngs: MLP((4, 5, 3), rngs=rngs), KEY)
    x = np.random.default_rng(1).normal(size=(6, 2, 2)).astype(np.float32)
    hidden = x.reshape(6, 4)
    for i, layer in enumerate(params["layers"].values()):
        hidden = hidden @ np.asarray(layer["kernel"]) + np.asarray(layer["bias"])
        if i == 0:
            hidden = inside = np.maximum(hidden, 0)
    out, features = apply(params, x, features=True)
    np.testing.assert_allclose(out, hidden, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(features[0], inside, rtol=1e-5, atol=1e-6)
    assert len(features) == 1 and np.array_equal(out, apply(params, x))


def test_dropout_zeroes_its_share_and_keeps_the_mean():
    apply, params = functional(lambda rngs: MLP((4, 400, 300, 3), rngs=rngs), KEY)
    x = np.random.default_rng(1).normal(size=(8, 4)).astype(np.float32)
    run = jax.jit(functools.partial(apply, features=True))
    _, whole = run(params, x)
    out, dropped = run(params, x, dropout=0.3, key=KEY)
    lost = (np.asarray(dropped[0]) == 0) & (np.asarray(whole[0]) > 0)
    assert abs(lost.sum() / (whole[0] > 0).sum() - 0.3) < 0.05
    kept = np.asarray(dropped[0]) > 0
    np.testing.assert_allclose(dropped[0][kept] * 0.7, whole[0][kept], rtol=1e-5)
    # Every layer has a mask of its own, and a new key a new one.
    assert not np.array_equal(
        out, run(params, x, dropout=0.3, key=jax.random.key(1))[0]
    )
    again = np.asarray(dropped[1]) == 0
    assert 0.3 < again.mean() < 1 and not np.array_equal(again[:, :300], lost[:, :300])
    np.testing.assert_array_equal(
        run(params, x, dropout=0.0, key=KEY)[0], run(params, x)[0]
    )


def test_crops_are_windows_of_the_framed_image_and_half_are_mirrored():
    images = np.random.default_rng(2).uniform(0.1, 1, (400, 6, 6, 2)).astype(np.float32)
    found = np.asarray(jax.jit(functools.partial(random_crop, margin=2))(KEY, images))
    wide = np.pad(images, ((0, 0), (2, 2), (2, 2), (0, 0)))
    seen, turned = set(), 0
    for one, crop in zip(wide, found):
        places = {
            (i, j, back)
            for i in range(5)
            for j in range(5)
            for back in (False, True)
            if np.array_equal(one[i : i + 6, j : j + 6][:, :: -1 if back else 1], crop)
        }
        assert len(places) == 1
        i, j, back = places.pop()
        seen.add((i, j))
        turned += back
    assert len(seen) == 25 and 160 < turned < 240
    same = random_crop(KEY, images, margin=0, mirror=False)
    np.testing.assert_array_equal(same, images)
