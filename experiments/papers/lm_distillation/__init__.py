"""A language model of 30 layers distilled into one of four: which divergence, and why.

Papers on the distillation of language models disagree about the divergence between
teacher and student: forward KL (Hinton et al. 2015), reverse KL (Gu et al. 2024,
"MiniLLM"), Jensen-Shannon and the student's own samples (Agarwal et al. 2024, "GKD"),
skew KL (Ko et al. 2024, "DistiLLM"). Here SmolLM2-135M teaches four of its own layers
by each of them, with the same text, start and budget, beside a control that learns from
the text alone.

Those papers judge long answers of models of 0.1 to 13 billion weights by ROUGE and by
GPT-4, which is not run here. What is judged is exact: held-out nats, divergences to the
teacher, first choices, entropy, calibration. The teacher reads the text once and its
states are stored. The best student is written in the Hugging Face layout.

    python -m kljax.data fetch smollm2                            # once, 93 MB
    python -m experiments run lm_distillation                     # minutes on two cores
    python -m experiments run lm_distillation --preset sweep      # three seeds
    python -m experiments run lm_distillation --data.path FOLDER  # text of your own
    python -m experiments run lm_distillation --preset gpu        # more text, on policy
    python -m experiments run lm_distillation --teacher.source FOLDER  # your own model
"""

import dataclasses
from typing import Any

import numpy as np

from experiments import kit
from experiments.harness import check_names
from experiments.papers.lm_distillation.lab import (
    DIVERGENCES,
    TEXT,
    Lab,
    StudentConfig,
    TeacherConfig,
)
from kljax.data.readers.python import check_packages
from kljax.data.text import TextConfig
from kljax.divergences import names

PAPER = "Distillation of language models: Hinton 2015, MiniLLM, GKD, DistiLLM"


@dataclasses.dataclass(frozen=True)
class Config(kit.Settings):
    methods: tuple[str, ...] = (TEXT, *DIVERGENCES)
    """Divergences, with /on_policy behind where the student writes a share of the
    batches; cross_entropy is the text alone."""
    data: TextConfig = dataclasses.field(default_factory=TextConfig)
    teacher: TeacherConfig = dataclasses.field(default_factory=TeacherConfig)
    student: StudentConfig = dataclasses.field(default_factory=StudentConfig)
    evaluations: int = 6
    """How often the held-out text is looked at in training."""
    shown: int = 24
    """Windows of it that are looked at then."""

    def __post_init__(self):
        super().__post_init__()
        check_names("methods", self.methods, (TEXT, *names()), suffix="on_policy")
        if f"{TEXT}/on_policy" in self.methods:
            raise ValueError(
                f"methods: '{TEXT}/on_policy': text alone has no teacher to ask"
            )
        if self.data.path is None:
            check_packages("data.packages", self.data.packages)


PRESETS = {
    "smoke": Config(
        methods=("jensen_shannon/on_policy",),  # text alone is what comes before it
        data=TextConfig(
            packages=("numpy",), files=40, tokens=4096, held_out=512, length=32
        ),
        teacher=TeacherConfig(source=None, width=32, depth=2, steps=30, batch=16),
        student=StudentConfig(
            layers=(0,), text_steps=10, text_rate=1e-2, steps=20, learning_rate=1e-2
        ),
        evaluations=3, shown=8, decide=False,
    ),
    "cpu": Config(),
    "sweep": Config(seeds=3),
    # Not run by us: no accelerator was at hand. 2.4 GB of hidden states on the disk.
    "gpu": Config(
        seeds=3,
        methods=(TEXT, *DIVERGENCES, "skew_reverse_kl", "jensen_shannon/on_policy"),
        data=TextConfig(tokens=2_097_152, held_out=65_536, length=256),
        student=StudentConfig(
            layers=(0, 1, 2, 3, 28, 29), text_steps=200, steps=1000, batch=32
        ),
        shown=64,
    ),
    # The papers' kind of pair by path, a teacher of some billion weights and a student
    # of GPT-2's size; our rates. 2 bytes per token and state. Never run by us.
    "paper": Config(
        seeds=3,
        methods=(
            TEXT, *DIVERGENCES, "skew_reverse_kl",
            *(f"{name}/on_policy" for name in DIVERGENCES),
        ),
        data=TextConfig(path="corpus", tokens=4_194_304, held_out=262_144, length=512),
        teacher=TeacherConfig(source="teacher"),
        student=StudentConfig(
            layers=(), width=768, depth=12, heads=12, kv_heads=12, hidden=2048,
            text_steps=5000, steps=20_000, batch=32,
        ),
        shown=256,
    ),
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Found:
    """What the claims are decided by."""

    scores: kit.Scores
    """Students, per held-out window."""
    teacher: dict[str, Any]
    fused: dict[str, float]


def leaders(found: Found) -> kit.Noted:
    """Divergences that are least in the student that was trained by them."""
    trained = found.scores.part(DIVERGENCES)
    if len(trained.methods) < 2:
        raise kit.Missing("needs two divergences among the methods")
    best = {name: trained.best(name, lowest=True) for name in trained.methods}
    lost = [
        f"{kit.title(other)} leads in {trained.title(name)} by "
        f"{trained.difference(name, name, other)}"
        for name, other in best.items()
        if name != other
    ]
    return kit.Noted(len(best) - len(lost), "; ".join(lost))


def covering(found: Found) -> kit.Noted:
    """Forward KL against the nearest other divergence."""
    others = found.scores.part(name for name in DIVERGENCES if name != "forward_kl")
    rival = others.best("nats", lowest=True)
    note = f"Against {kit.title(rival)}, the best of the others."
    return kit.Noted(found.scores.difference("nats", "forward_kl", rival), note)


def skewed(found: Found) -> kit.Noted:
    """Held-out, in a divergence that neither was trained by."""
    gap = found.scores.difference
    pair = ("skew_forward_kl", "forward_kl")
    return kit.Noted(
        gap("jensen_shannon", *pair),
        "The measure was chosen after a pilot in which skew KL lost in KL(p‖q), which "
        f"is forward KL's own: here {gap('forward_kl', *pair)} in it.",
    )


def calibrated(found: Found) -> kit.Noted:
    """Of first choices on the text."""
    pair = ("reverse_kl", "forward_kl")
    gap = found.scores.difference("overconfidence", *pair)
    errors = (f"{found.scores.mean('ece', m):.3f} ({kit.title(m)})" for m in pair)
    return kit.Noted(
        gap,
        "MiniLLM trains on its own samples; here both read the same text. ECE "
        f"{', '.join(errors)}.",
    )


def fused(found: Found) -> kit.Noted:
    """Largest relative difference of norms on a batch of this run."""
    sizes = [found.fused[f"{form}/temporaries"] / 2**20 for form in ("fused", "dense")]
    note = "Temporaries of one batch, a window at a time: {:.1f} against {:.1f} MiB."
    return kit.Noted(found.fused["difference"], note.format(*sizes))


CLAIMS = (
    kit.Claim(
        "SOFT",
        "A student that is taught by the teacher's whole distribution predicts text "
        "better than one that learns from as much text alone.", "Hinton et al. 2015",
        lambda found: found.scores.difference("nats", "forward_kl", TEXT),
        kit.interval_below(0),
    ),
    kit.Claim(
        "COVER",
        "Forward KL covers all that the teacher holds possible, and so gives the "
        "student that predicts text best among those of the divergences.",
        "Gu et al. 2024; Agarwal et al. 2024", covering, kit.interval_below(0),
    ),
    kit.Claim(
        "SEEK",
        "Reverse KL seeks the teacher's modes: its student's predictions are sharper "
        "(of less entropy) than forward KL's, with Jensen-Shannon's between them.",
        "Agarwal et al. 2024; Gu et al. 2024",
        lambda found: kit.Noted(
            found.scores.estimates(
                "entropy", "reverse_kl", "jensen_shannon", "forward_kl"
            ),
            f"The teacher itself has {found.teacher['entropy'].mean():.3f}.",
        ),
        kit.order("reverse KL", "JS", "forward KL"),
    ),
    kit.Claim(
        "SKEW",
        "Skew KL (beta = 0.1) brings the student closer to the teacher than forward KL "
        "at the same budget.", "Ko et al. 2024 (there by ROUGE-L of answers)", skewed,
        kit.interval_below(0),
    ),
    kit.Claim(
        "CALIBRATION", "Reverse KL gives a better calibrated student than forward KL.",
        "Gu et al. 2024 (there with the student's own samples)", calibrated,
        kit.interval_below(0),
    ),
    kit.Claim(
        "ON-POLICY",
        "A student that also learns on text of its own is closer to the teacher (by "
        "KL(q‖p) on given text, hence not where the papers see the gain).",
        "Agarwal et al. 2024",
        lambda found: found.scores.difference(
            "reverse_kl", "jensen_shannon/on_policy", "jensen_shannon"
        ),
        kit.interval_below(0),
    ),
    kit.Claim(
        "OWN",
        "A divergence gets what it asks for: among the students, each one leads in the "
        "divergence that it was trained by.", "what minimizing means", leaders,
        kit.at_least(len(DIVERGENCES), f"of {len(DIVERGENCES)}"), ours=True,
    ),
    kit.Claim(
        "AGREE",
        "A student trained by reverse KL chooses the same next token as its teacher "
        "more often than one trained by forward KL.",
        "our reading of mode seeking (Gu et al. 2024)",
        lambda found: found.scores.difference("agreement", "reverse_kl", "forward_kl"),
        kit.interval_above(0), ours=True,
    ),
    kit.Claim(
        "FUSED",
        "The fused loss equals the one over logits of all tokens, in value and in both "
        "gradients.", "performance of this library", fused, kit.at_most(1e-4),
        ours=True,
    ),
)  # fmt: skip

TITLES = {
    "nats": "nats per token",
    "perplexity": "perplexity",
    "forward_kl": "KL(p‖q), nats",
    "reverse_kl": "KL(q‖p), nats",
    "jensen_shannon": "JS, nats",
    "skew_forward_kl": "skew KL, nats",
    "entropy": "entropy of q, nats",
    "agreement": "agreement",
    "accuracy": "next token right",
    "confidence": "confidence",
    "ece": "ECE",
    "overconfidence": "confidence minus accuracy",
}  # fmt: skip
SHORT = ("nats", "perplexity", "forward_kl", "reverse_kl", "agreement", "ece")


def run(study: kit.Study) -> Found:
    """Teacher, students and scores; each is read back when it is finished."""
    config, lab = study.config, Lab(study)
    members, first = kit.grid(config.methods, study.seeds), study.seeds[0]
    rows = study.each("student", lambda one: lab.scores(lab.trained(*one)), members)
    start = study.once("start", lambda: lab.scores(lab.started(first)))
    teacher = study.once("teacher scores", lambda: lab.scores(None))
    rated = lambda row: row | {"perplexity": np.exp(np.mean(row["nats"]))}  # noqa: E731
    windows = {key: rated(row["windows"]) for key, row in rows.items()}
    scores = kit.Scores(windows, over="windows", titles=TITLES, bootstrap=True)
    found = Found(scores, rated(teacher["windows"]), study.once("fused", lab.fused))
    best = scores.best("nats", lowest=True)
    sizes = study.once(("export", best), lambda: lab.export(best, first))
    study.scale = (
        f"{config.data.tokens:,} tokens; {sizes['teacher'] / 1e6:.3g} to "
        f"{sizes['student'] / 1e6:.3g} million weights"
    )
    study.metrics |= {
        **scores.flat(),
        **{f"teacher/{k}": np.mean(v) for k, v in found.teacher.items()},
        **{f"{role}/parameters": count for role, count in sizes.items()},
        **{f"kernel/{k}": v for k, v in found.fused.items()},
        "text/windows": [len(lab.corpus.train), len(lab.corpus.held_out)],
        "text/vocabulary": len(lab.corpus.ids),
        "text/characters_per_token": lab.corpus.characters,
    }
    study.score_table(
        "On held-out text",
        scores,
        SHORT,
        every=tuple(TITLES),
        spread=False,
        more={"teacher": found.teacher, "before distillation": rated(start["windows"])},
        caption="p is the teacher, q the student, on the ids that occur in the text. "
        "Agreement (with the teacher's first choice), accuracy, confidence and ECE are "
        "shares; perplexity is exp(nats).",
    )
    curves = {m: rows[m, first]["reliability"] for m in scores.methods}
    pictures(study, found, curves | {"teacher": teacher["reliability"]})
    return found


def pictures(study: kit.Study, found: Found, reliability: dict[str, Any]) -> None:
    """Curves, measures, calibration."""
    scores, shown = found.scores, study.config.shown
    teacher = {name: float(np.mean(v)) for name, v in found.teacher.items()}
    panels = ("nats", "forward_kl", "reverse_kl", "agreement", "entropy", "ece")
    with study.figure(
        "scores",
        "What each divergence makes its student good at, and what not",
        "All students on all held-out windows; lines are 95 % intervals of the mean "
        "over windows (of differences they are far narrower, see the claims), black "
        "dots are seeds, dotted is the teacher. Axes do not start at 0.",
        panels=6,
        size=(3.7, 2.2 + 0.16 * len(scores.methods)),
        sharey=True,
    ) as axes:
        for axis, name in zip(axes, panels, strict=True):
            levels = {"teacher": teacher[name]} if name in teacher else {}
            kit.figures.dots(axis, scores, name, levels=levels)
    first = study.seeds[0]
    curves = {
        m: study.curve(("train", m, first), "held_out/nats") for m in scores.methods
    }
    level = {"teacher": float(found.teacher["nats"][:shown].mean())}
    with study.figure(
        "learning",
        "From one start to different likelihoods, and to different trust in oneself",
        f"Left: mean over the first {shown} held-out windows while the first seed's "
        "students learn; dotted is the teacher. Right: twelve equal groups of held-out "
        "tokens by confidence; below the diagonal a model is too sure of itself.",
        panels=2,
        size=(5.4, 4.4),
    ) as axes:
        labels = {"xlabel": "step", "ylabel": "held-out nats per token"}
        kit.figures.lines(axes[0], curves, levels=level, marker="o", **labels)
        axes[1].plot([0, 1], [0, 1], color="grey", lw=1, label="calibrated")
        labels = {"xlabel": "confidence", "ylabel": "share that is right"}
        kit.figures.lines(axes[1], reliability, marker="o", **labels)
