"""What a logit fusion run found: the values of its claims, tables and pictures."""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from experiments import kit
from experiments.papers.dynamic_logit_fusion.scoring import BINS, FIXED, MANY
from kljax.decoding.timing import ALONE, SOLVE

OF_TUNING = (
    "Score over the fine-tuned large model's, and share of the gap to it that is "
    "closed, on averages over tasks"
)
PARTS = ("large_base", "small_expert")
"""What the rules of one expert put together."""


class Found(NamedTuple):
    """What a run measured."""

    seen: kit.Scores
    """Exact match in per cent and nats, by rule, seed and task."""
    unseen: kit.Scores
    domain: kit.Scores
    chosen: Sequence[dict[str, dict[str, Any]]]
    """By seed and task: the tuned weight, a histogram of alpha, what rules chose."""
    decoded: dict[str, dict[str, Any]]
    timing: dict[str, Any]

    def of_tuning(self, method: str) -> dict[str, kit.Estimate]:
        ours, base, tuned = (
            dataclasses.replace(self.seen.estimate("exact", name), what=kit.title(name))
            for name in (method, "large_base", "large_fine-tuned")
        )
        return {"share": ours / tuned, "closed": (ours - base) / (tuned - base)}

    def shares(self, task: str) -> np.ndarray:
        """Of the tokens, by weight of the dynamic rule, all seeds."""
        counts = np.sum([one[task]["alpha"] for one in self.chosen], axis=0)
        return counts / counts.sum()

    def milliseconds(self) -> dict[str, dict[str, float]]:
        """Of a decoding step, by batch size and part."""
        return {
            f"batch {batch}": {name: one["wall_ms"] for name, one in parts.items()}
            for batch, parts in self.timing["batches"].items()
        }


def over_parts(found: Found) -> dict[str, float]:
    """Exact match less the better part's, the small expert's or the large model's."""

    def gain(one: kit.Scores) -> float:
        ours, *parts = (one.mean("exact", m) for m in ("dynamic", *PARTS))
        return ours - max(parts)

    return found.seen.by_level(gain)


def over_fixed(found: Found) -> kit.Noted:
    """Exact match less the best fixed weight's, plus that one's standard deviation over
    seeds."""
    best = found.seen.part(FIXED).best("exact")
    units, ours = found.seen.units("exact", best), found.seen.mean("exact", "dynamic")
    deviation = float(np.std(units, ddof=1)) if len(units) > 1 else 0.0
    edge = found.seen.difference("exact", "dynamic", best)
    theirs = f"{units.mean():.1f} % ({kit.title(best)}), deviation {deviation:.1f}"
    note = f"{ours:.1f} % against {theirs}; difference {edge}."
    return kit.Noted(edge.value + deviation, note)


def in_context(found: Found) -> kit.Noted:
    ours, *parts = (f"{one}_few-shot" for one in ("dynamic", "large", "expert"))
    value = {part: found.seen.difference("exact", ours, part) for part in parts}
    means = [found.seen.mean("exact", name) for name in (ours, *parts, "dynamic")]
    words = "{:.1f} % against {:.1f} and {:.1f} %; without examples {:.1f} %."
    return kit.Noted(value, words.format(*means))


def cost(found: Found) -> kit.Noted:
    """Wall time of a decoding step over the large model's own, by batch size."""
    times, (large, small) = found.milliseconds(), found.timing["parameters"]
    if not all("dynamic" in one for one in times.values()):
        raise kit.Missing("needs dynamic among timing.parts")
    solve = ", ".join(
        f"{100 * one[SOLVE] / one[ALONE]:.1f} %" for one in times.values()
    )
    return kit.Noted(
        {batch: one["dynamic"] / one[ALONE] for batch, one in times.items()},
        f"Weights {large / 1e6:.1f} and {small / 1e6:.1f} million, 1 to "
        f"{large / small:.1f}, random; the solve alone is {solve} of the large step.",
    )


def grid_gap(found: Found) -> kit.Noted:
    """Exact match of the two, averaged over tasks: largest difference of a seed."""
    gaps = np.abs(found.seen.difference("exact", "dynamic", "grid").units)
    differ = [one["differs"] for tasks in found.chosen for one in tasks.values()]
    words = f"Mean over seeds {gaps.mean():.2f}; {100 * np.mean(differ):.2f} % of the"
    return kit.Noted(float(gaps.max()), f"{words} examples change their verdict.")


def unharmed(found: Found) -> kit.Noted:
    ours, base = (found.unseen.mean("exact", one) for one in ("axis", "large_base"))
    if not base:
        raise kit.Missing("the large model has nothing to lose")
    value = found.unseen.difference("exact", "axis", "large_base")
    return kit.Noted(value, f"{ours:.1f} % against {base:.1f} %.")


def on_domain(found: Found) -> kit.Noted:
    value = {one: found.domain.difference("nats", "dynamic", one) for one in PARTS}
    names = ("dynamic", *PARTS, "tuned_static")
    words = "{:.3f} against {:.3f} and {:.3f}; a weight tuned on other passages {:.3f}."
    means = (found.domain.mean("nats", name) for name in names)
    return kit.Noted(value, words.format(*means))


def agreement(found: Found) -> float:
    """Share of decoded examples with the scored verdict, worst task."""
    return min(one["agrees"] for one in found.decoded.values())


def blocks(found: Found) -> kit.Noted:
    """Greedy texts of blocks that differ from the plain loop's; calls of the large
    model per token, mean of tasks."""
    calls = {task: one["calls"] for task, one in found.decoded.items()}
    differ = sum(one["differ"] for one in found.decoded.values())
    value = {"differing": differ, "calls": float(np.mean(list(calls.values())))}
    return kit.Noted(value, ", ".join(f"{k} {v:.2f}" for k, v in calls.items()) + ".")


# ------------------------------------------------------------------ shown


def tables(study: kit.Study, found: Found) -> None:
    def per_cent(measure: str, method: str) -> str | None:
        if method in ("large_base", "large_fine-tuned"):
            return None
        try:
            return f"{100 * found.of_tuning(method)[measure].value:.1f} %"
        except kit.Missing:
            return None

    measures = {"of tuned": "share", "gap closed": "closed"}
    more = {k: functools.partial(per_cent, name) for k, name in measures.items()}
    about = (
        "Large fine-tuned is trained on the task itself: of tuned is the share of its "
        "score, gap closed of the way to it. Tuned static: the weight of the best "
        "validation score. Axis, projection and soup know all experts, not the task."
    )
    title = "Exact match, per cent"
    study.level_table(title, found.seen, "exact", more=more, caption=about)
    if found.unseen.methods:
        title = "Exact match on a task that no expert was trained on, per cent"
        study.level_table(title, found.unseen, "exact")
    title = "Nats per token of the right answer"
    study.level_table(title, found.seen, "nats", detail=True)
    if found.domain.methods:
        title, about = (
            "Nats per token of held-out code",
            "The experts learnt from code.",
        )
        study.score_table(title, found.domain, caption=about, detail=True)
    rows, centers = [], 2 / BINS * (np.arange(BINS) + 0.5)
    for task in found.seen.levels:
        parts, share = [one[task] for one in found.chosen], found.shares(task)
        tuned = ", ".join(f"{part['weight']:g}" for part in parts)
        own = 100 * np.mean([part["own"] for part in parts])
        rows.append((task, tuned, share @ centers, 100 * share[-1], own))
    names = ("tuned weights", "mean alpha", "alpha = 2, %", "axis takes its own, %")
    about = "Per token of the right answers; tuned static weights, one per seed."
    study.table("What was chosen", ("task", *names), rows, about, detail=True)
    rows = [
        (batch, name, *one.values(), one["wall_ms"] / parts[ALONE]["wall_ms"])
        for batch, parts in found.timing["batches"].items()
        for name, one in parts.items()
    ]
    names = ("batch", "part", "wall, ms", "process, ms", "of the large alone")
    about = (
        "Random weights; least of several calls, in turns. Static, dynamic and grid "
        "run all three models."
    )
    study.table("Decoding time per step", names, rows, about, detail=True)
    title = "Decoded by dynamic fusion, the first example of each task"
    keys = ("prompt", "decoded", "right", "exact", "agrees", "calls")
    rows = [(task, *(one[k] for k in keys)) for task, one in found.decoded.items()]
    names = ("exact, %", "as scored, %", "large calls per token, by blocks")
    study.table(title, ("task", *keys[:3], *names), rows, detail=True)


SHADES = {
    **dict.fromkeys(("large_base", "small_base", "small_expert"), "0.6"),
    "large_fine-tuned": "0.6",
    **dict.fromkeys(FIXED, "tab:cyan"),
    **{"grid": "tab:orange", "dynamic": "tab:red"},
    **dict.fromkeys(("KL_ball", "Jeffreys"), "tab:pink"),
    **dict.fromkeys((*MANY, "soup"), "tab:purple"),
    **{f"{one}_few-shot": "tab:green" for one in ("large", "expert", "dynamic")},
}


def pictures(study: kit.Study, found: Found) -> None:
    seen, tasks = found.seen, found.seen.levels
    ours, expert, large = (
        seen.mean("exact", m) for m in ("dynamic", "small_expert", "large_base")
    )
    title = (
        f"Fusion answers {ours:.0f} % exactly, the small expert {expert:.0f} %, the "
        f"untouched large model {large:.0f} %"
    )
    about = (
        "Models alone (grey), fixed weights (light blue), one tuned by validation "
        "(blue), dynamic ones (red, orange, pink), several experts without knowing the "
        "task (purple), solved examples in the prompt (green). Dots: seeds."
    )
    parts = {"average": seen, **{task: seen.at(task) for task in tasks}}
    shape: dict[str, Any] = {"panels": len(parts), "columns": 5, "sharey": True}
    shape["size"] = (2.7, 0.26 * len(seen.methods) + 1.2)
    with study.figure("exact_match", title, about, **shape) as axes:
        for axis, (name, one) in zip(axes, parts.items()):
            values = {m: one.values("exact", m) for m in seen.methods}
            labels = {"xlim": (0, 118), "xlabel": "exact match, %", "title": name}
            kit.figures.bars(axis, values, text="{:.0f}", shades=SHADES, **labels)
    title = "How far the dynamic rule follows the expert changes from token to token"
    about = (
        "Weights along the right answers, all seeds; the last bin holds those at the "
        "bound of 2. Dashed: the static weight that a validation set chose, per seed."
    )
    shape |= {"panels": len(tasks), "columns": 4, "size": (2.9, 2.7)}
    with study.figure("alpha", title, about, **shape) as axes:
        for axis, task in zip(np.atleast_1d(axes), tasks):
            labels = {"xlabel": "alpha", "ylabel": "share of tokens", "title": task}
            edges = np.linspace(0, 2, BINS + 1)
            axis.stairs(found.shares(task), edges, fill=True, alpha=0.5)
            for one in found.chosen:
                axis.axvline(one[task]["weight"], c="tab:red", ls="--", lw=1)
            axis.set(xlim=(0, 2.03), yscale="log", ylim=(1e-4, 1.5), **labels)
    times = found.milliseconds()
    ratios = [one["dynamic"] / one[ALONE] for one in times.values() if "dynamic" in one]
    title = "A decoding step by its parts: nothing fused was timed"
    if ratios:
        title = f"A fused step takes {max(ratios):.2f} times the large model's own"
    about = "Wall time, random weights. Dashed: 1.3 times the large model alone."
    shape = {"panels": len(times), "columns": 2, "size": (4.4, 2.6)}
    with study.figure("cost", title, about, **shape) as axes:
        for axis, (batch, one) in zip(np.atleast_1d(axes), times.items()):
            kit.figures.bars(axis, one, xlabel="ms per step", title=batch)
            axis.axvline(1.3 * one[ALONE], c="tab:red", ls="--", lw=1)
