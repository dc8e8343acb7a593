"""The pictures of the ring experiment."""

import math
from typing import Any

import numpy as np

from experiments.harness import Figure
from experiments.one_step.ring_line import SIX, LineResult
from experiments.one_step.ring_session import LearnedRatio, Students
from kljax.training import RunFolder
from kljax.typing import Float

SHORT = {
    "softened_reverse_kl": "softened RKL",
    "reverse_kl": "reverse KL",
    "jeffreys": "Jeffreys",
    "squared_hellinger": "Hellinger²",
    "jensen_shannon": "JS",
    "forward_kl": "forward KL",
    "skew_forward_kl": "skew forward",
    "skew_reverse_kl": "skew reverse",
    "pearson_chi2": "Pearson χ²",
    "neyman_chi2": "Neyman χ²",
    "le_cam": "Le Cam",
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


def fixed_points(folder: RunFolder, line: LineResult) -> Figure:
    """T2 in the plane of (mean, std), with the paths of the adaptive alpha."""
    plt = _plot()
    figure, axes = plt.subplots(
        1, 2, figsize=(11, 4.6), sharey=True, layout="constrained"
    )
    markers = "osv^D*"
    left, right = axes
    for name, marker in zip(SIX, markers, strict=True):
        ends = line.low_noise[name]
        left.scatter(
            ends[:, 1], ends[:, 0], marker=marker, s=70, alpha=0.75, label=SHORT[name]
        )
    left.scatter(
        line.starts[:4, 1], line.starts[:4, 0], marker="x", c="black", label="start"
    )
    left.set(
        title="Fixed divergences: ends from four starts", xlabel="mean", ylabel="std"
    )
    paths = [
        (line.clipped, range(6), "tab:green", "ratio clipped as in training"),
        (line.exact, (4, 5), "tab:red", "exact ratio"),
    ]
    for path, rows, color, label in paths:
        for j, i in enumerate(rows):
            right.plot(
                path.theta[i, :, 1],
                path.theta[i, :, 0],
                c=color,
                lw=1.5,
                label=label if j == 0 else None,
            )
            right.plot(path.theta[i, -1, 1], path.theta[i, -1, 0], "o", c=color, ms=7)
    right.scatter(
        line.starts[:4, 1], line.starts[:4, 0], marker="x", c="black", label="start"
    )
    right.scatter(
        line.starts[4:6, 1],
        line.starts[4:6, 0],
        marker="s",
        facecolors="none",
        edgecolors="black",
        s=120,
        label="trap",
    )
    right.set(title="Adaptive alpha: paths, the traps as starts too", xlabel="mean")
    for axis in axes:
        axis.axhline(1.9, c="grey", lw=0.8, ls=":")
        axis.set_xlim(-3, 3)
        axis.grid(alpha=0.3)
    left.legend(fontsize=8, loc="upper right")
    right.legend(fontsize=8, loc="upper right")
    return _save(
        folder,
        figure,
        "fixed_points.png",
        "One Gaussian matched to 0.7 N(-2, ¼) + 0.3 N(2, ¼) at low noise, exactly. "
        "Left: mode-seeking divergences end at std ½ on a mode, covering ones near the "
        "target's 1.9 (dotted), JS and Hellinger at either. Right: alpha steered by "
        "the effective sample size leaves both traps when the ratio is clipped as in "
        "training, and stays when it is exact.",
    )


def reliability(folder: RunFolder, ratios: tuple[LearnedRatio, LearnedRatio]) -> Figure:
    """Mean logit against exact log-ratio, in equal groups, and the points."""
    plt = _plot()
    figure, axes = plt.subplots(1, 2, figsize=(10.5, 4.6), layout="constrained")
    titles = ("modes of std 0.3 and 0.45", "modes of std 0.08 and 0.16")
    dots = None
    for axis, ratio, title in zip(axes, ratios, titles, strict=True):
        picked = np.random.default_rng(0).permutation(len(ratio.exact))[:3000]
        dots = axis.scatter(
            ratio.exact[picked],
            ratio.logit[picked],
            c=np.log10(ratio.sigma[picked]),
            s=4,
            alpha=0.5,
        )
        groups = np.array_split(np.argsort(ratio.exact), 25)
        axis.plot(
            [ratio.exact[g].mean() for g in groups],
            [ratio.logit[g].mean() for g in groups],
            "o-",
            c="black",
            ms=4,
            label="mean of 25 equal groups",
        )
        low, high = np.quantile(ratio.exact, [0.002, 1.0])
        axis.plot([low, high], [low, high], c="tab:red", lw=1, label="perfect critic")
        axis.axvline(math.log(0.1), c="grey", ls=":", label="clip of the ratio")
        axis.set(
            title=title,
            xlim=(low - 0.5, high + 0.5),
            ylim=(low - 0.5, high + 1.0),
            xlabel="exact log p/q",
            ylabel="critic's logit",
        )
    axes[0].legend(fontsize=8)
    figure.colorbar(dots, ax=axes, label="log10 noise level")
    return _save(
        folder,
        figure,
        "reliability.png",
        "Reliability of the learned log-ratio at noised samples of q, noise "
        "log-uniform. With narrow modes the critic is too timid at low noise, most of "
        "it below the clip.",
    )


def scatter(
    folder: RunFolder,
    target: Float[np.ndarray, "n 2"],
    protocol: Students,
    sweep: Students,
) -> Figure:
    """The target and samples of the first seed, one panel per divergence."""
    plt = _plot()
    panels = [
        (f"{SHORT[m.label]} (protocol)", protocol, i)
        for i, m in enumerate(protocol.members)
    ]
    panels += [
        (SHORT.get(m.label, m.label), sweep, i) for i, m in enumerate(sweep.members)
    ]
    columns = 6
    rows = math.ceil((len(panels) + 1) / columns)
    figure, axes = plt.subplots(
        rows,
        columns,
        figsize=(2.2 * columns, 2.4 * rows),
        squeeze=False,
        layout="constrained",
    )
    for axis in axes.ravel():
        axis.set_axis_off()
    first, *others = axes.ravel()
    first.scatter(target[:2000, 0], target[:2000, 1], s=1, alpha=0.4, c="black")
    first.set(xlim=(-1.6, 1.6), ylim=(-1.6, 1.6), aspect="equal")
    first.set_title("target", fontsize=8)
    for axis, (title, students, i) in zip(others, panels):
        x, score = students.samples[0, i, :2000], students.scores[0][i]
        axis.scatter(x[:, 0], x[:, 1], s=1, alpha=0.4)
        axis.set(xlim=(-1.6, 1.6), ylim=(-1.6, 1.6), aspect="equal")
        axis.set_title(
            f"{title}\nTV {score['tv']:.3f}  W2 {score['sliced_w2']:.3f}", fontsize=8
        )
    return _save(
        folder,
        figure,
        "samples.png",
        "One evaluation per sample, 2,000 samples of the first seed; all students of "
        "one seed share every draw of noise. The first three students follow the full "
        "protocol, the others are one vmapped program. Bridges between the modes are "
        "what a small continuous generator leaves.",
    )


def alpha_sweep(
    folder: RunFolder, sweep: Students, floor: dict[str, list[float]]
) -> Figure:
    """Scores along the continuous alpha, every seed."""
    plt = _plot()
    rows = [i for i, m in enumerate(sweep.members) if m.label.startswith("alpha ")]
    alphas = [sweep.members[i].alpha for i in rows]
    figure, axes = plt.subplots(1, 3, figsize=(11, 3.4), layout="constrained")
    for axis, key, label in zip(
        axes,
        ("tv", "sliced_w2", "ess"),
        ("total variation of mode frequencies", "sliced W2", "effective fraction of h"),
        strict=True,
    ):
        if key == "ess":
            # The last third of training: a single step's fraction is noisy.
            values = sweep.ess[-max(1, len(sweep.ess) // 3) :].mean(axis=0)
        else:
            values = sweep.column(key)
        for seed, line in zip(sweep.seeds, values[:, rows], strict=True):
            axis.plot(alphas, line, "o-", ms=4, label=f"seed {seed}")
        adaptive = values[:, sweep.row("adaptive alpha")]
        axis.axhline(adaptive.mean(), c="tab:green", ls="--", label="adaptive")
        if key in floor:
            axis.axhline(np.mean(floor[key]), c="grey", ls=":", label="fresh samples")
            axis.set_ylim(bottom=0)
        axis.set(xlabel="alpha", ylabel=label)
        axis.grid(alpha=0.3)
    axes[0].legend(fontsize=8)
    return _save(
        folder,
        figure,
        "alpha_sweep.png",
        "The continuous family: 0 is reverse KL, ½ Hellinger, 1 forward KL, 2 Pearson, "
        "-1 Neyman. No trend beyond the spread of the seeds is claimed for the first "
        "two panels; the third falls away from 0 by definition.",
    )


def adaptive(folder: RunFolder, sweep: Students) -> Figure:
    """alpha and effective fraction of the adaptive member while it trains."""
    plt = _plot()
    i = sweep.row("adaptive alpha")
    figure, axes = plt.subplots(1, 3, figsize=(11, 3.2), layout="constrained")
    for axis, values, label in zip(
        axes,
        (sweep.alpha, sweep.ess, sweep.bin_error),
        ("alpha", "effective fraction of h", "worst |log E_q[r]| of a noise bin"),
        strict=True,
    ):
        for s, seed in enumerate(sweep.seeds):
            axis.plot(sweep.steps, values[:, s, i], label=f"seed {seed}")
        axis.set(xlabel="student step", ylabel=label)
        axis.grid(alpha=0.3)
    axes[0].legend(fontsize=8)
    return _save(
        folder,
        figure,
        "adaptive.png",
        "The adaptive alpha on the ring: alpha, the effective fraction that steers it, "
        "and the critic's honesty (0 where E_q[r] = 1).",
    )
