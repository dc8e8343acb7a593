"""Tables and metrics of a logit fusion run."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from experiments.fusion.measures import CONTEXT, ROWS, closures, column
from experiments.harness import Table

__all__ = ["metrics", "tables"]

Result = dict[str, Any]


def _cell(values: np.ndarray) -> str:
    if len(values) < 2:
        return f"{values.mean():.1f}"
    return f"{values.mean():.1f} ± {np.std(values, ddof=1):.1f}"


def tables(
    scores: Sequence[Result],
    decoded: Result,
    timing: Result,
    weights: dict[str, int],
    seconds: dict[str, tuple[float, float]],
) -> tuple[Table, ...]:
    """Exact match by rule and task, nats, unseen tasks, domain, cost, samples."""
    tasks = list(scores[0]["tasks"])
    seeds = len(scores)
    about = (
        f"Averages ± standard deviation over {seeds} seed{'s' * (seeds > 1)}; "
        f"weights: {weights['small'] / 1e6:.2f} and {weights['large'] / 1e6:.2f} "
        "million. "
    )
    found = [
        Table(
            "Exact match, per cent",
            ("model or rule", *tasks, "average", "share of FT's score", "gap closed"),
            tuple(_exact_row(scores, row) for row in (*ROWS, *CONTEXT)),
            about + "Large fine-tuned is the large model trained on the task itself. "
            "Tuned static: the weight of the best validation score, of 0.25 to 2. "
            "Axis, projection and soup know all experts and not which task it is. The "
            "paper's two measures from 7B to 13B: 96.4 % and 90.5 % (one expert), "
            "86.3 % and 19.2 % (several).",
        ),
        Table(
            "Exact match by seed, per cent",
            ("model or rule", "seed", *tasks, "average"),
            tuple(_seed_rows(scores)),
        ),
        Table(
            "Nats per token of the right answer",
            ("model or rule", *tasks, "average"),
            tuple(_nats_row(scores, row) for row in (*ROWS, *CONTEXT)),
        ),
        Table(
            "What was chosen",
            (
                "task",
                "tuned static weights",
                "mean alpha",
                "alpha = 2, %",
                "axis takes the task's expert, %",
            ),
            tuple(_chosen_row(scores, task) for task in tasks),
            "Per token of the right answers; the tuned weights are one per seed.",
        ),
    ]
    unseen = list(scores[0]["unseen"])
    if unseen:
        rows = list(scores[0]["unseen"][unseen[0]]["exact"])
        found.append(
            Table(
                "Tasks that no expert was trained on, exact match in per cent",
                ("model or rule", *unseen),
                tuple(
                    (row, *(_cell(_unseen(scores, task, row)) for task in unseen))
                    for row in rows
                ),
            )
        )
    if "domain" in scores[0]:
        rows = list(scores[0]["domain"]["nats"])
        found.append(
            Table(
                "Nats per token of held-out text of another domain",
                ("model or rule", "nats"),
                tuple(
                    (
                        row,
                        float(np.mean([one["domain"]["nats"][row] for one in scores])),
                    )
                    for row in rows
                ),
                "Python code instead of docstrings; the expert is the small base "
                "fine-tuned on code.",
            )
        )
    found.append(_time_table(timing))
    found.append(
        Table(
            "Training time, seconds",
            ("stage", "wall, all seeds", "process, all seeds"),
            tuple((kind, *spent) for kind, spent in seconds.items()),
        )
    )
    found.append(
        Table(
            "Decoded by dynamic fusion",
            (
                "task",
                "prompt",
                "decoded",
                "right",
                "exact, %",
                "as scored, %",
                "large calls per token, by blocks",
            ),
            tuple(
                (
                    task,
                    one["prompt"],
                    one["decoded"],
                    one["right"],
                    100 * one["exact"],
                    100 * one["agrees"],
                    one["calls"],
                )
                for task, one in decoded["tasks"].items()
            ),
        )
    )
    return tuple(found)


def _exact_row(scores: Sequence[Result], row: str) -> tuple[Any, ...]:
    values = column(scores, row)
    if values is None:
        return (row, *([None] * (len(scores[0]["tasks"]) + 3)))
    measures = closures(scores, row)
    ends: tuple[Any, ...] = (None, None)
    whole = measures is not None and np.isfinite(measures).all()
    if whole and row not in ("large base", "large fine-tuned"):
        ends = tuple(f"{100 * v:.1f} %" for v in np.mean(measures, axis=0))
    return (row, *map(_cell, values.T), _cell(values.mean(axis=1)), *ends)


def _seed_rows(scores: Sequence[Result]) -> list[tuple[Any, ...]]:
    found = []
    for row in (*ROWS, *CONTEXT):
        values = column(scores, row)
        if values is not None:
            for seed, line in enumerate(values):
                cells = [round(float(v), 1) for v in (*line, line.mean())]
                found.append((row, seed, *cells))
    return found


def _nats_row(scores: Sequence[Result], row: str) -> tuple[Any, ...]:
    values = column(scores, row, "nats")
    if values is None:
        return (row, *([None] * (len(scores[0]["tasks"]) + 1)))
    means = values.mean(axis=0)
    return (row, *map(float, means), float(means.mean()))


def _chosen_row(scores: Sequence[Result], task: str) -> tuple[Any, ...]:
    parts = [one["tasks"][task] for one in scores]
    counts = np.sum([part["alpha"] for part in parts], axis=0)
    width = 2 / len(counts)
    centers = width * (np.arange(len(counts)) + 0.5)
    return (
        task,
        ", ".join(f"{part['tuned_weight']:g}" for part in parts),
        float(counts @ centers / counts.sum()),
        100 * float(counts[-1] / counts.sum()),
        100 * float(np.mean([part["axis_chooses_own"] for part in parts])),
    )


def _unseen(scores: Sequence[Result], task: str, row: str) -> np.ndarray:
    return np.array([100 * one["unseen"][task]["exact"][row] for one in scores])


def _time_table(timing: Result) -> Table:
    rows = []
    for batch, parts in timing["batches"].items():
        base = parts["large alone"]["wall_ms"]
        for name, one in parts.items():
            speed = (
                None if name == "solve alone" else 1000 * int(batch) / one["wall_ms"]
            )
            share = one["wall_ms"] / base
            rows.append((int(batch), name, one["wall_ms"], one["cpu_ms"], speed, share))
    large, small = timing["weights"]
    return Table(
        "Decoding time per step",
        ("batch", "part", "wall, ms", "process, ms", "tokens/s", "of the large alone"),
        tuple(rows),
        f"Random weights, {large / 1e6:.1f} and {small / 1e6:.1f} million; least of "
        "several calls, in turns. Static, dynamic and grid run all three models.",
    )


def metrics(scores: Sequence[Result], timing: Result) -> Result:
    """Flat numbers for whoever compares runs."""
    out: Result = {}
    for row in (*ROWS, *CONTEXT):
        values = column(scores, row)
        if values is not None:
            name = row.replace(" ", "_")
            out[f"exact/{name}"] = values.tolist()
            measures = closures(scores, row)
            if measures is not None:
                out[f"share_of_score/{name}"] = measures[:, 0].tolist()
                out[f"gap_closed/{name}"] = measures[:, 1].tolist()
    for batch, parts in timing["batches"].items():
        for name, one in parts.items():
            key = f"time/batch_{batch}/{name.replace(' ', '_')}"
            out[f"{key}/wall_ms"] = one["wall_ms"]
    return out
