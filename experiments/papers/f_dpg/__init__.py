"""f-DPG: which divergence draws a policy to its target decides what is lost on the way.

A model is aligned by drawing it to a target law that rewards, constraints or moments
define (Go et al. 2023, "Aligning language models with preferences through
f-divergence minimization", arXiv 2302.08215): reverse KL is reinforcement learning with
a KL penalty, forward KL is DPG, and any other f-divergence can take their place. Here
all sequences of five of four tokens are summed over, so that what each divergence ends
at is exact: bigram policies, rewards that no bigram can express, twenty random base
models; then with 64 samples a step and a running estimate of Z, and with a word that
occurs in less than a hundredth of the texts. The paper's text was not at hand, only its
abstract, its code and summaries; its models (GPT-2, T5) are not run here. The `gpu` and
`paper` presets draw a transformer to texts that hold a word.

Step sizes are tuned for all divergences alike: the same rates, on base models of their
own, by the divergence that is minimized.

    python -m experiments run f_dpg                 # minutes on two cores
    python -m experiments run f_dpg --preset gpu    # a transformer, trained here
    python -m experiments run f_dpg --preset paper  # GPT-2; or --language.source FOLDER
"""

import dataclasses
from typing import Any

import numpy as np

from experiments import kit
from experiments.harness import check_names
from experiments.papers.f_dpg.lab import FINITE, FOUR, PROBLEMS, tuned
from experiments.papers.f_dpg.language import aligned
from kljax.generators import names

PAPER = "f-DPG: preferences through f-divergence minimization (arXiv 2302.08215)"

TITLES = {"reward": "mean reward", "entropy": "entropy, nats", "KL base": "KL to base",
          "own": "what is minimized", "own / exact": "over exact optimum",
          "holds": "with the word, %", "base holds": "base, %",
          "lowest": "lowest entropy", "target entropy": "target's entropy",
          "forward_kl": "KL(p‖q)", "reverse_kl": "KL(q‖p)", "jensen_shannon": "JS",
          "total_variation": "TV", "distinct": "distinct tokens, %"}  # fmt: skip
"""In nats where it is not said; p is the target, q the policy."""


@dataclasses.dataclass(frozen=True)
class Language:
    source: str | None = None
    """Name or folder of `from_pretrained`; None: a transformer, trained here on a
    random walk over its tokens."""
    width: int = 256
    depth: int = 6
    heads: int = 8
    vocabulary: int = 64
    text_steps: int = 2000
    word: tuple[int, ...] = (63,)
    """Ids that a text must hold, one after the other."""
    start: int = 0
    length: int = 32
    samples: int = 1024
    steps: int = 0
    """0: no transformer is drawn to anything."""
    rate: float = 1e-4


@dataclasses.dataclass(frozen=True)
class Config(kit.Settings):
    seeds: int = 20
    """Base models."""
    divergences: tuple[str, ...] = tuple(name for name in names() if name != "alpha")
    """Of the exact table; alpha at 1/2 is Hellinger's."""
    beta: float = 0.25
    exact_steps: int = 500
    steps: int = 2000
    samples: int = 64
    rates: tuple[float, ...] = (0.01, 0.03, 0.1, 0.3)
    """Of Adam, with cosine decay; the best one for every divergence, on other seeds."""
    language: Language = Language()

    def __post_init__(self):
        super().__post_init__()
        check_names("divergences", self.divergences, names())
        if missing := set(FOUR) - set(self.divergences):
            raise ValueError(f"divergences lack {sorted(missing)}")


PRESETS = {
    "smoke": Config(
        seeds=2, divergences=FOUR, exact_steps=20, steps=20, rates=(0.03, 0.1),
        decide=False,
    ),
    "cpu": Config(),
    # Never run by us: no accelerator was at hand. The token of the word is one in
    # 30,000, so that a thousandth of the texts hold it.
    "gpu": Config(seeds=3, steps=200, language=Language(steps=1000)),
    # Never run by us. GPT-2 and the word " amazing" (its id) are the paper's; 1,024
    # samples a step and Adam's 1.41e-5 its authors' code's; length and steps are ours.
    "paper": Config(
        seeds=1, steps=200,
        language=Language(
            "openai-community/gpt2", word=(4998,), start=50256, length=40,
            samples=1024, steps=1000, rate=1.41e-5,
        ),
    ),
}  # fmt: skip


def above(level: str, metric: str, one: str, other: str):
    """The value of a claim: a paired difference."""

    def value(found: dict[str, kit.Scores]) -> kit.Estimate:
        if level not in found:
            raise kit.Missing("needs a transformer, the presets gpu and paper")
        return found[level].difference(metric, one, other)

    return value


def between(metric: str, most: str, least: str):
    """Value and bar of a claim: total variation and JS lie between two others."""

    def value(found: dict[str, kit.Scores]) -> dict[str, kit.Estimate]:
        pairs = [(most, x) for x in FOUR[1:3]] + [(x, least) for x in FOUR[1:3]]
        return {
            f"{kit.title(a)} over {kit.title(b)}": above("exact", metric, a, b)(found)
            for a, b in pairs
        }

    return value, kit.every(kit.interval_above(0))


def own_column(found: dict[str, Any]) -> dict[str, float]:
    """share of base models on which no other policy comes nearer in its own sense"""
    exact, share = found["exact"], {}
    for name in FOUR:
        every = {x: exact.values(name, x) for x in exact.methods}
        share[kit.title(name)] = float(
            np.mean(every[name] <= np.min([*every.values()], axis=0) + 1e-6)
        )
    return share


def collapse(found: dict[str, Any]) -> dict[str, kit.Estimate]:
    """entropy of the reverse-KL policy against the target's, nats"""
    at = lambda metric: found["well specified"].units(metric, "reverse_kl")  # noqa: E731
    gap = lambda metric: kit.Estimate((at("target entropy") - at(metric),))  # noqa: E731
    return {"dip": gap("lowest"), "at the end": gap("entropy")}


CLAIMS = (
    kit.Claim(
        "ALIGNMENT",
        "Of exact optima reverse KL's earns the most reward, forward KL's the least; "
        "Jensen-Shannon and total variation lie between.",
        "abstract: no divergence is best, they trade alignment for diversity",
        *between("reward", "reverse_kl", "forward_kl"),
        paper="RKL aligns most, FKL least",
    ),
    kit.Claim(
        "DIVERSITY",
        "Of exact optima forward KL's has the most entropy, reverse KL's the least.",
        "abstract: the same",
        *between("entropy", "forward_kl", "reverse_kl"),
    ),
    kit.Claim(
        "MIDDLE",
        "The exact optimum of Jensen-Shannon earns more reward than that of total "
        "variation.",
        "ours: so it is for the first of these base models",
        above("exact", "reward", "jensen_shannon", "total_variation"),
        kit.interval_above(0), ours=True,
    ),
    kit.Claim(
        "OWN",
        "Nothing comes nearer to the target in a divergence than what minimizes it.",
        "a check of the optima: true of global ones", own_column,
        kit.every(kit.equal(1)), ours=True,
    ),
    kit.Claim(
        "SAMPLED",
        "With 64 samples a step and a running Z, training for a divergence comes to "
        "within 10 % of its exact optimum.",
        "ours",
        lambda found: {
            kit.title(x): found["sampled"].estimate("own / exact", x) for x in FOUR
        },
        kit.every(kit.at_most(1.1)), ours=True,
    ),
    kit.Claim(
        "ANY-LAW",
        "A policy that can be any law gets to the target with each divergence.",
        "ours",
        lambda found: {
            kit.title(x): found["well specified"].estimate("jensen_shannon", x)
            for x in FOUR
        },
        kit.every(kit.at_most(0.015)), ours=True,
    ),
    kit.Claim(
        "COLLAPSE",
        "A policy that can be any law loses half a nat of entropy under reverse KL and "
        "gets it back.",
        "its ablation, as others summarize it: entropy drops, then recovers", collapse,
        kit.all_of(dip=kit.at_least(0.5, "nats"), at_the_end=kit.at_most(0.2, "nats")),
    ),
    kit.Claim(
        "JS-BEATS-KL",
        "Drawn to texts with a rare word, a policy comes nearer to them in forward KL "
        "by minimizing Jensen-Shannon than by minimizing forward KL.",
        "abstract: JS outperforms KL even at forward KL",
        above("rare word", "forward_kl", "jensen_shannon", "forward_kl"),
        kit.interval_below(0), paper="its default for that reason",
    ),
    kit.Claim(
        "JS-HOLDS",
        "Drawn to a rare word by Jensen-Shannon, texts hold it more often than by "
        "forward KL.",
        "abstract: alignment with a constraint",
        above("rare word", "holds", "jensen_shannon", "forward_kl"),
        kit.interval_above(0),
    ),
    kit.Claim(
        "LANGUAGE",
        "The same of a transformer: more of its texts hold the word under "
        "Jensen-Shannon.",
        "abstract: the same",
        above("language", "holds", "jensen_shannon", "forward_kl"),
        kit.interval_above(0),
    ),
)  # fmt: skip


def run(study: kit.Study) -> dict[str, kit.Scores]:
    """Every divergence on every problem, from every base model."""
    config, found = study.config, {}
    study.scale = "all 1,024 texts of five tokens, policies of 20 and 1,364 numbers"
    chosen = {"exact": config.divergences, "rare word": FINITE}
    for name in PROBLEMS:
        options = tuple(chosen.get(name, FOUR))
        work = lambda x, name=name, options=options: tuned(study, name, x, options)  # noqa: E731
        found[name] = study.each(name, work, options)
    for name, ends in found["sampled"].items():
        ends["own / exact"] = ends["own"] / found["exact"][name]["own"]
    evidence = {
        name: kit.Scores(
            {
                (x, seed): {k: float(v[i]) for k, v in ends.items() if k in TITLES}
                for x, ends in every.items()
                for i, seed in enumerate(study.seeds)
            },
            titles=TITLES,
        )
        for name, every in found.items()
    }
    if config.language.steps:
        evidence["language"] = aligned(study)
        study.score_table("A transformer", evidence["language"])
    show(study, evidence, found)
    return evidence


def show(study: kit.Study, evidence: dict[str, kit.Scores], found: dict) -> None:
    """Tables and pictures."""
    exact = evidence["exact"]
    for name, scores in evidence.items():
        flat = scores.flat().items()
        study.metrics |= {f"{name}/{key}": value for key, value in flat}
    main = ["reward", "entropy", "forward_kl", "reverse_kl"]
    study.score_table("Exact optima of bigrams", exact, main,
                      every=["total_variation", "jensen_shannon", "own",
                             "KL base"])  # fmt: skip
    study.score_table("Bigrams by samples", evidence["sampled"],
                      ["reward", "entropy", "own", "own / exact"])  # fmt: skip
    study.score_table("Policies that can be any law", evidence["well specified"],
                      ["entropy", "lowest", "target entropy", "jensen_shannon"],
                      every=main)  # fmt: skip
    study.score_table("A rare word", evidence["rare word"],
                      ["holds", "base holds", "entropy", "forward_kl"],
                      every=["target entropy", "total_variation",
                             "jensen_shannon"])  # fmt: skip
    rows = [
        (name, kit.title(x), float(ends["rate"]), *map(float, ends["tried"]))
        for name, every in found.items()
        for x, ends in every.items()
    ]
    study.table(
        "Step sizes", ("", "minimized", "chosen", *map(str, study.config.rates)), rows,
        "The divergence that is minimized at the end, by rate, on other base models.",
        detail=True,
    )  # fmt: skip
    means = {
        x: [exact.mean(k, x) for k in ("entropy", "reward")] for x in exact.methods
    }
    ends = found["exact"]["forward_kl"]
    marks = {x: [ends[f"{x} {k}"].mean() for k in ("entropy", "reward")]
             for x in ("base", "target")}  # fmt: skip
    most = kit.title(max(means, key=lambda x: means[x][1]))
    varied = kit.title(max(means, key=lambda x: means[x][0]))
    title = (
        f"No policy here can be the target: the reward is largest under {most}, the "
        f"diversity under {varied}"
    )
    about = (
        f"Means over {study.config.seeds} base models. Left: exact optima of every "
        "divergence, with the base model and the target. Middle: a policy that could "
        "be the target, with 64 samples a step: means of entropy. Right: "
        "KL(target, policy) at the end where the target is the texts with a rare word; "
        "dots are base models, lines 95 % intervals of means."
    )
    with study.figure("trade_off", title, about, panels=3, size=(4.6, 3.8)) as axes:
        shades = kit.figures.colors((*FOUR, "squared_hellinger"))
        kit.figures.named(axes[0], means, shades={x: shades[x] for x in FOUR},
                          marks=marks, xlabel="diversity: entropy, nats",
                          ylabel="alignment: mean reward")  # fmt: skip
        paths = {x: ends["path"] for x, ends in found["well specified"].items()}
        count = len(next(iter(paths.values()))[0])
        steps = np.linspace(0, study.config.steps, count)
        kit.figures.lines(
            axes[1], {x: (steps, path.mean(axis=0)) for x, path in paths.items()},
            levels={"target": float(ends["target entropy"].mean())},
            shades=shades, xlabel="step", ylabel="entropy, nats",
        )  # fmt: skip
        kit.figures.dots(axes[2], evidence["rare word"], "forward_kl", shades=shades,
                         label="KL(target, policy), nats: a rare word")  # fmt: skip
