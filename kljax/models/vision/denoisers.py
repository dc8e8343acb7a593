"""Denoisers of images by name, and the one that fits where none is named."""

import dataclasses
import math
from typing import Any, Literal

import jax
from flax import nnx

from kljax.models.mlp import MLPDenoiser
from kljax.models.vision.dit import DiT
from kljax.models.vision.unet import UNet

__all__ = ["DENOISERS", "DenoiserConfig"]

DENOISERS = {
    "mlp": "MLP on flattened pixels",
    "pca": "MLP on principal components",
    "unet": "U-Net",
    "dit": "DiT",
}
SIZES = {"mlp": (256, 3), "pca": (256, 3), "unet": (64, 2), "dit": (128, 4)}
"""Width and depth; MLPs of many inputs are twice as wide."""


@dataclasses.dataclass(frozen=True)
class DenoiserConfig:
    """A denoiser; zeros and empty tuples are filled in from the images' size.

    Example:
        >>> DenoiserConfig().fitted((8, 8, 1), 64)
        DenoiserConfig(kind='mlp', width=256, depth=3, multipliers=(), attention=None)
    """

    kind: Literal["auto", "mlp", "pca", "unet", "dit"] = "auto"
    """auto: up to 256 numbers per image an MLP on the flattened pixels, above on a CPU
    an MLP on their principal components, on other machines a U-Net."""
    width: int = 0
    """Units (MLP, DiT) or channels of the first level (U-Net)."""
    depth: int = 0
    """Blocks (MLP, DiT) or blocks per level (U-Net)."""
    multipliers: tuple[int, ...] = ()
    """U-Net: channel multiplier of each level."""
    attention: tuple[int, ...] | None = None
    """U-Net: resolutions with attention; None means those of 16 pixels or less."""

    def chosen(self, shape: tuple[int, ...]) -> str:
        """The kind: the one asked for, or the one that fits images `[h, w, c]`."""
        if self.kind != "auto":
            return self.kind
        if math.prod(shape) <= 256:
            return "mlp"
        return "pca" if jax.default_backend() == "cpu" else "unet"

    def fitted(self, shape: tuple[int, ...], dims: int) -> "DenoiserConfig":
        """With kind, width and depth for images of `dims` numbers each."""
        kind: Any = self.chosen(shape)
        width, depth = SIZES[kind]
        if kind in ("mlp", "pca") and dims > 128:
            width *= 2
        sizes: Any = {"width": self.width or width, "depth": self.depth or depth}
        return dataclasses.replace(self, kind=kind, **sizes)

    def build(
        self, shape: tuple[int, ...], num_classes: int, dims: int, *, rngs: nnx.Rngs
    ) -> MLPDenoiser | UNet | DiT:
        """The network for images `[h, w, c]`, or for their `dims` components (pca)."""
        one = self.fitted(shape, dims)
        size, _, channels = shape
        sizes: Any = {"width": one.width, "rngs": rngs}
        if one.kind == "unet":
            levels: Any = {
                "multipliers": one.multipliers or None,
                "blocks": one.depth,
                "attention": one.attention,
            }
            return UNet(size, channels, num_classes, **levels, **sizes)
        sizes["depth"] = one.depth
        if one.kind == "dit":
            patch = 2 if size <= 16 else 4
            return DiT(size, channels, num_classes, patch=patch, **sizes)
        return MLPDenoiser(dims, num_classes, **sizes)
