"""The denoiser that fits the images, and the one that was asked for."""

import jax
import pytest
from flax import nnx

from kljax.models.mlp import MLPDenoiser
from kljax.models.vision.denoisers import DENOISERS, DenoiserConfig
from kljax.models.vision.dit import DiT
from kljax.models.vision.unet import UNet

SMALL, LARGE = (8, 8, 1), (28, 28, 1)
KINDS = {"mlp": MLPDenoiser, "pca": MLPDenoiser, "unet": UNet, "dit": DiT}


def test_what_fits_depends_on_size_and_machine(monkeypatch):
    auto = DenoiserConfig()
    assert auto.chosen(SMALL) == "mlp" and auto.chosen((9, 9, 3)) == "mlp"
    monkeypatch.setattr(jax, "default_backend", lambda: "cpu")
    assert auto.chosen(LARGE) == "pca"
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert auto.chosen(LARGE) == "unet"
    assert DenoiserConfig(kind="dit").chosen(SMALL) == "dit"


def test_sizes_are_filled_in_and_kept_where_given():
    assert DenoiserConfig().fitted(SMALL, 64).width == 256
    assert DenoiserConfig().fitted((9, 9, 3), 243).width == 512
    one = DenoiserConfig(kind="unet", width=16).fitted(LARGE, 784)
    assert (one.width, one.depth) == (16, 2)


@pytest.mark.parametrize("kind", DENOISERS)
def test_every_kind_is_built(kind):
    config = DenoiserConfig(kind=kind, width=32, depth=1, multipliers=(1, 1))
    built = nnx.eval_shape(lambda: config.build(SMALL, 3, 64, rngs=nnx.Rngs(0)))
    assert type(built) is KINDS[kind] and built.feature_shapes
