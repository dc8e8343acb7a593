"""The pictures of the distillation of language models."""

import pathlib
from typing import Any

import numpy as np

from experiments.distilled_lm.verdicts import TITLES, Evidence, title_of
from experiments.harness import Figure


def _plot() -> Any:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    return plt


def _colors(evidence: Evidence) -> dict[str, Any]:
    palette = _plot().get_cmap("tab10")
    return {method: palette(i) for i, method in enumerate(evidence.methods)}


def curves(folder: pathlib.Path, evidence: Evidence) -> Figure:
    """Held-out nats against steps, every seed; the teacher as a line."""
    plt = _plot()
    figure, axis = plt.subplots(figsize=(7.2, 4.4), layout="constrained")
    colors = _colors(evidence)
    for (method, seed), (steps, nats) in evidence.curves.items():
        label = title_of(method) if seed == evidence.seeds[0] else None
        style = "--" if method.endswith("/on_policy") else "-"
        axis.plot(steps, nats, style, c=colors[method], marker="o", ms=3, label=label)
    level = float(np.mean(evidence.teacher["nats"][: evidence.shown]))
    axis.axhline(level, c="black", ls=":", label="teacher")
    axis.set(xlabel="step", ylabel="held-out nats per token")
    axis.grid(alpha=0.3)
    axis.legend(fontsize=8)
    axis.set_xlim(left=0)
    figure.savefig(folder / "curves.png", dpi=130)
    plt.close(figure)
    return Figure(
        "curves.png",
        f"The first {evidence.shown} held-out windows while the students learn, all "
        "from one start and with the same budget of steps.",
    )


def bars(folder: pathlib.Path, evidence: Evidence) -> Figure:
    """The measures of every method with their intervals; the teacher dotted."""
    plt = _plot()
    panels = ("nats", "forward_kl", "reverse_kl", "agreement", "entropy", "ece")
    names = evidence.methods
    figure, axes = plt.subplots(
        2,
        3,
        figsize=(11, 0.56 * len(names) + 2.6),
        sharey=True,
        layout="constrained",
    )
    colors = _colors(evidence)
    for axis, measure in zip(axes.ravel(), panels, strict=True):
        drawn = []
        for place, method in enumerate(names):
            if measure == "ece":
                mean, ends = evidence.ece(method), None
                drawn.append(mean)
            else:
                mean = evidence.mean(method, measure)
                ends = evidence.interval(method, measure)
                drawn += ends
            # Points, not bars: the axes do not begin at 0.
            axis.plot(mean, place, "o", color=colors[method], ms=9)
            if ends is not None:
                axis.plot(ends, (place, place), color=colors[method], lw=2)
            if len(evidence.seeds) > 1:
                rows = [evidence.rows[method, s][measure] for s in evidence.seeds]
                dots = [float(np.mean(row)) for row in rows]
                axis.plot(dots, [place] * len(dots), ".", c="black", ms=4)
        if measure in evidence.teacher:
            level = float(np.mean(evidence.teacher[measure]))
            axis.axvline(level, c="black", ls=":", label="teacher")
            drawn.append(level)
        low, high = min(drawn), max(drawn)
        room = 0.15 * max(high - low, 1e-3)
        axis.set_xlim(max(0.0, low - 3 * room), high + room)
        axis.set_xlabel("ECE against the text" if measure == "ece" else TITLES[measure])
        axis.set_yticks(range(len(names)), [title_of(name) for name in names])
        axis.grid(alpha=0.3, axis="x")
    axes[0, 0].invert_yaxis()
    figure.savefig(folder / "scores.png", dpi=130)
    plt.close(figure)
    return Figure(
        "scores.png",
        "All students on all held-out windows; lines are 95 % intervals of the mean "
        "over windows (of differences they are far narrower, see the verdicts), dots "
        "are seeds, dotted is the teacher. Axes do not start at 0.",
    )


def reliability(folder: pathlib.Path, evidence: Evidence) -> Figure:
    """Confidence against accuracy of the next token, in equal groups of tokens."""
    plt = _plot()
    figure, axis = plt.subplots(figsize=(5.2, 4.8), layout="constrained")
    colors = _colors(evidence)
    axis.plot([0, 1], [0, 1], c="grey", lw=1, label="calibrated")
    shown = [(title_of(m), evidence.rows[m, evidence.seeds[0]], colors[m])
             for m in evidence.methods]  # fmt: skip
    for label, found, color in (*shown, ("teacher", evidence.teacher, "black")):
        axis.plot(
            found["curve/confidence"],
            found["curve/accuracy"],
            marker="o",
            ls=":" if label == "teacher" else "-",
            c=color,
            ms=3,
            label=f"{label} (ECE {found['ece']:.3f})",
        )
    axis.set(xlabel="confidence in the first choice", ylabel="share that is the text's")
    axis.grid(alpha=0.3)
    axis.legend(fontsize=8)
    figure.savefig(folder / "reliability.png", dpi=130)
    plt.close(figure)
    return Figure(
        "reliability.png",
        "Twelve equal groups of held-out tokens by confidence, the first seed. Below "
        "the diagonal a model is too sure of itself.",
    )


def draw(folder: pathlib.Path, evidence: Evidence) -> tuple[Figure, ...]:
    """All pictures of a run."""
    return (
        curves(folder, evidence),
        bars(folder, evidence),
        reliability(folder, evidence),
    )
