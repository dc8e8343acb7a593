"""Rows of numbers and a target of each, of which every seed draws its own parts."""

import dataclasses
import math
from typing import Any

import numpy as np

from kljax.arguments import expect
from kljax.data import sources
from kljax.data.loading import load
from kljax.errors import DataError, unknown
from kljax.typing import Float

__all__ = ["Regression", "RegressionSource"]

LOGS = {"": np.positive, "log": np.log, "log1p": np.log1p}


@dataclasses.dataclass(frozen=True)
class RegressionSource:
    """What is to be predicted from what.

    Args:
      source: a name of `kljax.data.names("table")`, or the path of a .csv file.
      target: a column; "": the last one; or a table of its own by name, of one column.
      inputs: columns; none: all but the target.
      log: "log" or "log1p" of the target, or "".
      below: rows whose target is not below this are left out (prices that were cut
        off, say).
      turned: images instead, by name or path: each is turned by an angle, drawn evenly
        from minus to plus so many degrees, and the angle is the target. 0: a table.
    """

    source: str
    target: str = ""
    inputs: tuple[str, ...] = ()
    log: str = ""
    below: float = math.inf
    turned: float = 0.0

    def __post_init__(self):
        if self.log not in LOGS:
            raise ValueError(unknown("log", self.log, LOGS))


@dataclasses.dataclass(frozen=True)
class Regression:
    """Inputs and targets.

    Args:
      x: as they are.
      y: the targets, their logarithms if so asked.
      alike: whether all inputs share one scale (pixels), or have one each.
      sha256: of the data.
    """

    x: Float[np.ndarray, "n d"]
    y: Float[np.ndarray, " n"]
    alike: bool = False
    sha256: str = ""

    @classmethod
    def load(cls, what: RegressionSource, *, fetch: bool = False) -> "Regression":
        """All rows without a gap.

        Args:
          what: source, target and inputs.
          fetch: allow a download.

        Raises:
          DataError: the data are not to be had, or have no such column.
        """
        kind = "images" if what.turned else "table"
        data = load(what.source, "all", kind=kind, fetch=fetch)
        sha256 = data.manifest["sha256"]
        if what.turned:
            return cls(*_turned(data.images, what.turned), alike=True, sha256=sha256)
        rows = np.asarray(data.examples, np.float64)
        names = data.manifest.get("columns", [*map(str, range(rows.shape[1]))])
        if what.target in sources.names("table"):
            other = load(what.target, "all", kind="table", fetch=fetch)
            rows = np.column_stack([rows, np.asarray(other.examples)])
            names = [*names, what.target]
        target = what.target or names[-1]
        inputs = what.inputs or [name for name in names if name != target]
        if missing := [name for name in (target, *inputs) if name not in names]:
            raise DataError(
                f"{what.source} has no column {missing[0]!r}. Remedy: name some of "
                f"{', '.join(names)}."
            )
        rows = rows[:, [names.index(name) for name in (*inputs, target)]]
        rows = rows[~np.isnan(rows).any(axis=1) & (rows[:, -1] < what.below)]
        return cls(rows[:, :-1], LOGS[what.log](rows[:, -1]), sha256=sha256)

    def drawn(self, seed: int, *, wrong: float = 0.0) -> dict[str, dict[str, Any]]:
        """A seed's parts, in units of its training rows (mean 0, deviation 1).

        Args:
          seed: of the parts and of the wrong targets.
          wrong: share of the training targets, in [0, 1], to which 6 min(|Cauchy|, 10)
            is added: one-sided and with a heavy tail. All others are right.

        Returns:
          "train" (64 %), "val" (16 %) and "test" (20 %), each with "x" `[n, d]` and "y"
          `[n, 1]` in float32. An input that does not vary is 0.

        Raises:
          ValueError: a share out of range.
        """
        expect("wrong", wrong, 0 <= wrong <= 1, "expected a share in [0, 1]")
        rng, n = np.random.default_rng(seed), len(self.x)
        rows = np.split(rng.permutation(n), [int(0.64 * n), int(0.8 * n)])
        train = rows[0]
        x = self.x - self.x[train].mean(axis=0)
        spread = x[train].std(axis=None if self.alike else 0)
        x = x / np.where(spread > 0, spread, 1)
        y = (self.y - self.y[train].mean()) / self.y[train].std()
        shift = 6 * np.minimum(np.abs(rng.standard_cauchy(len(train))), 10)
        y[train] += np.where(rng.random(len(train)) < wrong, shift, 0)
        return {
            part: {"x": np.float32(x[of]), "y": np.float32(y[of, None])}
            for part, of in zip(("train", "val", "test"), rows)
        }


def _turned(images: np.ndarray, most: float) -> tuple[np.ndarray, np.ndarray]:
    """Pixels of the turned images, and angles in degrees; the same everywhere."""
    from scipy import ndimage

    angles = np.random.default_rng(0).uniform(-most, most, len(images))
    # Beyond its border an image fades to 0; "constant" would cut strokes there off.
    given = {"reshape": False, "order": 1, "mode": "grid-constant"}
    turn = lambda image, angle: ndimage.rotate(image, angle, **given)  # noqa: E731
    turned = [turn(np.float64(image), angle) for image, angle in zip(images, angles)]
    return np.reshape(turned, (len(images), -1)), angles
