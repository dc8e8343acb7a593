"""Images for training: both splits, batches, principal components, mosaics."""

import dataclasses
import math
import os
from collections.abc import Callable
from typing import Any

import numpy as np
from jaxtyping import UInt8

from kljax.data.loading import load
from kljax.errors import DataError
from kljax.typing import Float, Int

__all__ = [
    "Codec",
    "Pictures",
    "first_of_classes",
    "load_pictures",
    "mosaic",
    "shrunk",
]

Pixels = Float[np.ndarray, "n h w c"]

MOST_COMPONENTS = 256
KEPT = 0.95
CODE_STD = 0.75
"""Spread of the codes: that of 8 x 8 digits in [-1, 1]."""
MOST_IMAGES = 2000
"""Images that the components are computed from."""


@dataclasses.dataclass(frozen=True)
class Pictures:
    """The images in [-1, 1] and what is known about them."""

    train: Float[np.ndarray, "n h w c"]
    held_out: Float[np.ndarray, "m h w c"]
    train_ids: Int[np.ndarray, "n"] | None
    held_out_ids: Int[np.ndarray, "m"] | None
    num_classes: int
    levels: int
    manifest: dict[str, Any]

    @property
    def shape(self) -> tuple[int, ...]:
        return self.train.shape[1:]

    def batches(self, size: int, *stream: int) -> Callable[[int], dict[str, Any]]:
        """`batch(n)`, a function of the stream's numbers and n alone."""

        def batch(n: int) -> dict[str, Any]:
            rng = np.random.default_rng([*stream, n])
            rows = rng.integers(len(self.train), size=size)
            out = {"x": self.train[rows]}
            if self.train_ids is not None:
                out["ids"] = self.train_ids[rows]
            return out

        return batch

    def grouped(self, seed: int = 0, groups: int = 10) -> "Pictures":
        """The same with the k-means clusters of the pixels as classes.

        For a judge of images without labels. The clusters are found on at most 5,000
        images; of few images there are fewer of them, 20 images for each.
        """
        from sklearn.cluster import KMeans

        flat = [x.reshape(len(x), -1) for x in (self.train, self.held_out)]
        rows = np.random.default_rng(seed).permutation(len(flat[0]))[:5000]
        k = min(groups, max(2, len(rows) // 20))
        model = KMeans(k, n_init=1, random_state=seed).fit(flat[0][rows])
        train, held_out = (model.predict(x).astype(np.int32) for x in flat)
        ids: Any = {"train_ids": train, "held_out_ids": held_out, "num_classes": k}
        return dataclasses.replace(self, **ids)

    def sample_ids(self, count: int) -> Int[np.ndarray, "n"] | None:
        """Classes of generated images, with the training images' frequencies."""
        if self.train_ids is None:
            return None
        order = np.random.default_rng(0).permutation(len(self.train_ids))
        return np.resize(self.train_ids[order], count)


def load_pictures(
    source: str | os.PathLike,
    *,
    root: str | os.PathLike | None = None,
    fetch: bool = False,
) -> Pictures:
    """Both splits of a data set of images, scaled to [-1, 1].

    Args:
      source, root, fetch: as in `kljax.data.load`.

    Raises:
      DataError: too few images to train and judge a generator, or all of them equal.
    """
    options: dict[str, Any] = {"root": root, "fetch": fetch}
    parts = [load(source, split, **options) for split in ("train", "test")]
    train, held_out = parts
    for split, part, least in (("training", train, 64), ("held-out", held_out, 8)):
        if len(part) < least:
            raise DataError(
                f"{source}: {len(part)} {split} images are too few to "
                f"train and judge a generator. Remedy: bring at least {least}"
            )
    if (train.images == train.images[0]).all():
        raise DataError(
            f"{source}: training images are all the same one, there is "
            "nothing to learn. Remedy: look at how they were written"
        )
    labelled = train.labels is not None and train.num_classes > 0
    return Pictures(
        train=train.scaled(),
        held_out=held_out.scaled(),
        train_ids=train.labels if labelled else None,
        held_out_ids=held_out.labels if labelled else None,
        num_classes=train.num_classes if labelled else 0,
        levels=train.levels,
        manifest=dict(train.manifest),
    )


@dataclasses.dataclass(frozen=True)
class Codec:
    """Coordinates of images: their pixels, or principal components.

    `codes = (x - mean) basis scale`. A network of a few hundred units cannot pass on
    the noise of a thousand pixels, which a diffusion model would have to predict in
    order to remove it. The components hold nearly all of the variance in few numbers,
    and what lies outside of them is not made noisy in the first place.

    Args:
      shape: of an image.
      mean, basis: None for pixels; the basis is orthonormal.
      scale: of the codes.
      kept: share of the variance that the components hold.

    Reference: Pearson 1901; the basis is scikit-learn's `PCA(svd_solver="full")`.
    """

    shape: tuple[int, ...]
    mean: Float[np.ndarray, "d"] | None = None
    basis: Float[np.ndarray, "d k"] | None = None
    scale: float = 1.0
    kept: float = 1.0

    @classmethod
    def components(cls, images: Pixels) -> "Codec":
        """As many components as keep 95 % of the variance, at most 256."""
        rows = np.random.default_rng(0).permutation(len(images))[:MOST_IMAGES]
        flat = images[rows].reshape(len(rows), -1).astype(np.float64)
        mean = flat.mean(axis=0)
        _, values, axes = np.linalg.svd(flat - mean, full_matrices=False)
        share = np.cumsum(values**2) / max(np.sum(values**2), 1e-12)
        k = min(MOST_COMPONENTS, int(np.searchsorted(share, KEPT)) + 1)
        spread = math.sqrt(np.sum(values[:k] ** 2) / (len(rows) * k))
        return cls(
            shape=images.shape[1:],
            mean=mean.astype(np.float32),
            basis=axes[:k].T.astype(np.float32),
            scale=CODE_STD / max(spread, 1e-6),
            kept=float(share[k - 1]),
        )

    @property
    def size(self) -> int:
        """Numbers per image."""
        return math.prod(self.shape) if self.basis is None else self.basis.shape[1]

    def encode(
        self, images: Float[np.ndarray, "n h w c"]
    ) -> Float[np.ndarray, "n ..."]:
        """Images as codes `[n, k]`, or as they are."""
        if self.basis is None:
            return images
        flat = images.reshape(len(images), -1) - self.mean
        return (flat @ self.basis) * np.float32(self.scale)

    def decode(self, codes: Float[np.ndarray, "n ..."]) -> Pixels:
        """Codes as images; whatever has no code is at its mean."""
        if self.basis is None or self.mean is None:
            return codes
        flat = codes @ self.basis.T / np.float32(self.scale) + self.mean
        return flat.reshape(len(codes), *self.shape)


def first_of_classes(
    ids: Int[np.ndarray, "n"] | None, count: int, classes: int, shown: int = 12
) -> Int[np.ndarray, "r k"]:
    """Indices of pictures to look at: the first ones of up to ten classes, a row each.

    Args:
      ids: the classes of `count` pictures; None: the first eight rows of all.
      count: how many there are.
      classes: how many classes there are.
      shown: pictures per row; a class with fewer shows them again.
    """
    if ids is None:
        rows = min(8, count // shown)
        return np.arange(rows * shown).reshape(rows, shown)
    groups = [np.flatnonzero(np.asarray(ids) == c) for c in range(classes)]
    return np.stack([np.resize(g, shown) for g in groups if len(g)][:10])


def mosaic(
    images: UInt8[np.ndarray, "r k h w c"], levels: int = 256
) -> Float[np.ndarray, "y x c"]:
    """Rows of images as one in [0, 1], with a dark line behind each.

    Args:
      images: grey levels in `0 .. levels - 1`.
      levels: how many there are.

    Returns:
      float32 `[r (h + 1), k (w + 1), c]`.

    Example:
      >>> mosaic(np.full((1, 2, 1, 1, 1), 255, np.uint8))[..., 0].tolist()
      [[1.0, 0.0, 1.0, 0.0], [0.0, 0.0, 0.0, 0.0]]
    """
    rows, columns, height, width, channels = images.shape
    framed = np.pad(images, ((0, 0), (0, 0), (0, 1), (0, 1), (0, 0)))
    canvas = framed.transpose(0, 2, 1, 3, 4).reshape(
        rows * (height + 1), columns * (width + 1), channels
    )
    return canvas.astype(np.float32) / (levels - 1)


def shrunk(
    images: UInt8[np.ndarray, "n h w c"], side: int
) -> Float[np.ndarray, "n y x c"]:
    """Square images with as many pixels a side as asked: means of whole blocks.

    The edge that is not a multiple is cut away, evenly, where that costs at most a
    seventh (28 to 24 for 8), else black is put around (28 to 32 for 16).

    Args:
      images: in any units.
      side: at most that of the images.

    Raises:
      ValueError: the images are not square, or smaller.

    Example:
      >>> shrunk(np.arange(16.0).reshape(1, 4, 4, 1), 2)[0, ..., 0].tolist()
      [[2.5, 4.5], [10.5, 12.5]]
    """
    n, size, width, channels = images.shape
    if size != width or side > size:
        raise ValueError(f"images must be square, {side} or larger, got {images.shape}")
    block = size // side
    if size - block * side > size / 7:
        block += 1
    whole = block * side
    if whole <= size:
        first = (size - whole) // 2
        x = images[:, first : first + whole, first : first + whole]
    else:
        ends = (whole - size) // 2, (whole - size + 1) // 2
        x = np.pad(images, ((0, 0), ends, ends, (0, 0)))
    return x.reshape(n, side, block, side, block, channels).mean(axis=(2, 4))
