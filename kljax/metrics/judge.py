"""How generated images are judged by a classifier's features, and the controls."""

from collections.abc import Callable
from typing import Any

import numpy as np
from jaxtyping import UInt8

from kljax.data.batching import in_parts
from kljax.data.dataset import from_unit, to_unit
from kljax.data.images import Codec, Pictures
from kljax.metrics.images import frechet_distance, nearest_distances, precision_recall
from kljax.typing import Float, Int

__all__ = ["FeatureJudge", "class_gaussians", "variance_ratios"]

SPLITS = 5
"""Random splits of the real images whose halves set the floor."""


class FeatureJudge:
    """Scores generated images by a classifier's features and by their pixels.

    Every image, real or generated, is rounded to the data's grey levels first. Fréchet
    distances are in percent of the training images' feature variance.

    Args:
      classify: images `[n, h, w, c]` in [-1, 1] to logits `[n, k]` and features
        `[n, d]`, row by row; it is called with parts of 500.
      pictures: the real ones.
      neighbors: k of precision, recall and coverage.
      at_most: images per side for precision, recall and coverage.
      copies: generated images whose nearest training image is looked up.
    """

    def __init__(
        self,
        classify: Callable[..., tuple[Any, Any]],
        pictures: Pictures,
        *,
        neighbors: int = 3,
        at_most: int = 5000,
        copies: int = 2000,
    ):
        self.classify, self.pictures = classify, pictures
        self.neighbors, self.at_most, self.copies = neighbors, at_most, copies
        self.real = self.features(pictures.train)[0]
        self.unit = 100.0 / max(float(self.real.var(axis=0).sum()), 1e-12)
        rows = np.random.default_rng(0).permutation(len(self.real))
        self.some_real = self.real[rows[:at_most]]
        near, _ = self.nearest(pictures.held_out)
        self.close = float(np.quantile(near, 0.01))

    def features(
        self, images: Float[np.ndarray, "n h w c"]
    ) -> tuple[Float[np.ndarray, "n d"], Int[np.ndarray, "n"]]:
        """Features and predicted classes of images in [-1, 1]."""
        logits, features = in_parts(self.classify, 500, images)
        return features.astype(np.float64), logits.argmax(axis=1)

    def nearest(self, images: Float[np.ndarray, "n h w c"]) -> tuple[Any, Any]:
        """Pixel distances to the two nearest training images."""
        return nearest_distances(images[: self.copies], self.pictures.train)

    def distance(self, real: np.ndarray, fake: np.ndarray) -> float:
        """Fréchet distance of features, in percent of the training variance."""
        return frechet_distance(real, fake) * self.unit

    def score(
        self, images: UInt8[np.ndarray, "n h w c"], ids: Int[np.ndarray, "n"] | None
    ) -> dict[str, float]:
        """All numbers of one row of the table, from rounded images."""
        x = to_unit(images, self.pictures.levels)
        features, predicted = self.features(x)
        count = min(len(features), len(self.some_real))
        spread = precision_recall(
            self.some_real[:count], features[:count], k=self.neighbors
        )
        near, second = self.nearest(x)
        ratios = variance_ratios(self.pictures, x, ids)
        out = {
            "fid": self.distance(self.real, features),
            **spread._asdict(),
            "variance_ratio_min": float(ratios.min()),
            "variance_ratio_mean": float(ratios.mean()),
            # A copy of a doubled training image is at distance 0 from both.
            "copies": float(np.mean((near < second / 3) | (near == 0))),
            "closer_than_held_out": float(np.mean(near < self.close)),
            "nearest_median": float(np.median(near)),
        }
        if ids is not None:
            out["class_agreement"] = float(np.mean(predicted == ids))
        return out

    def halves(self, features: Float[np.ndarray, "n d"], seed: int) -> dict[str, float]:
        """One random half of the real images against the other, of n each."""
        rows = np.random.default_rng(seed).permutation(len(features))
        n = len(features) // 2
        one, two = features[rows[:n]], features[rows[n : 2 * n]]
        most = self.at_most
        spread = precision_recall(one[:most], two[:most], k=self.neighbors)
        return {"fid": self.distance(one, two), **spread._asdict(), "n": float(n)}

    def controls(self, codec: Codec, samples: int) -> dict[str, dict[str, float]]:
        """What real images score against each other, and two bad models.

        "halves" of the real images, "held_out" ones, "decoded" from their codes where
        there are any, "gaussian" (one per class) and "resampled" training images.

        `floor` is the distance that as many fresh real images as there are samples
        would have: that of the halves, carried over by its 1/n + 1/m law.
        """
        pictures = self.pictures
        held_out, _ = self.features(pictures.held_out)
        every = np.concatenate([self.real, held_out])
        splits = [self.halves(every, seed) for seed in range(SPLITS)]
        halves = {k: float(np.mean([row[k] for row in splits])) for k in splits[0]}
        constant = halves["fid"] / (2 / halves["n"])
        floor = constant * (1 / samples + 1 / len(self.real))
        gaussian, ids = class_gaussians(pictures, samples)
        rows = np.random.default_rng(1).integers(len(self.real), size=samples)
        copies = from_unit(pictures.train[rows], pictures.levels)
        copied_ids = None if pictures.train_ids is None else pictures.train_ids[rows]
        near, _ = self.nearest(pictures.held_out)
        decoded = {}
        if codec.basis is not None:
            back = codec.decode(codec.encode(pictures.train))
            shown = to_unit(from_unit(back, pictures.levels), pictures.levels)
            found = self.distance(self.real, self.features(shown)[0])
            decoded["decoded"] = {"fid": found}
        return decoded | {
            "halves": halves | {"floor": floor},
            "held_out": {
                "fid": self.distance(self.real, held_out),
                "nearest_median": float(np.median(near)),
            },
            "gaussian": self.score(gaussian, ids),
            "resampled": self.score(copies, copied_ids),
        }


def _members(
    ids: Int[np.ndarray, "n"] | None, count: int, classes: int
) -> list[Int[np.ndarray, "k"]]:
    """Rows of every class, or all rows as one class."""
    if ids is None:
        return [np.arange(count)]
    return [np.flatnonzero(ids == c) for c in range(classes)]


def variance_ratios(
    pictures: Pictures,
    x: Float[np.ndarray, "n h w c"],
    ids: Int[np.ndarray, "n"] | None,
) -> Float[np.ndarray, "k"]:
    """Pixel variance of the generated images over the real ones', class by class."""
    classes = pictures.num_classes
    real = _members(pictures.train_ids, len(pictures.train), classes)
    fake = _members(None if ids is None else np.asarray(ids), len(x), classes)
    return np.array(
        [
            x[b].var(axis=0).sum() / max(pictures.train[a].var(axis=0).sum(), 1e-12)
            for a, b in zip(real, fake, strict=True)
            if len(a) > 1 and len(b) > 1
        ]
    )


def class_gaussians(
    pictures: Pictures, count: int
) -> tuple[UInt8[np.ndarray, "n h w c"], Int[np.ndarray, "n"] | None]:
    """Samples of one Gaussian per class in pixel space, with the classes' covariances.

    `m + X' w / sqrt(n - 1)` with centered images X and normal w has the covariance of
    the n images without its matrix ever being formed.
    """
    rng = np.random.default_rng(2)
    ids = pictures.sample_ids(count)
    out = np.empty((count, *pictures.shape), np.float32)
    classes = pictures.num_classes
    real = _members(pictures.train_ids, len(pictures.train), classes)
    for a, b in zip(real, _members(ids, count, classes), strict=True):
        if not len(a) or not len(b):
            continue
        # Wide data: more images than this no longer change the covariance's look.
        chosen = pictures.train[rng.permutation(a)[:2000]]
        mean = chosen.mean(axis=0)
        centered = (chosen - mean).reshape(len(chosen), -1)
        weights = rng.normal(size=(len(b), len(chosen))) / np.sqrt(
            max(len(chosen) - 1, 1)
        )
        draws = (weights.astype(np.float32) @ centered).reshape(-1, *pictures.shape)
        out[b] = mean + draws
    return from_unit(out, pictures.levels), ids
