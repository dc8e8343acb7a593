"""A claim, its bar as data, and the verdict that follows from the two.

The text of the bar, the verdict, the interval and what was measured in words are all
derived from `Claim.value` and `Claim.bar`: there is no second place to keep in step.
"""

import dataclasses
import hashlib
import json
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from experiments.harness import Verdict
from experiments.kit.bars import Bar, Value, point
from kljax.metrics.estimates import Estimate, Missing


class Noted(NamedTuple):
    """A claim's value with a remark for the report.

    `undecided` says why this run cannot decide: its bar was set for another length of
    training or other data, say. The number is shown.
    """

    value: Value
    note: str = ""
    undecided: str = ""


@dataclasses.dataclass(frozen=True)
class Claim:
    """One statement of a paper with the number that decides it and the bar.

    Args:
        id: short name, unique in its paper.
        statement: what is claimed, in our words; understood by who reads it alone.
        source: table, figure or equation.
        value: the number, from what `run` returned; `Missing` where it is not there.
        bar: when the claim holds.
        measure: the number in words. Estimates name their metric, methods and pairing
            themselves and need none; of plain numbers the value's docstring stands in.
        paper: the paper's own figure.
        ours: whether it is our extension and not in the paper.
        digits: significant digits in the report.

    The first of a paper's claims is its headline.
    """

    id: str
    statement: str
    source: str
    value: Callable[[Any], Value]
    bar: Bar
    measure: str = ""
    paper: str = ""
    ours: bool = False
    digits: int = 3

    def stored(self) -> dict[str, Any]:
        """What results.json keeps of it."""
        names = ("id", "statement", "source", "measure", "paper", "ours")
        return {name: getattr(self, name) for name in names} | {"bar": str(self.bar)}


def digest(claims: Sequence[Claim]) -> str:
    """Twelve hexadecimal digits over what is claimed and the bars."""
    text = json.dumps([claim.stored() for claim in claims], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def spelled(value: Value, digits: int) -> str:
    """A value as the report shows it, without its interval."""
    if isinstance(value, Mapping):
        pairs = ((k.replace("_", " "), spelled(v, digits)) for k, v in value.items())
        return ", ".join(map(" ".join, pairs))
    if isinstance(value, list | tuple):
        return ", ".join(spelled(v, digits) for v in value)
    if isinstance(value, str):
        return value
    number = point(value)
    if not math.isfinite(number):
        return str(number)
    if isinstance(value, int) or (number.is_integer() and abs(number) < 1e6):
        return f"{number:.0f}"
    return f"{number:.{digits}g}"


def _estimates(value: Value) -> list[Estimate]:
    """The estimates inside a value."""
    if isinstance(value, Mapping):
        value = list(value.values())
    every = value if isinstance(value, list | tuple) else [value]
    return [one for one in every if isinstance(one, Estimate)]


def _intervals(value: Value, digits: int, level: float) -> str:
    found = [one for one in _estimates(value) if one.count > 1]
    if not found:
        return ""
    ends = (one.interval(level) for one in found)
    words = "; ".join(f"{low:.{digits}g} to {high:.{digits}g}" for low, high in ends)
    share = "" if level == 0.95 else f" ({100 * level:g} %)"
    return f"{words}{share}, {found[0].count} {found[0].over}"


def _measure(claim: Claim, value: Value) -> str:
    words = claim.measure or " ".join((claim.value.__doc__ or "").split()).rstrip(".")
    said = dict.fromkeys(one.what for one in _estimates(value) if one.what)
    return ": ".join(filter(None, (words, "; ".join(said))))


def verdict(claim: Claim, evidence: Any, *, decide: bool = True) -> Verdict:
    """What the evidence says of one claim."""
    try:
        value = claim.value(evidence)
        value, note, undecided = value if isinstance(value, Noted) else Noted(value)
        said = Verdict(
            spelled(value, claim.digits),
            None,
            _intervals(value, claim.digits, claim.bar.level),
            note,
            _measure(claim, value),
            shown=not claim.bar.decides,
        )
    except Missing as why:
        return Verdict("", None, note=f"Not measured: {why}.")
    if not decide or said.shown:
        return said
    holds = None
    try:
        if undecided:
            raise Missing(undecided)
        holds, more = claim.bar.test(value), claim.bar.remark(value)
    except Missing as why:
        more = f"Undecided: {why}."
    return dataclasses.replace(said, holds=holds, note=f"{note} {more}".strip())


def verdicts(
    claims: Sequence[Claim], evidence: Any, *, decide: bool = True
) -> dict[str, Verdict]:
    """One per claim; `decide` False measures but does not judge."""
    return {claim.id: verdict(claim, evidence, decide=decide) for claim in claims}
