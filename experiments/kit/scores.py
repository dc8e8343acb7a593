"""Numbers by method, seed and metric (and the level of a factor), and what may be said.

What is averaged is said once, when the scores are made: `over="seeds"` compares runs;
the factor's name takes its levels as units; any other word names the units on the last
axis of the metrics (windows, images), for these trained models alone.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np

from experiments.kit.titles import title
from kljax.errors import unknown
from kljax.metrics.estimates import Estimate, Missing
from kljax.typing import Float

T = TypeVar("T")


class Scores:
    """What methods scored: `rows[method, seed][metric]` is a number or an array `[n]`.

    With a factor (tasks, sizes, starts) it is `rows[method, seed, level][metric]`: all
    below then averages over its levels, and `at(level)` is one of them.

    Args:
        rows: every method with every seed; a metric may be lacking in some methods.
        over: what the units are: "seeds", the factor's name, or that of the last axis.
        titles: metrics as they are shown, with their units.
        factor: what the levels are of, "tasks" say.
        bootstrap: whether intervals resample units in place of Student's t.

    Example:
        >>> s = Scores({("a", 0): {"acc": 0.8}, ("a", 1): {"acc": 0.9},
        ...             ("b", 0): {"acc": 0.7}, ("b", 1): {"acc": 0.9}})
        >>> round(s.difference("acc", "a", "b").value, 3), s.best("acc")
        (0.05, 'a')
    """

    def __init__(
        self,
        rows: Mapping[tuple, Mapping[str, Any]],
        *,
        over: str = "seeds",
        titles: Mapping[str, str] | None = None,
        factor: str = "",
        bootstrap: bool = False,
    ):
        if bad := [key for key in rows if len(key) != (3 if factor else 2)]:
            keys = "method, seed, level" if factor else "method, seed"
            raise ValueError(f"rows are by ({keys}), got {bad[0]}")
        self.rows = {(*key, None)[:3]: dict(row) for key, row in rows.items()}
        axes: Any = (tuple(dict.fromkeys(k[i] for k in self.rows)) for i in range(3))
        self.methods, self.seeds, self.levels = axes
        self.titles = dict(titles or {})
        self.over, self.factor, self.bootstrap = over, factor, bootstrap

    def _like(self, rows: Mapping[tuple, Mapping[str, Any]], **new: Any) -> "Scores":
        names = ("over", "titles", "factor", "bootstrap")
        options: dict[str, Any] = {name: getattr(self, name) for name in names} | new
        if not options["factor"]:
            rows = {key[:2]: row for key, row in rows.items()}
        return Scores(rows, **options)

    # ------------------------------------------------------------ parts

    def part(self, methods: Iterable[str]) -> "Scores":
        """Some of the methods, of those that are there."""
        kept = set(methods)
        return self._like({k: row for k, row in self.rows.items() if k[0] in kept})

    def at(self, level: Any) -> "Scores":
        """The scores at one level of the factor.

        Raises:
            Missing: the run has no such level.
        """
        if level not in self.levels:
            raise Missing(f"needs {level} among the {self.factor}")
        rows = {key: row for key, row in self.rows.items() if key[2] == level}
        over = "seeds" if self.over == self.factor else self.over
        return self._like(rows, factor="", over=over)

    def by_level(self, value: Callable[["Scores"], T]) -> dict[str, T]:
        """A value at every level, for bars over levels (`every`, `holds_for`)."""
        return {str(level): value(self.at(level)) for level in self.levels}

    def by_levels(self, metric: str, method: str) -> Float[np.ndarray, "seeds levels"]:
        """All seeds of a method at every level, in their order: curves."""
        found = self._every(metric, method)
        return found.reshape(*found.shape[:2], -1).mean(axis=-1)

    # ------------------------------------------------------------ numbers

    def title(self, metric: str) -> str:
        """A metric as it is shown."""
        return self.titles.get(metric, metric)

    def metrics(self) -> tuple[str, ...]:
        """All metrics that any method has."""
        return tuple(dict.fromkeys(name for row in self.rows.values() for name in row))

    def values(self, metric: str, method: str) -> Float[np.ndarray, "seeds *n"]:
        """All seeds of a method (averaged over levels where there are some).

        Raises:
            KeyError: no method has such a metric: a slip of the pen.
            Missing: the method was not run, or lacks it.
        """
        return self._every(metric, method).mean(axis=1)

    def _every(self, metric: str, method: str) -> Float[np.ndarray, "seeds levels *n"]:
        if self.rows and metric not in self.metrics():
            raise KeyError(unknown("metric", metric, self.metrics()))
        if method not in self.methods:
            raise Missing(f"needs {title(method)} among the methods")
        found = [
            [self.rows.get((method, s, level), {}).get(metric) for level in self.levels]
            for s in self.seeds
        ]
        if any(value is None for row in found for value in row):
            raise Missing(f"needs {self.title(metric)} of {title(method)}")
        return np.asarray(found, np.float64)

    def units(self, metric: str, method: str) -> Float[np.ndarray, "n"]:
        """A number per unit, the other axes averaged."""
        found = self._every(metric, method)
        kept = {"seeds": 0, self.factor: 1}.get(self.over)
        if kept is not None:
            found = np.moveaxis(found, kept, 0)
            return found.reshape(len(found), -1).mean(axis=1)
        if found.ndim == 2:  # one number for all units: ECE over windows, say
            return found.reshape(-1).mean(keepdims=True)
        return found.reshape(-1, found.shape[-1]).mean(axis=0)

    def _estimate(
        self, what: str, *samples: np.ndarray, kind: str = "mean"
    ) -> Estimate:
        return Estimate(samples, self.over, what, kind, self.bootstrap)

    def estimate(self, metric: str, method: str) -> Estimate:
        """A method's mean."""
        what = f"{self.title(metric)}, {title(method)}"
        return self._estimate(what, self.units(metric, method))

    def estimates(self, metric: str, *methods: str) -> list[Estimate]:
        return [self.estimate(metric, method) for method in methods]

    def mean(self, metric: str, method: str) -> float:
        return float(self.units(metric, method).mean())

    def _pair(self, metric: str, one: str, other: str) -> list[np.ndarray]:
        return [self.units(metric, name) for name in (one, other)]

    def difference(self, metric: str, one: str, other: str) -> Estimate:
        """`one` minus `other`, paired by unit."""
        a, b = self._pair(metric, one, other)
        what = f"{self.title(metric)}, {title(one)} minus {title(other)}"
        return self._estimate(f"{what}, paired by {_one(self.over)}", a - b)

    def ratio_of_means(self, metric: str, one: str, other: str) -> Estimate:
        """The mean of `one` over the mean of `other`."""
        what = f"{self.title(metric)}, {title(one)} over {title(other)}, ratio of means"
        pair = self._pair(metric, one, other)
        return self._estimate(what, *pair, kind="ratio of means")

    def mean_of_ratios(self, metric: str, one: str, other: str) -> Estimate:
        """The mean over units of `one` over `other`."""
        a, b = self._pair(metric, one, other)
        what = f"{self.title(metric)}, {title(one)} over {title(other)}, mean of ratios"
        return self._estimate(what, a / b)

    def best(self, metric: str, *, lowest: bool = False) -> str:
        """The method with the highest (or lowest) mean."""
        means = {method: self.mean(metric, method) for method in self._some(metric)}
        return (min if lowest else max)(means, key=lambda method: means[method])

    def extreme(self, metric: str, *, lowest: bool = False) -> float:
        """The highest (or lowest) number of all methods, seeds and levels."""
        every = [self._every(metric, method).ravel() for method in self._some(metric)]
        return float((np.min if lowest else np.max)(np.concatenate(every)))

    def _some(self, metric: str) -> Sequence[str]:
        if not self.methods:
            raise Missing(f"needs a method with {self.title(metric)}")
        return self.methods

    # ------------------------------------------------------------ shown

    def averaged(self) -> str:
        """What is averaged, and what an interval is over: a caption's first words."""
        parts = [_counted(self.seeds, "seeds")]
        if self.factor:
            parts.append(_counted(self.levels, self.factor))
        if self.over not in ("seeds", self.factor):
            parts.append(self.over)
        alone = self.over == "seeds" and len(self.seeds) < 2
        rest = ": no intervals" if alone else f"; intervals are over {self.over}"
        return f"Means over {' and '.join(parts)}{rest}."

    def flat(self) -> dict[str, list[float]]:
        """`method/metric` (`method/level/metric`) to a number per seed: stored."""
        found: dict[str, list[float]] = {}
        for (method, _, level), row in self.rows.items():
            middle = f"/{level}" if self.factor else ""
            for name, value in row.items():
                key = f"{method}{middle}/{name}"
                found.setdefault(key, []).append(float(np.mean(value)))
        return found


def tuned(values: Float[np.ndarray, "settings seeds"]) -> np.ndarray:
    """The setting for each seed: that of the highest mean over the *other* seeds.

    So a rate is never chosen on the seed that it is scored on; NaN is never chosen.

    Example:
        >>> tuned(np.array([[1.0, 1.0, 9.0], [2.0, 2.0, 0.0]])).tolist()
        [0, 0, 1]
    """
    known = np.nan_to_num(np.asarray(values, np.float64), nan=-np.inf)
    kept = ~np.eye(known.shape[1], dtype=bool) | (known.shape[1] == 1)
    means = [known[:, others].mean(axis=1) for others in kept]
    return np.argmax(means, axis=1)


def at_level(
    x: Float[np.ndarray, "k seeds"], y: Float[np.ndarray, "k seeds"], level: Any
) -> np.ndarray:
    """`y` where `x` first reaches a level (one, or one a seed), on a straight line.

    NaN where it never does; the first `y` where it is there from the start.

    Example:
        >>> x, y = np.array([[0.0], [1.0], [2.0]]), np.array([[5.0], [7.0], [8.0]])
        >>> at_level(x, y, 1.5).tolist()
        [7.5]
    """
    found = []
    for a, b, goal in zip(x.T, y.T, np.broadcast_to(level, x.shape[1])):
        i = int((a >= goal).argmax())
        ends = slice(max(0, i - 1), i + 1)
        there = bool(a[i] >= goal)
        found.append(np.interp(goal, a[ends], b[ends]) if there else np.nan)
    return np.array(found)


def _counted(things: Sequence[Any], name: str) -> str:
    return f"{len(things)} {name if len(things) != 1 else _one(name)}"


def _one(units: str) -> str:
    """One of them: "seed" of "seeds"."""
    return units.removesuffix("s")
