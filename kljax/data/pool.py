"""All labelled images of a data set, of which every seed draws its own."""

import dataclasses

import numpy as np

from kljax.arguments import whole
from kljax.data.loading import load
from kljax.errors import DataError
from kljax.typing import Float, Int

__all__ = ["Drawn", "Pool"]


@dataclasses.dataclass(frozen=True)
class Drawn:
    """What a seed has: rows of the pool, and the labels that are learnt."""

    train: Int[np.ndarray, "n"]
    labels: Int[np.ndarray, "n"]
    """Of the training rows, some of them wrong."""
    test: Int[np.ndarray, "m"]


@dataclasses.dataclass(frozen=True)
class Pool:
    """Images and their right labels, those of the training split first.

    Args:
      x: images in [-1, 1].
      y: the right labels.
      classes: how many there are.
      train: images of the training split.
      sha256: of the data.
    """

    x: Float[np.ndarray, "n *image"]
    y: Int[np.ndarray, "n"]
    classes: int
    train: int
    sha256: str = ""

    @classmethod
    def load(cls, source: str, *, fetch: bool = False) -> "Pool":
        """Both splits of a data set.

        Args:
          source: a name of `kljax.data.names()`, or a path.
          fetch: allow a download.

        Raises:
          DataError: the images have no labels, or are not to be had.
        """
        parts = [load(source, split, fetch=fetch) for split in ("train", "test")]
        labels = [part.labels for part in parts if part.labels is not None]
        if len(labels) < len(parts):
            raise DataError(f"{source} has no labels: there are no classes to learn")
        x = np.concatenate([part.scaled() for part in parts])
        facts = parts[0].num_classes, len(parts[0]), parts[0].manifest["sha256"]
        return cls(x, np.concatenate(labels), *facts)

    def drawn(
        self,
        seed: int,
        *,
        images: int | None = None,
        noise: float = 0.0,
        held_out: int | None = None,
    ) -> Drawn:
        """A seed's training rows and labels, and its test rows.

        Args:
          seed: of the split, the choice and the wrong labels.
          images: to train on; None: all that there are.
          noise: share of their labels that are drawn anew from all classes, in [0, 1].
          held_out: test images, drawn anew; None: the data's own test split.

        Raises:
          ValueError: a number out of range.
        """
        if not 0 <= noise <= 1:
            raise ValueError(f"noise must lie in [0, 1], got {noise}")
        rng = np.random.default_rng(seed)
        rows, test = np.split(np.arange(len(self.x)), [self.train])
        if held_out is not None:
            whole("held_out", held_out, most=len(self.x) - 1)
            rows, test = np.split(rng.permutation(len(self.x)), [-held_out])
        rows = rng.permutation(rows)[:images]
        wrong = rng.random(len(rows)) < noise
        labels = np.where(wrong, rng.integers(0, self.classes, len(rows)), self.y[rows])
        return Drawn(rows, labels, test)

    def balanced(self, seed: int, *sizes: int) -> list[Int[np.ndarray, "k n"]]:
        """Parts of the pool that share no image and hold all classes alike.

        Args:
          seed: of the choice; which images a part has does not depend on those behind.
          sizes: of the parts, images of each class.

        Returns:
          Rows of each part, by class.

        Raises:
          ValueError: a class has too few images.
        """
        rng, ends = np.random.default_rng(seed), np.cumsum(sizes)
        few = min(np.bincount(self.y, minlength=self.classes))
        if few < ends[-1]:
            raise ValueError(
                f"parts of {[*sizes]} images of each class need {ends[-1]}; the "
                f"smallest class has {few}"
            )
        rows = [
            rng.permutation(np.flatnonzero(self.y == k)) for k in range(self.classes)
        ]
        every = np.stack([one[: ends[-1]] for one in rows])
        return np.split(every, ends[:-1], axis=1)
