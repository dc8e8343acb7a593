"""What a run shows: pictures, tables and numbers, in the order of their making."""

import contextlib
import pathlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from experiments.harness import Figure, Table
from experiments.kit import figures, titles
from experiments.kit.scores import Scores
from kljax.metrics.estimates import Estimate, Missing


class Display:
    """Collects what the report of a run is made of.

    Args:
        pictures: the folder into which they are drawn.
        decides: whether the run is long enough to find anything; if it is not, the
            pictures say so.

    Attributes:
        metrics: flat numbers for whoever compares runs: a paper adds its own.
        scale: how large the run is, for the report: data and parameters in a few words.
    """

    def __init__(self, pictures: pathlib.Path, *, decides: bool = True):
        self.pictures, self.decides = pictures, decides
        self.metrics: dict[str, Any] = {}
        self.scale = ""
        self.tables: list[Table] = []
        self.figures: list[Figure] = []

    @contextlib.contextmanager
    def figure(
        self,
        name: str,
        title: str,
        caption: str,
        *,
        panels: int = 1,
        columns: int = 3,
        size: tuple[float, float] = (4.2, 3.4),
        **share: bool,
    ) -> Iterator[Any]:
        """Panels to draw into (a single axis for one); saved and recorded behind.

        Args:
            name: of the file.
            title: what is to be seen, above the panels: the finding in a sentence.
            caption: what is drawn, what is averaged, what the lines are.
            panels: how many, `columns` side by side, each of `size` inches.
            share: `sharex`, `sharey`.
        """
        if not self.decides:
            title = f"[A short run, which decides nothing] {title}"
        figure, axes = figures.canvas(title, panels, columns, size, **share)
        yield axes if panels > 1 else axes[0]
        figure.savefig(self.pictures / f"{name}.png", dpi=figures.DPI)
        self.figures.append(Figure(f"{name}.png", caption, title))

    def table(
        self,
        title: str,
        columns: Sequence[str],
        rows: Sequence[Sequence[Any]],
        caption: str = "",
        *,
        detail: bool = False,
    ) -> None:
        """Rows as they are; `detail` leaves them to the report, folded.

        Raises:
            ValueError: a row is not as long as `columns`.
        """
        made = tuple(map(tuple, rows))
        if lengths := {len(row) for row in made} - {len(columns)}:
            words = f"{len(columns)} columns and rows of {sorted(lengths)} cells"
            raise ValueError(f"table {title!r} has {words}")
        self.tables.append(Table(title, tuple(columns), made, caption, detail))

    def score_table(
        self,
        title: str,
        scores: Scores,
        metrics: Sequence[str] = (),
        *,
        every: Sequence[str] = (),
        spread: bool = True,
        more: Mapping[str, Mapping[str, Any]] | None = None,
        caption: str = "",
        detail: bool = False,
    ) -> None:
        """A row per method, a column per metric; ± is half of the 95 % interval.

        Args:
            metrics: which ones (all).
            every: metrics of a second table behind it, a folded one.
            spread: whether ± is shown where there are several units.
            more: rows of other things by name: their numbers by metric.
            caption: behind what is averaged, which is said anyway.
        """
        some, text = metrics or scores.metrics(), _spread if spread else None
        rows = [
            [titles.title(m), *(_cell(scores.estimate, k, m, text=text) for k in some)]
            for m in scores.methods
        ]
        for name, row in (more or {}).items():
            rows.append([name, *(np.mean(row[k]) if k in row else None for k in some)])
        self._means(title, scores, map(scores.title, some), rows, caption, detail)
        if every:
            rest: Any = {"more": more, "caption": caption, "detail": True}
            self.score_table(f"{title}: every measure", scores, every, **rest)

    def level_table(
        self,
        title: str,
        scores: Scores,
        metric: str,
        *,
        more: Mapping[str, Callable[[str], Any]] | None = None,
        caption: str = "",
        detail: bool = False,
    ) -> None:
        """A row per method, a column per level of the factor, and their average.

        Args:
            metric: what is shown: means, behind the average ± as in `score_table`.
            more: further columns: title to a function of the method.
        """
        more, levels = more or {}, scores.levels if len(scores.levels) > 1 else ()
        rows = [
            [
                titles.title(m),
                *(_cell(scores.at(one).estimate, metric, m) for one in levels),
                _cell(scores.estimate, metric, m, text=_spread),
                *(own(m) for own in more.values()),
            ]
            for m in scores.methods
        ]
        names = (*levels, "average") if levels else scores.levels
        self._means(title, scores, map(str, (*names, *more)), rows, caption, detail)

    def _means(
        self,
        title: str,
        scores: Scores,
        columns: Iterable[str],
        rows: Sequence[Sequence[Any]],
        caption: str,
        detail: bool,
    ) -> None:
        sign = any("±" in str(cell) for row in rows for cell in row)
        words = (scores.averaged(), "± is half of the 95 % interval." * sign, caption)
        about = " ".join(filter(None, words))
        self.table(title, ("", *columns), rows, about, detail=detail)

    def difference_table(
        self,
        title: str,
        scores: Scores,
        against: str,
        metrics: Sequence[str],
        *,
        detail: bool = False,
    ) -> None:
        """Every method minus one of them, paired, with its 95 % interval; at each level
        of the factor where there is one."""
        levels = scores.levels if scores.factor else ()
        parts = {(level,): scores.at(level) for level in levels} or {(): scores}
        rows = [
            (
                *level,
                titles.title(m),
                *(_cell(part.difference, k, m, against, text=str) for k in metrics),
            )
            for level, part in parts.items()
            for m in part.methods
            if m != against
        ]
        head = [scores.factor] * bool(levels) + [f"minus {titles.title(against)}"]
        about = f"Paired differences (95 % intervals over {scores.over})."
        names = (*head, *map(scores.title, metrics))
        self.table(title, names, rows, about, detail=detail)


def _spread(found: Estimate) -> str:
    return f"{found.value:.4g} ± {found.half_width():.2g}"


def _cell(
    find: Callable[..., Estimate],
    *what: str,
    text: Callable[[Estimate], str] | None = None,
) -> Any:
    try:
        found = find(*what)
    except Missing:
        return None
    return text(found) if text and found.count > 1 else found.value
