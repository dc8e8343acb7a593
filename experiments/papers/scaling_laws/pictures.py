"""Tables and pictures."""

from typing import Any

import numpy as np

from experiments import kit
from experiments.papers.scaling_laws.sweeps import CAPTION_LEVELS, PAIRS
from kljax.typing import Float

NAMES = {
    "known source, C": "transformers, by compute",
    "known source, N": "transformers, by size",
    "counts, a = 0.5": "counts",
    "counts, a = 1": "counts, few contexts count",
    "counts, early": "counts, too early",
    "counts that end": "counts, contexts run out",
    "perceptrons": "perceptrons, finite table",
}
"""Curves over a known entropy, as they are shown."""
SHADES = {"identified": "tab:green", "warned": "tab:orange", "refused": "tab:red"}


def captions(
    study: kit.Study,
    true: float,
    nats: Float[np.ndarray, "mixing seeds"],
    text: Float[np.ndarray, "mixing seeds"],
) -> None:
    """What captions tell, beside what they truly tell."""
    names = "every second caption blank", "never blank in training"
    means = zip(names, nats.mean(1), (nats / text).mean(1))
    rows = [("true", true, true / (PAIRS * np.log(CAPTION_LEVELS))), *means]
    about = f"Means over {len(study.seeds)} seeds."
    columns = "", "nats per image", "share of the caption's own"
    study.table("What a caption tells of its image", columns, rows, about)


def show(study: kit.Study, found: dict[str, Any], every: dict[str, Any]) -> None:
    largest = max(one["N"].max() for one in every.values())
    study.scale = f"transformers of up to {largest:,.0f} weights, {len(every)} sources"
    rows = []
    for name, fit in found["fits"].items():
        entropy, (low, high) = (
            found["curves"][name]["H"],
            np.asarray(fit.floor_interval),
        )
        known = float(entropy) if np.isfinite(entropy) else None
        numbers = known, float(fit.law.floor), f"{low:.4g} to {high:.4g}"
        said = fit.verdict()
        rows.append((name, *numbers, float(fit.law.alpha), said.status))
        study.metrics[f"fit/{name}"] = str(said)
    columns = "curve", "H", "L_inf", "95 %", "alpha", "verdict"
    about = "Nats per token, by samples, weights N or compute C (lowest of all sizes)."
    study.table("Fitted constants", columns, rows, about)
    rows = []
    for name, edge in found["edges"].items():
        beta = edge.beta if len(edge.size) > 2 else None
        span = f"{edge.grid[0]:.1e} to {edge.grid[-1]:.1e}"
        largest = float(every[name]["N"].max())
        rows.append((name, beta, len(edge.size), largest, span, every[name]["what"]))
    if rows:
        columns = "source", "beta", "sizes on it", "largest N", "operations", "data"
        study.table(
            "Compute frontiers",
            columns,
            rows,
            "The best size grows as C^beta; on it are sizes whose curves cross others.",
        )
    rows = [
        (
            name,
            100 * float(noise),
            row["sd of L_inf"],
            row["sd of alpha"],
            row["covered"],
        )
        for noise, laws in found["recovery"].items()
        for name, row in laws.items()
        if float(noise)
    ]
    columns = "law", "noise, %", "sd of L_inf", "sd of alpha", "intervals cover"
    about = f"12 points from 1e-6 to 10 PF-days, {study.config.draws} draws of noise."
    study.table("Fits of the paper's L(C)", columns, rows, about, detail=True)
    _entropy(study, found, every)
    _data(study, found, every)


def _entropy(study: kit.Study, found: dict[str, Any], every: dict[str, Any]) -> None:
    """The headline: loss over a known entropy, and what the fits make of it."""
    source = next(iter(every))
    known = [name for name in NAMES if name in found["curves"]]
    said = {name: found["fits"][name].verdict().status for name in known}
    off = [
        abs(float(found["fits"][name].law.floor) / found["curves"][name]["H"] - 1)
        for name in known
        if said[name] == "identified"
    ]
    worst = f", {100 * max(off):.1f} % off at most" if off else ""
    refused = [*said.values()].count("refused")
    title = (
        f"Does a fit find the entropy? Of {len(known)} curves over one that is known, "
        f"{len(off)} tell it{worst}; {refused} are refused"
    )
    about = (
        "Left: transformers on a source whose entropy is known (dotted), dark small, "
        "light large; the fit of the lowest loss by compute (dashed). Middle: KL, the "
        "loss over the entropy. Right: fitted constant over the entropy, with its "
        "interval: green identified, orange warned of, red refused."
    )
    with study.figure("entropy", title, about, panels=3) as axes:
        _learning(axes[0], found, source, every[source])
        axes[0].axhline(every[source]["H"], color="black", ls=":", label="entropy")
        axes[0].legend(fontsize=7)
        for place, name in enumerate(known):
            one, fit = found["curves"][name], found["fits"][name]
            span = np.log(one["x"] / one["x"][0]) / np.log(one["x"][-1] / one["x"][0])
            axes[1].plot(span, one["loss"] - one["H"], "o-", ms=3, label=NAMES[name])
            color = SHADES[fit.verdict().status]
            ends = np.asarray(fit.floor_interval) / one["H"]
            axes[2].plot(ends, (place, place), color=color, lw=2)
            axes[2].plot(float(fit.law.floor) / one["H"], place, "o", color=color, ms=8)
        axes[1].set(yscale="log", ylabel="KL, nats per token")
        axes[1].set_ylim(bottom=axes[1].get_ylim()[0] / 50)  # room for the legend
        axes[1].set(xlabel="log x, first point to last")
        axes[1].legend(fontsize=7, loc="lower left")
        axes[2].axvline(1, color="black", ls=":", lw=1)
        axes[2].set_yticks(range(len(known)), [NAMES[name] for name in known])
        axes[2].set(xlabel="fitted constant / entropy", xlim=(-0.03, 1.3))
        axes[2].set_ylim(len(known) - 0.5, -0.5)


def _shades(count: int) -> Any:
    from matplotlib import colormaps

    return colormaps["viridis"](np.linspace(0, 0.9, count))


def _learning(axis: Any, found: dict[str, Any], name: str, one: dict[str, Any]) -> None:
    """Learning curves of all sizes, and the fit of their lower edge."""
    for c, loss, color in zip(
        one["C"], one["loss"]["held out"], _shades(len(one["N"]))
    ):
        axis.plot(c, loss, color=color, lw=1)
    if fit := found["fits"].get(f"{name}, C"):
        edge = found["curves"][f"{name}, C"]["x"]
        x = np.geomspace(edge[0], 10 * edge[-1], 50)
        axis.plot(x, np.asarray(fit.law(x)), "--", color="tab:red", label="fit")
        color = SHADES[fit.verdict().status]
        axis.axhline(float(fit.law.floor), color=color, lw=0.8, label="its constant")
        axis.legend(fontsize=7)
    axis.set(xscale="log", xlabel="operations", ylabel="nats per token", title=name)


def _data(study: kit.Study, found: dict[str, Any], every: dict[str, Any]) -> None:
    """Learning curves of real data, the best sizes, and sums that are extrapolated."""
    _, *some = every
    about = (
        "Held-out loss by compute, dark small, light large; the fit of the lower edge "
        "dashed and carried on by a decade, its constant green where identified, red "
        "where refused. Then the size that is the best by compute; loss on sums with "
        "longer carries than any in training, by the loss on sums like those."
    )
    title = "Learning curves by compute, the best size, and extrapolation"
    panels = len(some) + 1 + ("sums" in every)
    with study.figure("data", title, about, panels=panels) as axes:
        for axis, name in zip(axes, some):
            _learning(axis, found, name, every[name])
        best = axes[len(some)]
        for name, edge in found["edges"].items():
            if len(edge.size):
                label = f"{name}: {edge.beta:.2f}" if len(edge.size) > 2 else name
                best.plot(edge.compute, edge.size, "o-", ms=3, label=label)
        best.set(xscale="log", yscale="log", xlabel="operations", ylabel="weights")
        best.set(title="best size, where curves cross")
        if best.lines:
            best.legend(fontsize=7)
        if "sums" in every:
            (_, own), *longer = every["sums"]["loss"].items()
            for (name, loss), marker in zip(longer, "osv^"):
                for i, color in enumerate(_shades(len(own))):
                    label = None if i else name
                    axes[-1].plot(
                        own[i], loss[i], marker, ms=3, color=color, label=label
                    )
            axes[-1].set(xscale="log", yscale="log", xlabel="carries as in training")
            axes[-1].set(ylabel="longer carries", title="sums: nats per digit")
            axes[-1].legend(fontsize=7)
