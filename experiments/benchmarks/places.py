"""Stored results by what was compared and at which sizes."""

import dataclasses
from collections.abc import Sequence
from typing import Any

__all__ = ["EVEN", "Place", "places"]

EVEN = 1.05
"""Ratios up to this are a tie: so much do runs differ on a shared machine."""


@dataclasses.dataclass(frozen=True)
class Place:
    """What was compared at one size; the first of `rows` is ours."""

    title: str
    sizes: str
    axes: str
    """What the sizes are, N×V."""
    rows: Sequence[dict[str, Any]]

    @property
    def ours(self) -> dict[str, Any]:
        """The row of `kljax`."""
        return next(row for row in self.rows if row["contender"] == "kljax")

    @property
    def best(self) -> dict[str, Any]:
        """The row of the fastest peer."""
        peers = [row for row in self.rows if row["peer"] and row["seconds"]]
        return min(peers, key=lambda row: row["seconds"])

    @property
    def ratio(self) -> float | None:
        """Our time over the best peer's; None where nothing is compared."""
        timed = [row for row in self.rows if row["peer"] and row["seconds"]]
        if not timed or not self.ours["seconds"]:
            return None
        return self.ours["seconds"] / self.best["seconds"]

    def of(self, contender: str) -> dict[str, Any] | None:
        """Its row, where it was timed."""
        rows = (row for row in self.rows if row["contender"] == contender)
        return next((row for row in rows if row["seconds"]), None)


def places(rows: Sequence[dict[str, Any]]) -> list[Place]:
    """In the order of the rows; without those at which we do not take part."""
    found: dict[tuple[str, str, str], list[dict[str, Any]]] = {}
    for row in rows:
        sizes = {k[5:]: v for k, v in row.items() if k.startswith("size_")}
        sizes = {k: v for k, v in sizes.items() if v != "float32"}
        label, axes = "×".join(map(str, sizes.values())), "×".join(sizes)
        found.setdefault((row["group"], label, axes), []).append(row)
    return [
        Place(*key, chosen)
        for key, chosen in found.items()
        if any(row["contender"] == "kljax" for row in chosen)
    ]
