"""What the distillation of language models measured: verdicts, tables, metrics.

Intervals are those of paired differences: two students, the same windows of held-out
text, averaged over the seeds, resampled by window.
"""

from typing import Any

import numpy as np

from experiments.distilled_lm.scores import DISTANCES, MEASURES
from experiments.distilled_lm.students import TEXT
from experiments.harness import Table, Verdict
from kljax.typing import Float

RESAMPLED = 2000

TITLES = {
    "nats": "nats per token",
    "forward_kl": "KL(p‖q)",
    "reverse_kl": "KL(q‖p)",
    "jensen_shannon": "JS",
    "skew_forward_kl": "skew KL",
    "entropy": "entropy of q",
    "agreement": "agrees with the teacher",
    "accuracy": "next token right",
    "confidence": "confidence",
}
SHORT = {
    TEXT: "text alone",
    "forward_kl": "forward KL",
    "reverse_kl": "reverse KL",
    "jensen_shannon": "JS",
    "skew_forward_kl": "skew KL",
}


def title_of(method: str) -> str:
    """A method's name as it is shown."""
    name, _, suffix = method.partition("/")
    shown = SHORT.get(name, name.replace("_", " "))
    return f"{shown}, on policy" if suffix else shown


class Evidence:
    """The numbers of a run, by method; differences with their intervals."""

    def __init__(self, results: dict[str, Any]):
        self.rows = results["rows"]
        self.methods = list(dict.fromkeys(method for method, _ in self.rows))
        self.seeds = list(dict.fromkeys(seed for _, seed in self.rows))
        self.teacher, self.start = results["teacher"], results["start"]
        self.fused, self.curves = results["fused"], results["curves"]
        self.shown = results["shown"]

    def windows(self, method: str, measure: str) -> Float[np.ndarray, "n"]:
        """A measure per window, mean over the seeds."""
        if measure == "overconfidence":
            return self.windows(method, "confidence") - self.windows(method, "accuracy")
        return np.mean([self.rows[method, s][measure] for s in self.seeds], axis=0)

    def mean(self, method: str, measure: str) -> float:
        return float(self.windows(method, measure).mean())

    def ece(self, method: str) -> float:
        return float(np.mean([self.rows[method, s]["ece"] for s in self.seeds]))

    def interval(self, method: str, measure: str) -> tuple[float, float]:
        """95 % of the mean, windows resampled."""
        return resampled(self.windows(method, measure))

    def difference(
        self, one: str, other: str, measure: str
    ) -> tuple[float, float, float]:
        """Mean of `one - other` and the ends of its 95 % interval."""
        gap = self.windows(one, measure) - self.windows(other, measure)
        return float(gap.mean()), *resampled(gap)

    def has(self, *methods: str) -> bool:
        return set(methods) <= set(self.methods)


def resampled(values: Float[np.ndarray, "n"]) -> tuple[float, float]:
    """Ends of the 95 % bootstrap interval of a mean."""
    random = np.random.default_rng(0)
    n = len(values)
    means = values[random.integers(0, n, (RESAMPLED, n))].mean(axis=1)
    low, high = np.quantile(means, (0.025, 0.975))
    return float(low), float(high)


def _signed(triple: tuple[float, float, float]) -> tuple[str, str]:
    mean, low, high = triple
    return f"{mean:+.4f}", f"{low:+.4f} to {high:+.4f}"


def _compared(
    evidence: Evidence, one: str, other: str, measure: str, sign: int, note: str = ""
) -> Verdict:
    """Holds where the interval of `one - other` lies on the claimed side of 0."""
    if not evidence.has(one, other):
        return Verdict("", None, note=f"Needs {one} and {other} among the methods.")
    triple = evidence.difference(one, other, measure)
    measured, interval = _signed(triple)
    holds = triple[2] < 0 if sign < 0 else triple[1] > 0
    opposite = triple[1] > 0 if sign < 0 else triple[2] < 0
    outcome = "" if holds else " The opposite." if opposite else " Not decided."
    return Verdict(measured, holds, interval, f"{note}{outcome}".strip())


def _own_measure(evidence: Evidence) -> Verdict:
    """Every divergence's student leads in its own divergence."""
    here = [name for name in DISTANCES if name in evidence.methods]
    if len(here) < 2:
        return Verdict("", None, note="Needs two divergences among the methods.")
    lines, led = [], 0
    for measure in here:
        best = min(here, key=lambda method: evidence.mean(method, measure))
        led += best == measure
        if best != measure:
            gap = evidence.difference(measure, best, measure)
            lines.append(
                f"{SHORT[best]} leads in {TITLES[measure]} by {gap[0]:.4f} "
                f"({gap[1]:.4f} to {gap[2]:.4f})"
            )
    note = "; ".join(lines)
    return Verdict(f"{led} of {len(here)}", led == len(here), note=note)


def _covering(evidence: Evidence) -> Verdict:
    """Forward KL against the nearest other divergence."""
    others = [m for m in ("reverse_kl", "jensen_shannon", "skew_forward_kl")]
    others = [m for m in others if m in evidence.methods]
    if not others or "forward_kl" not in evidence.methods:
        return Verdict("", None, note="Needs forward KL and another divergence.")
    rival = min(others, key=lambda method: evidence.mean(method, "nats"))
    note = f"Against {SHORT[rival]}, the best of the others."
    return _compared(evidence, "forward_kl", rival, "nats", -1, note)


def _seeking(evidence: Evidence) -> Verdict:
    order = ("reverse_kl", "jensen_shannon", "forward_kl")
    if not evidence.has(*order):
        return Verdict("", None, note="Needs reverse KL, JS and forward KL.")
    values = [evidence.mean(method, "entropy") for method in order]
    gaps = [evidence.difference(order[i], order[i + 1], "entropy") for i in range(2)]
    teacher = float(np.mean(evidence.teacher["entropy"]))
    return Verdict(
        " < ".join(f"{v:.3f}" for v in values)
        if values == sorted(values)
        else ", ".join(f"{v:.3f}" for v in values),
        all(gap[2] < 0 for gap in gaps),
        "; ".join(_signed(gap)[1] for gap in gaps),
        f"Reverse KL, JS, forward KL; the teacher itself has {teacher:.3f}.",
    )


def _fused(evidence: Evidence) -> Verdict:
    found = evidence.fused
    share = found["fused/temporaries"] / max(found["dense/temporaries"], 1)
    mebibytes = [found[f"{form}/temporaries"] / 2**20 for form in ("fused", "dense")]
    return Verdict(
        f"{found['difference']:.1e}; temporaries {share:.2f} of the dense form's",
        found["difference"] <= 1e-4,
        note="Loss and both gradients of one batch, compiled, a window at a time: "
        f"{mebibytes[0]:.1f} against {mebibytes[1]:.1f} MiB.",
    )


def verdicts(evidence: Evidence, *, decide: bool) -> dict[str, Verdict]:
    """One per claim; `decide` False measures but does not judge."""
    out = {
        "OWN": _own_measure(evidence),
        "SOFT": _compared(evidence, "forward_kl", TEXT, "nats", -1),
        "COVER": _covering(evidence),
        "SEEK": _seeking(evidence),
        "AGREE": _compared(evidence, "reverse_kl", "forward_kl", "agreement", 1),
        "SKEW": _compared(
            evidence, "skew_forward_kl", "forward_kl", "jensen_shannon", -1
        ),
        "CALIBRATION": _compared(
            evidence,
            "reverse_kl",
            "forward_kl",
            "overconfidence",
            -1,
            "MiniLLM trains on its own samples; here both read the same text. "
            + ", ".join(
                f"ECE {evidence.ece(m):.3f} ({SHORT[m]})"
                for m in ("reverse_kl", "forward_kl")
                if m in evidence.methods
            )
            + ".",
        ),
        "ON-POLICY": _compared(
            evidence,
            "jensen_shannon/on_policy",
            "jensen_shannon",
            "reverse_kl",
            -1,
        ),
        "FUSED": _fused(evidence),
    }
    if decide:
        return out
    note = "Too short a run to decide."
    return {
        name: Verdict(verdict.measured, None, verdict.interval, note)
        for name, verdict in out.items()
    }


# ------------------------------------------------------------------ tables


def tables(evidence: Evidence, facts: dict[str, Any]) -> tuple[Table, ...]:
    """All measures of all students, and what the stages cost."""
    columns = ("student", *(TITLES[m] for m in MEASURES), "perplexity", "ECE")
    rows = [
        _row("teacher", evidence.teacher),
        _row("students before distillation", evidence.start),
        *(_method_row(evidence, method) for method in evidence.methods),
    ]
    seconds = [
        (stage, cpu, wall) for stage, (cpu, wall) in sorted(facts["seconds"].items())
    ]
    held_out = facts["text/held_out_windows"]
    return (
        Table(
            "On held-out text",
            columns,
            tuple(rows),
            f"Means over {held_out} windows and {len(evidence.seeds)} seed(s); p is "
            "the teacher, q the student, all on the ids that occur in the text. In "
            "nats, but for agreement, accuracy, confidence and ECE (shares). Intervals "
            "of the verdicts are over windows: they hold for these trained students, "
            "and say nothing of other seeds.",
        ),
        Table("Seconds by stage", ("stage", "CPU", "wall"), tuple(seconds)),
    )


def _row(title: str, found: dict[str, Any]) -> tuple[Any, ...]:
    means = [float(np.mean(found[m])) if m in found else None for m in MEASURES]
    return (title, *means, float(np.exp(np.mean(found["nats"]))), found["ece"])


def _method_row(evidence: Evidence, method: str) -> tuple[Any, ...]:
    means = [evidence.mean(method, measure) for measure in MEASURES]
    perplexity = float(np.exp(evidence.mean(method, "nats")))
    return (title_of(method), *means, perplexity, evidence.ece(method))


def metrics(evidence: Evidence, facts: dict[str, Any]) -> dict[str, Any]:
    """Flat numbers for whoever compares runs."""
    out = {k: v for k, v in facts.items() if k != "seconds"}
    for method in evidence.methods:
        for measure in MEASURES:
            per_seed = [
                float(np.mean(evidence.rows[method, s][measure]))
                for s in evidence.seeds
            ]
            out[f"{method}/{measure}"] = per_seed
        out[f"{method}/ece"] = [evidence.rows[method, s]["ece"] for s in evidence.seeds]
    known = [measure for measure in MEASURES if measure in evidence.teacher]
    out |= {f"teacher/{k}": float(np.mean(evidence.teacher[k])) for k in known}
    out |= {f"kernel/{k}": v for k, v in evidence.fused.items() if "seconds" not in k}
    return out
