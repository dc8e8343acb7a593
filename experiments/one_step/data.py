"""The images of the f-distill experiment (`f_distill.py`), and their coordinates."""

import dataclasses
import math
import pathlib
from collections.abc import Callable
from typing import Any

import numpy as np

from kljax.data import load
from kljax.errors import DataError
from kljax.typing import Float, Int

Pixels = Float[np.ndarray, "n h w c"]

MOST_COMPONENTS = 256
KEPT = 0.95
CODE_STD = 0.75
"""Spread of the codes: that of 8x8 digits, for which the noise levels were chosen."""
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

    def sample_ids(self, count: int) -> Int[np.ndarray, "n"] | None:
        """Classes of generated images, with the training images' frequencies."""
        if self.train_ids is None:
            return None
        order = np.random.default_rng(0).permutation(len(self.train_ids))
        return np.resize(self.train_ids[order], count)


def load_pictures(data: Any) -> Pictures:
    """Both splits, scaled to [-1, 1]."""
    source = pathlib.Path(data.path) if data.path else data.name
    options: dict[str, Any] = {"root": data.root, "fetch": data.fetch}
    parts = [load(source, split, **options) for split in ("train", "test")]
    train, held_out = parts
    for split, part, least in (("training", train, 64), ("held-out", held_out, 8)):
        if len(part) < least:
            raise DataError(
                f"{data.path or data.name}: {len(part)} {split} images are too few to "
                f"train and judge a generator. Remedy: bring at least {least}"
            )
    if (train.images == train.images[0]).all():
        raise DataError(
            f"{data.path or data.name}: training images are all the same one, there is "
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
    """Coordinates in which the diffusion takes place: pixels or principal components.

    An MLP of a few hundred units cannot pass on the noise of a thousand pixels, which
    it would have to predict in order to remove it, and on a CPU nothing wider is
    affordable. The components hold nearly all of the variance of the images in few
    numbers, and what lies outside of them is not made noisy in the first place.
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
