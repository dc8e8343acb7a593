"""A number over units (seeds, windows, images), its interval, and what it is of.

An interval is over the units and says nothing of anything else: over seeds it speaks of
training runs, over windows of the text for these trained models alone.
"""

import dataclasses
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from kljax.typing import Float

__all__ = ["KINDS", "Estimate", "Kind", "Missing"]

RESAMPLED = 2000


class Missing(LookupError):
    """A number that this run did not take; the message says why.

    The claim that asked for it is "not measured".
    """

    def __str__(self) -> str:
        return str(self.args[0]) if self.args else ""


class Kind(NamedTuple):
    """A statistic of samples `[..., n]`, and its standard error."""

    value: Callable[..., Any]
    spread: Callable[..., tuple[float, float]]
    """Standard error and degrees of freedom."""
    paired: bool = True


def _error(x: np.ndarray) -> float:
    """Standard error of a mean."""
    return float(x.std(ddof=1)) / math.sqrt(len(x))


def _of_ratio(a: np.ndarray, b: np.ndarray) -> tuple[float, float]:
    residual = (a - a.mean() / b.mean() * b) / b.mean()
    return _error(residual), len(a) - 1


def _welch(a: np.ndarray, b: np.ndarray) -> tuple[float, float]:
    parts = np.array([_error(a) ** 2, _error(b) ** 2])
    freedom = np.array([len(a) - 1, len(b) - 1])
    bottom = (parts**2 / freedom).sum()
    df = parts.sum() ** 2 / bottom if bottom else float(freedom.min())
    return float(np.sqrt(parts.sum())), float(df)


KINDS = {
    "mean": Kind(lambda x: x.mean(-1), lambda x: (_error(x), len(x) - 1)),
    "ratio of means": Kind(lambda a, b: a.mean(-1) / b.mean(-1), _of_ratio),
    "difference of unpaired means": Kind(
        lambda a, b: a.mean(-1) - b.mean(-1), _welch, paired=False
    ),
}


@dataclasses.dataclass(frozen=True, eq=False)
class Estimate:
    """A statistic of units, with intervals.

    Args:
        samples: one array `[n]` for a mean (of paired differences or of ratios, say),
            two for the other kinds; paired ones have one entry per unit.
        over: what the units are.
        what: what was measured, in words.
        kind: a name of `KINDS`.
        bootstrap: whether `interval` resamples the units (2,000 times, always the same
            draws) in place of Student's t.

    Example:
        >>> one = Estimate((np.array([1.0, 2.0, 3.0]),))
        >>> one.value, [round(end, 3) for end in one.interval()]
        (2.0, [-0.484, 4.484])
    """

    samples: tuple[Float[np.ndarray, "n"], ...]
    over: str = "seeds"
    what: str = ""
    kind: str = "mean"
    bootstrap: bool = False

    @property
    def value(self) -> float:
        return float(KINDS[self.kind].value(*self.samples))

    @property
    def units(self) -> Float[np.ndarray, "n"]:
        """A number per unit, whose mean is the estimate.

        Raises:
            TypeError: of other kinds than a mean there is none.
        """
        if self.kind != "mean":
            raise TypeError(f"a {self.kind} has no number per unit")
        return self.samples[0]

    @property
    def count(self) -> int:
        """Units, of the smaller sample where there are two."""
        return min(map(len, self.samples))

    def __sub__(self, other: "Estimate") -> "Estimate":
        """The paired difference of two means."""
        what = f"{self.what} minus {other.what}" if self.what and other.what else ""
        units = (self.units - other.units,)
        return dataclasses.replace(self, samples=units, what=what)

    def __truediv__(self, other: "Estimate") -> "Estimate":
        """The paired ratio, unit by unit, of two means: a mean of ratios.

        Raises:
            Missing: the other is 0 in some unit.
        """
        if not np.all(other.units):
            raise Missing(f"nothing to divide by: {other.what or 'it'} is 0")
        what = f"{self.what} over {other.what}" if self.what and other.what else ""
        return dataclasses.replace(self, samples=(self.units / other.units,), what=what)

    def __str__(self) -> str:
        if self.count < 2:
            return f"{self.value:.4g}"
        low, high = self.interval()
        return f"{self.value:+.4g} ({low:+.4g} to {high:+.4g})"

    def interval(self, level: float = 0.95) -> tuple[float, float]:
        """Both ends: Student's (Welch's for unpaired means; for a ratio of means of
        its linearization), or the percentiles of resampled units.

        Raises:
            Missing: one unit has no spread.
        """
        if self.count < 2:
            raise Missing(f"no interval: one of the {self.over} only")
        if self.bootstrap:
            return self._resampled(level)
        error, freedom = KINDS[self.kind].spread(*self.samples)
        from scipy import special

        half = float(special.stdtrit(freedom, 0.5 + level / 2)) * error
        return self.value - half, self.value + half

    def _resampled(self, level: float) -> tuple[float, float]:
        random, kind = np.random.default_rng(0), KINDS[self.kind]
        draw = lambda n: random.integers(0, n, (RESAMPLED, n))  # noqa: E731
        if kind.paired:
            rows = draw(self.count)
            drawn = [sample[rows] for sample in self.samples]
        else:
            drawn = [sample[draw(len(sample))] for sample in self.samples]
        low, high = np.quantile(kind.value(*drawn), (0.5 - level / 2, 0.5 + level / 2))
        return float(low), float(high)

    def half_width(self, level: float = 0.95) -> float:
        """Half of the interval: what stands behind ± everywhere."""
        low, high = self.interval(level)
        return (high - low) / 2

    def sign_test(self) -> float:
        """p of as many units, or more, above 0 by chance (one-sided; ties left out).

        Raises:
            Missing: no unit differs from 0.
        """
        up, down = int((self.units > 0).sum()), int((self.units < 0).sum())
        if not up + down:
            raise Missing("no sign: all units are 0")
        tosses = up + down
        return sum(math.comb(tosses, k) for k in range(up, tosses + 1)) / 2**tosses
