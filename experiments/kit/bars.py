"""Bars as data: each says in words when a claim holds, and tests a value.

A value is a number, an `Estimate`, a list of them (`order`) or a dict of them by name
(`all_of`, `every`, `holds_for`).
"""

import dataclasses
import functools
import itertools
import operator
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from kljax.metrics.estimates import Estimate

__all__ = [
    "Bar",
    "above",
    "all_of",
    "at_least",
    "at_most",
    "below",
    "both",
    "equal",
    "every",
    "holds_for",
    "interval_above",
    "interval_below",
    "near",
    "order",
    "shown",
    "within",
]

Value = Any


@dataclasses.dataclass(frozen=True)
class Bar:
    """When a claim holds: in words, and as a test.

    Args:
        text: as the report shows it.
        test: of a value.
        remark: what the report says beside the verdict.
        level: of the interval that is shown with the value.
        decides: False for `shown`.
    """

    text: str
    test: Callable[[Value], bool]
    remark: Callable[[Value], str] = lambda value: ""
    level: float = 0.95
    decides: bool = True

    def __str__(self) -> str:
        return self.text


def point(value: Value) -> float:
    """The number of a value."""
    return value.value if isinstance(value, Estimate) else float(value)


def _comparison(sign: str, test: Callable[[float, float], bool]) -> Callable[..., Bar]:
    def bar(limit: float, unit: str = "") -> Bar:
        text = f"{sign} {limit:g} {unit}".rstrip()
        return Bar(text, lambda value: bool(test(point(value), limit)))

    return bar


at_most = _comparison("<=", operator.le)
at_least = _comparison(">=", operator.ge)
below = _comparison("<", operator.lt)
above = _comparison(">", operator.gt)
equal = _comparison("=", operator.eq)


def within(low: float, high: float) -> Bar:
    """Between two ends, both included."""
    return Bar(f"in [{low:g}, {high:g}]", lambda value: low <= point(value) <= high)


def near(target: float, *, rel: float = 0.0, tol: float = 0.0) -> Bar:
    """Within a share of the target, or an absolute distance from it."""
    words = f"within {100 * rel:g} %" if rel else f"within {tol:g}"
    gap = max(rel * abs(target), tol)
    return Bar(f"{words} of {target:g}", lambda x: abs(point(x) - target) <= gap)


def _interval(side: int, limit: float = 0.0, level: float = 0.95) -> Bar:
    """The whole interval lies there; level 0.9 is a one-sided test at 5 %."""
    word = "above" if side > 0 else "below"

    def ahead(value: Estimate, side: int) -> bool:
        low, high = value.interval(level)
        return low > limit if side > 0 else high < limit

    def remark(value: Estimate) -> str:
        if ahead(value, side):
            return ""
        return "The opposite." if ahead(value, -side) else "Neither is surely ahead."

    text = f"{100 * level:g} % interval {word} {limit:g}"
    return Bar(text, lambda value: ahead(value, side), remark, level)


interval_above = functools.partial(_interval, 1)
interval_below = functools.partial(_interval, -1)


def order(*names: str) -> Bar:
    """Numbers in ascending order; of estimates, every paired step surely above 0."""

    def steps(values: Sequence[Value]) -> list[Value]:
        return [b - a for a, b in itertools.pairwise(values)]

    def sure(step: Value) -> bool:
        return (step.interval()[0] if isinstance(step, Estimate) else step) > 0

    def remark(values: Sequence[Value]) -> str:
        found = [str(step) for step in steps(values) if isinstance(step, Estimate)]
        return f"Steps {'; '.join(found)}." if found else ""

    return Bar(" < ".join(names), lambda values: all(map(sure, steps(values))), remark)


def both(*bars: Bar) -> Bar:
    """Several bars for one value."""
    return Bar(
        " and ".join(map(str, bars)),
        lambda value: all([bar.test(value) for bar in bars]),
        lambda value: " ".join(filter(None, (bar.remark(value) for bar in bars))),
        min(bar.level for bar in bars),
    )


def all_of(**bars: Bar) -> Bar:
    """A bar for each name of a dict of values (`_` in a name is a blank)."""
    spelt = lambda values: {k.replace("_", " "): v for k, v in values.items()}  # noqa: E731
    named = spelt(bars)

    def test(values: Mapping[str, Value]) -> bool:
        given = spelt(values)
        return all([bar.test(given[name]) for name, bar in named.items()])

    return Bar(", ".join(f"{name} {bar}" for name, bar in named.items()), test)


def every(bar: Bar) -> Bar:
    """The same bar for all values of a dict."""
    return Bar(
        f"each {bar}",
        lambda values: all([bar.test(value) for value in values.values()]),
        level=bar.level,
    )


def holds_for(count: int, bar: Bar) -> Bar:
    """The bar for so many values of a dict at least: "on three tasks", say."""

    def passing(values: Mapping[str, Value]) -> list[str]:
        return [name for name, value in values.items() if bar.test(value)]

    return Bar(
        f"{bar} for at least {count}",
        lambda values: len(passing(values)) >= count,
        lambda values: f"Holds for {', '.join(passing(values)) or 'none'}.",
        bar.level,
    )


def shown() -> Bar:
    """No bar: the number is reported and nothing is decided."""
    return Bar("none, shown only", lambda value: True, decides=False)
