"""What a run shows: pictures, tables and numbers, in the order of their making."""

import contextlib
import pathlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from experiments.harness import Figure, Table
from experiments.kit import figures, titles
from experiments.kit.scores import Scores
from kljax.metrics.estimates import Missing


class Display:
    """Collects what the report of a run is made of.

    Args:
        pictures: the folder into which they are drawn.

    Attributes:
        metrics: flat numbers for whoever compares runs: a paper adds its own.
        scale: how large the run is, for the report: data and parameters in a few words.
    """

    def __init__(self, pictures: pathlib.Path):
        self.pictures = pictures
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
        """Rows as they are; `detail` leaves them to the report, folded."""
        made = tuple(map(tuple, rows))
        self.tables.append(Table(title, tuple(columns), made, caption, detail))

    def score_table(
        self,
        title: str,
        scores: Scores,
        metrics: Sequence[str] | None = None,
        *,
        spread: bool = True,
        more: Sequence[Sequence[Any]] = (),
        caption: str = "",
        detail: bool = False,
    ) -> None:
        """A row per method, a column per metric; ± is half of the 95 % interval.

        Args:
            title: of the table.
            scores: what is shown.
            metrics: which ones (all).
            spread: whether ± is shown where there are several units.
            more: rows of other things, each with its title in front.
            caption: behind what is averaged, which is said anyway.
            detail: see `table`.
        """
        metrics = scores.metrics() if metrics is None else metrics
        cells = [
            [_cell(scores, metric, method, spread) for metric in metrics]
            for method in scores.methods
        ]
        rows = [(titles.title(m), *row) for m, row in zip(scores.methods, cells)]
        sign = any("±" in str(cell) for row in cells for cell in row)
        words = (scores.averaged(), "± is half of the 95 % interval." * sign, caption)
        columns = ("", *map(scores.title, metrics))
        about = " ".join(filter(None, words))
        self.table(title, columns, [*rows, *more], about, detail=detail)

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
            title: of the table.
            scores: with a factor.
            metric: what is shown: means, behind the average ± as in `score_table`.
            more: further columns: title to a function of the method.
            caption, detail: as in `score_table`.
        """
        more, several = more or {}, len(scores.levels) > 1
        parts = [scores.at(level) for level in scores.levels if several]
        rows = []
        for method in scores.methods:
            cells = [_cell(part, metric, method, spread=False) for part in parts]
            cells.append(_cell(scores, metric, method, spread=True))
            rows.append(
                (titles.title(method), *cells, *(own(method) for own in more.values()))
            )
        sign = any("±" in str(cell) for row in rows for cell in row)
        words = (scores.averaged(), "± is half of the 95 % interval." * sign, caption)
        names = (*scores.levels, "average") if several else scores.levels
        columns = ("", *map(str, names), *more)
        self.table(title, columns, rows, " ".join(filter(None, words)), detail=detail)

    def difference_table(
        self,
        title: str,
        scores: Scores,
        against: str,
        metrics: Sequence[str] | None = None,
        *,
        caption: str = "",
        detail: bool = False,
    ) -> None:
        """Every method minus one of them, paired, with its 95 % interval; at each level
        of the factor where there is one."""
        metrics = scores.metrics() if metrics is None else metrics
        parts = {level: scores.at(level) for level in scores.levels if scores.factor}
        rows = []
        for level, part in (parts or {None: scores}).items():
            head = [level] if parts else []
            for method in part.methods:
                if method != against:
                    row = [_gap(part, m, method, against) for m in metrics]
                    rows.append((*head, titles.title(method), *row))
        columns = [
            *([scores.factor] if parts else []),
            f"minus {titles.title(against)}",
        ]
        about = f"Paired differences (95 % intervals over {scores.over}). {caption}"
        names = (*columns, *map(scores.title, metrics))
        self.table(title, names, rows, about.strip(), detail=detail)


def _cell(scores: Scores, metric: str, method: str, spread: bool) -> Any:
    try:
        found = scores.estimate(metric, method)
    except Missing:
        return None
    if not spread or found.count < 2:
        return found.value
    return f"{found.value:.4g} ± {found.half_width():.2g}"


def _gap(scores: Scores, metric: str, one: str, other: str) -> Any:
    try:
        found = scores.difference(metric, one, other)
    except Missing:
        return None
    return str(found) if found.count > 1 else found.value
