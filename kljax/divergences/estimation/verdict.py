"""What an estimate says of itself."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple

from kljax.generators import FDivergence

__all__ = ["Answer", "DivergenceEstimate", "within"]


class Answer(NamedTuple):
    """What a method found, before the verdict is put together."""

    value: float
    interval: tuple[float, float]
    regime: str
    diagnostics: Mapping[str, float]
    families: Mapping[str, Mapping[str, float]] = MappingProxyType({})
    chosen: str = ""
    notes: Sequence[str] = ()
    measured: str | None = None
    """Another divergence than was asked for."""


def within(
    divergence: FDivergence, value: float, below: float, above: float
) -> tuple[float, tuple[float, float]]:
    """A value and its interval, cut to what the divergence can be."""
    most = float(divergence.at_zero) + float(divergence.dual_at_zero)
    cut = lambda x: min(max(float(x), 0.0), most)  # noqa: E731
    return cut(value), (cut(value - below), cut(value + above))


@dataclasses.dataclass(frozen=True)
class DivergenceEstimate:
    """A divergence of two samples with an interval, or why there is none.

    An interval is one given the families fitted: dependence that none of them can show
    (parity of many coordinates, a support that is slightly larger) leaves no trace.
    """

    divergence: str
    """Its name in `kljax.divergences`."""
    method: str
    value: float
    """Nats where the divergence is in nats; NaN where it abstains."""
    interval: tuple[float, float]
    """Both ends; NaN where it abstains."""
    level: float = 0.95
    regime: str = "clt"
    """How the average behaves that the value is: ``clt``, ``stable`` (rare points
    weigh, its error falls slower than 1/√n) or ``condensed`` (a few carry it)."""
    reason: str = ""
    """Why it abstains."""
    remedy: str = ""
    """What would help."""
    families: Mapping[str, Mapping[str, float]] = dataclasses.field(
        default_factory=dict
    )
    """Weights of the families fitted, for ``p`` and ``q``."""
    chosen: str = ""
    """Which families count, and why."""
    diagnostics: Mapping[str, float] = dataclasses.field(default_factory=dict)
    notes: Sequence[str] = ()
    """What was done to the data."""

    @property
    def abstained(self) -> bool:
        return math.isnan(self.value)

    @property
    def half_width(self) -> float:
        """Half of the interval."""
        return (self.interval[1] - self.interval[0]) / 2

    def __str__(self) -> str:
        lines = [self._first()]
        if self.abstained:
            lines.append(f"  what would help: {self.remedy}")
        if self.chosen:
            lines.append(f"  {self.chosen}")
        if not self.abstained:
            lines.append(f"  {REGIMES[self.regime]}")
        if self.diagnostics:
            found = (f"{k} {v:.3g}" for k, v in self.diagnostics.items())
            lines.append("  " + ", ".join(found))
        lines += [f"  note: {note}" for note in self.notes]
        return "\n".join(lines)

    __repr__ = __str__

    def _first(self) -> str:
        name = f"{self.divergence} by {self.method}"
        if self.abstained:
            return f"{name}: no number, {self.reason}"
        low, high = self.interval
        words = "given the families fitted" if self.families else "given the method"
        return (
            f"{name}: {self.value:.4g} ({low:.4g} to {high:.4g} at "
            f"{self.level:.0%}, {words})"
        )


REGIMES = MappingProxyType(
    {
        "clt": "regime clt: many points carry the average",
        "stable": "regime stable: rare points weigh, more of them would move the value",
        "condensed": "regime condensed: a few points carry the average",
    }
)
