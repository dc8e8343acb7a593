"""The pictures of the logit fusion experiment."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from experiments.fusion.measures import CONTEXT, ROWS, column, half_width
from experiments.harness import Figure
from kljax.training import RunFolder

__all__ = ["alphas", "bars", "parts"]

Result = dict[str, Any]
COLORS = {
    "large base": "0.85",
    "small base": "0.7",
    "small expert": "0.5",
    "large fine-tuned": "0.65",
    "dynamic": "tab:red",
    "grid": "tab:orange",
    "tuned static": "tab:blue",
}


def _plot() -> Any:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    return plt


def _save(folder: RunFolder, figure: Any, name: str, caption: str) -> Figure:
    figure.savefig(folder.figures / name, dpi=130)
    _plot().close(figure)
    return Figure(name, caption)


def _color(row: str) -> str:
    if row in COLORS:
        return COLORS[row]
    if row.startswith("proxy"):
        return "tab:cyan"
    if row in CONTEXT:
        return "tab:green"
    return "tab:purple" if row in ("axis", "projection", "soup") else "tab:pink"


def bars(folder: RunFolder, scores: Sequence[Result]) -> Figure:
    """Exact match of every rule, averaged over the tasks and task by task."""
    plt = _plot()
    rows = [row for row in (*ROWS, *CONTEXT) if column(scores, row) is not None]
    values = {row: column(scores, row) for row in rows}
    tasks = list(scores[0]["tasks"])
    panels = [*range(len(tasks)), None]
    figure, axes = plt.subplots(
        1,
        len(panels),
        figsize=(2.6 * len(panels) + 1.4, 0.27 * len(rows) + 1.3),
        sharey=True,
        layout="constrained",
    )
    place = np.arange(len(rows))[::-1]
    for axis, panel in zip(axes, panels, strict=True):
        means, errors = [], []
        for row in rows:
            found = values[row]
            assert found is not None
            seeds = found.mean(axis=1) if panel is None else found[:, panel]
            half = half_width(seeds)
            means.append(seeds.mean())
            errors.append(half if np.isfinite(half) else 0.0)
        bounds = np.array([errors, errors])
        bounds[0] = np.minimum(bounds[0], means)
        bounds[1] = np.minimum(bounds[1], 100 - np.array(means))
        axis.barh(
            place,
            means,
            color=[_color(row) for row in rows],
            xerr=np.maximum(bounds, 0),
            error_kw={"lw": 0.8, "ecolor": "0.4"},
        )
        for y, mean in zip(place, means, strict=True):
            axis.text(min(mean, 84) + 1, y, f"{mean:.0f}", va="center", fontsize=7)
        axis.set(xlim=(0, 100), title="average" if panel is None else tasks[panel])
        axis.set_yticks(place, rows)
        axis.grid(axis="x", alpha=0.3)
        axis.set_axisbelow(True)
    axes[len(panels) // 2].set_xlabel("exact match, per cent")
    return _save(
        folder,
        figure,
        "exact_match.png",
        f"Exact match of the models alone (grey), fixed weights (blue), dynamic ones "
        f"(red, orange, pink), several experts without knowing the task (purple) and "
        f"with solved examples in the prompt (green). Bars: 95 % intervals over "
        f"{len(scores)} seeds (Student), none for one seed.",
    )


def alphas(folder: RunFolder, scores: Sequence[Result]) -> Figure:
    """How often the dynamic rule takes which weight, by task."""
    plt = _plot()
    tasks = list(scores[0]["tasks"])
    figure, axes = plt.subplots(
        1,
        len(tasks),
        figsize=(2.8 * len(tasks) + 1, 2.9),
        sharey=True,
        layout="constrained",
    )
    for axis, task in zip(np.atleast_1d(axes), tasks, strict=True):
        parts = [one["tasks"][task] for one in scores]
        counts = np.sum([part["alpha"] for part in parts], axis=0)
        edges = np.linspace(0, 2, len(counts) + 1)
        axis.stairs(counts / counts.sum(), edges, fill=True, color="tab:red", alpha=0.6)
        for i, part in enumerate(parts):
            axis.axvline(
                part["tuned_weight"],
                c="tab:blue",
                ls="--",
                lw=1,
                label="tuned static" if i == 0 else None,
            )
        axis.set(xlim=(0, 2.03), yscale="log", title=task, xlabel="alpha")
        axis.set_ylim(1e-4, 1.5)
        axis.grid(alpha=0.3)
    first = np.atleast_1d(axes)[0]
    first.set_ylabel("share of tokens")
    first.legend(fontsize=8)
    return _save(
        folder,
        figure,
        "alpha.png",
        "Weights that the dynamic rule gives along the right answers, all seeds "
        "(logarithmic scale), and the static weight that a validation set chose, one "
        "line per seed. The last bin holds the weights at the bound of 2.",
    )


def parts(folder: RunFolder, timing: Result) -> Figure:
    """What a decoding step costs, by part and batch size."""
    plt = _plot()
    batches = timing["batches"]
    figure, axes = plt.subplots(
        1, len(batches), figsize=(4.2 * len(batches) + 0.6, 2.8), layout="constrained"
    )
    for axis, (batch, found) in zip(np.atleast_1d(axes), batches.items(), strict=True):
        names = list(found)
        base = found["large alone"]["wall_ms"]
        values = [found[name]["wall_ms"] for name in names]
        place = np.arange(len(names))[::-1]
        axis.barh(place, values, color="tab:blue", alpha=0.7)
        for y, value in zip(place, values, strict=True):
            axis.text(value, y, f" {value:.2f} ms, {value / base:.2f}", va="center")
        axis.axvline(1.3 * base, c="tab:red", ls="--", lw=1, label="1.3 × large alone")
        axis.set(
            title=f"batch {batch}", xlabel="ms per step", xlim=(0, 1.8 * max(values))
        )
        axis.set_yticks(place, names)
    np.atleast_1d(axes)[-1].legend(fontsize=8, loc="lower right")
    return _save(
        folder,
        figure,
        "cost.png",
        "Wall time of one decoding step, random weights, and its ratio to the large "
        "model alone.",
    )
