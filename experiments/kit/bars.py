"""Bars as data: each says in words when a claim holds, and tests a value.

A value is a number, an `Estimate`, a list of them (`order`) or a dict of them by name
(`all_of`, `every`, `holds_for`).
"""

import dataclasses
import itertools
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
    "sign_above",
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


def _compare(sign: str, limit: float, unit: str, test: Callable) -> Bar:
    text = f"{sign} {limit:g}{f' {unit}' if unit else ''}"
    return Bar(text, lambda value: bool(test(point(value), limit)))


def at_most(limit: float, unit: str = "") -> Bar:
    return _compare("<=", limit, unit, lambda x, y: x <= y)


def at_least(limit: float, unit: str = "") -> Bar:
    return _compare(">=", limit, unit, lambda x, y: x >= y)


def below(limit: float, unit: str = "") -> Bar:
    return _compare("<", limit, unit, lambda x, y: x < y)


def above(limit: float, unit: str = "") -> Bar:
    return _compare(">", limit, unit, lambda x, y: x > y)


def equal(limit: float, unit: str = "") -> Bar:
    return _compare("=", limit, unit, lambda x, y: x == y)


def within(low: float, high: float) -> Bar:
    """Between two ends, both included."""
    return Bar(f"in [{low:g}, {high:g}]", lambda value: low <= point(value) <= high)


def near(target: float, *, rel: float = 0.0, tol: float = 0.0) -> Bar:
    """Within a share of the target, or an absolute distance from it."""
    words = f"within {100 * rel:g} %" if rel else f"within {tol:g}"
    gap = max(rel * abs(target), tol)
    return Bar(f"{words} of {target:g}", lambda x: abs(point(x) - target) <= gap)


def _interval(side: int, limit: float, level: float) -> Bar:
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


def interval_above(limit: float = 0.0, level: float = 0.95) -> Bar:
    """The whole interval lies above; level 0.9 is a one-sided test at 5 %."""
    return _interval(1, limit, level)


def interval_below(limit: float = 0.0, level: float = 0.95) -> Bar:
    """The whole interval lies below."""
    return _interval(-1, limit, level)


def sign_above(p: float = 0.05) -> Bar:
    """More units above 0 than chance gives, by the one-sided sign test."""
    return Bar(
        f"sign test p < {p:g}",
        lambda value: value.sign_test() < p,
        lambda value: (
            f"{int((value.units > 0).sum())} of {value.count} above 0, "
            f"p = {value.sign_test():.2g}."
        ),
    )


def order(*names: str) -> Bar:
    """Numbers in ascending order; of estimates, every paired step surely above 0."""

    def steps(values: Sequence[Value]) -> list[Value]:
        return [b - a for a, b in itertools.pairwise(values)]

    def test(values: Sequence[Value]) -> bool:
        return all(
            (step.interval()[0] if isinstance(step, Estimate) else step) > 0
            for step in steps(values)
        )

    def remark(values: Sequence[Value]) -> str:
        found = [str(step) for step in steps(values) if isinstance(step, Estimate)]
        return f"Steps {'; '.join(found)}." if found else ""

    return Bar(" < ".join(names), test, remark)


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
    named = {name.replace("_", " "): bar for name, bar in bars.items()}

    def test(values: Mapping[str, Value]) -> bool:
        given = {name.replace("_", " "): value for name, value in values.items()}
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
