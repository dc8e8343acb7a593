"""Reinforcement learning with a KL penalty is Bayesian inference, checked exactly.

A policy that maximizes reward alone ends on one answer, whatever else is as good; with
a KL penalty to its prior it ends at a posterior, prior times exp(reward / beta)
(Korbak, Perez, Buckley 2022, "RL with KL penalties is better viewed as Bayesian
inference", arXiv 2205.11275). The paper argues and has no experiments: we train
policies over all 1,024 sequences of five tokens out of four by exact gradients, so that
nothing is due to sampling, and hold samplers (importance weights, best of n) against
the same posterior. The evidence of a language model, whose texts cannot be enumerated,
is put between bounds.

    python -m experiments run rl_kl_bayes                 # minutes on two cores
    python -m experiments run rl_kl_bayes --preset gpu    # a larger language model
    python -m experiments run rl_kl_bayes --language.source FOLDER   # your own
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from experiments import kit
from experiments.papers.rl_kl_bayes.lab import (
    ALONE,
    BETAS,
    FORWARD,
    POSTERIOR,
    REVERSE,
    SAMPLED,
    TIED,
    TITLES,
    Language,
    best,
    by_language,
    by_samples,
    identities,
    name_of,
    path,
    trained,
)  # fmt: skip
from kljax.data.text import TextConfig

PAPER = "RL with KL penalties is better viewed as Bayesian inference (arXiv 2205.11275)"


@dataclasses.dataclass(frozen=True)
class Config(kit.Settings):
    seeds: int = 12
    steps: int = 2000
    rate: float = 0.2
    bigram_steps: int = 1500
    bigram_rate: float = 0.03
    """With cosine decay. Adam does not see the scale of J: one rate serves every β."""
    repeats: int = 4096
    """Estimates of Z, each by 16 samples."""
    gradient_samples: int = 2**18
    language: Language = dataclasses.field(default_factory=Language)


PRESETS = {
    "smoke": Config(
        seeds=2, steps=40, bigram_steps=40, repeats=64, gradient_samples=1024,
        language=Language(width=16, depth=1, steps=4, samples=64, tokens=4),
        decide=False,
    ),
    "cpu": Config(),
    # Never run by us: no accelerator was at hand. Six layers, as a language model for
    # ten minutes of an H100 allows.
    "gpu": Config(
        seeds=20,
        language=Language(
            text=TextConfig(tokens=4_194_304, length=128), width=256, depth=6,
            steps=5000, samples=65_536, tokens=64,
        ),
    ),
    # Never run by us. The paper has no experiments and names no model: any by path.
    "paper": Config(
        seeds=20, language=Language(source="prior", samples=65_536, tokens=64)
    ),
}  # fmt: skip

Found = dict[str, Any]


def worst(part: str, metric: str, *methods: str, lowest: bool = False) -> Callable:
    """Value of a claim: the worst seed of some methods."""
    return lambda found: found[part].part(methods).extreme(metric, lowest=lowest)


def collapse(found: Found) -> dict[str, float]:
    """of the worst seed"""
    top = worst("table", "top", ALONE, lowest=True)(found)
    return {"entropy": worst("table", "entropy", ALONE)(found), "largest p": top}


def at_posterior(found: Found) -> dict[str, float]:
    """over all seeds, β = 0.5 and 0.25"""
    both = [name_of(beta) for beta in (0.5, 0.25)]
    off = worst("table", "entropy off", *both)(found)
    return {"KL": worst("table", "gap", *both)(found), "entropy off": off}


def largest(part: str, *metrics: str) -> Callable:
    """Value of a claim: the largest error of all seeds."""
    return lambda found: {k: found[part].extreme(k) for k in metrics}


TIGHT = kit.every(kit.at_most(1e-12))
CLAIMS = (
    kit.Claim(
        "COLLAPSE",
        "Reward alone, with exact gradients, leaves one sequence (the best one is "
        "unique).",
        "section 2", collapse,
        kit.all_of(entropy=kit.below(0.05, "nats"), largest_p=kit.above(0.99)),
    ),
    kit.Claim(
        "COLLAPSE-TIES",
        "Where 81 sequences are equally good (4.39 nats) all but one are lost.",
        "section 2",
        lambda found: found["table"].estimate("top", TIED), kit.at_least(0.9),
    ),
    kit.Claim(
        "POSTERIOR",
        "With a KL penalty the same training ends at the posterior.",
        "Eq. 5", at_posterior,
        kit.all_of(KL=kit.below(1e-4, "nats"), entropy_off=kit.at_most(0.01)),
    ),
    kit.Claim(
        "IDENTITY",
        "J = β log Z − β KL(policy‖posterior), values and gradients.",
        "Eq. 7", largest("exact", "identity", "gradient"), 
        kit.every(kit.at_most(1e-10)),
        measure="largest relative difference, 20 random cases per seed",
    ),
    kit.Claim(
        "ELBO",
        "J / β is below the log evidence, and reaches it at the posterior alone.",
        "appendix",
        lambda found: {
            "random": found["exact"].extreme("gap", lowest=True),
            "posterior": found["exact"].extreme("gap at optimum"),
        },
        kit.all_of(random=kit.above(0), posterior=kit.at_most(1e-12)),
        measure="log Z − J / β: least of random policies, largest of posteriors",
    ),
    kit.Claim(
        "SWEEP-REWARD",
        "The smaller β, the larger the trained policy's reward.", "Eq. 5",
        lambda found: found["table"].estimates("reward", *map(name_of, BETAS)),
        kit.order(*map(name_of, BETAS)),
    ),
    kit.Claim(
        "SWEEP-KL", "The smaller β, the further it goes from the prior.", "Eq. 5",
        lambda found: found["table"].estimates("KL", *map(name_of, BETAS)),
        kit.order(*map(name_of, BETAS)),
    ),
    kit.Claim(
        "LIMITS",
        "It is the prior at large β, and the prior given the best at small β.",
        "derived here", largest("exact", "TV to prior", "TV to conditioned"),
        kit.every(kit.below(1e-3)),
    ),
    kit.Claim(
        "EVIDENCE",
        "Two rewards tilt as their sum; a binary one adds 1/β to the log-odds and "
        "keeps ratios.",
        "derived here", largest("exact", "compose", "log-odds", "ratios"), TIGHT,
        measure="largest error",
    ),
    kit.Claim(
        "ROOT-LAW",
        "A small tilt gains σ √(2 KL) in reward: the curve that the paper leaves open.",
        "derived here; limitations", largest("exact", "root law"),
        kit.every(kit.at_most(0.01)), measure="|gain / law − 1| at β = 30 σ",
    ),
    kit.Claim(
        "WEIGHTS",
        "Importance weights from the prior give Z without bias.", "section 4",
        worst("samples", "Z", "prior"), kit.at_most(4),
        measure="largest distance of the mean of Ẑ from Z, standard errors",
    ),
    kit.Claim(
        "WEIGHTS-LOG", "Their log Ẑ is too low.", "derived here",
        lambda found: found["samples"].estimate("log Z", "prior"),
        kit.interval_below(0),
    ),
    kit.Claim(
        "GRADIENT",
        "The gradient by samples of the policy is the exact one.", "derived here",
        lambda found: found["samples"].estimate("error", "mean baseline"),
        kit.at_most(0.02),
    ),
    kit.Claim(
        "BASELINE",
        "A mean baseline lowers its variance.", "derived here",
        lambda found: found["samples"].mean_of_ratios(
            "variance", "no baseline", "mean baseline"
        ),
        kit.interval_above(1),
    ),
    kit.Claim(
        "BEST-OF-N",
        "The best of n samples has nearly the reward of the posterior at equal KL, and "
        "never more.",
        "section 4: another way to infer the same",
        lambda found: {
            n: found["samples"].mean("share", n) for n in map(best, SAMPLED)
        },
        kit.every(kit.within(0.9, 1)), ours=True,
        measure="gain over the prior, share of the posterior's",
    ),
    kit.Claim(
        "MISSPECIFIED",
        "A bigram policy cannot reach the posterior (β = 0.25): a gap stays.",
        "section 3", worst("bigram", "gap", REVERSE, lowest=True),
        kit.above(0.1, "nats"),
        measure="KL(policy‖posterior), the smallest of all seeds",
    ),
    kit.Claim(
        "MODE",
        "There the penalty's reverse KL picks a mode: less entropy than by forward KL.",
        "section 3",
        lambda found: found["bigram"].difference("entropy", REVERSE, FORWARD),
        kit.interval_below(0),
    ),
    kit.Claim(
        "BRACKET",
        "Samples put the evidence of a language model between bounds.", "ours",
        lambda found: found["language"], kit.every(kit.below(0.1, "nats")), ours=True,
        measure="widest of three rewards, by β in their standard deviations",
    ),
)  # fmt: skip


def run(study: kit.Study) -> Found:
    """Training, what holds exactly, samples, a language model."""
    config, seeds = study.config, study.seeds
    with jax.enable_x64(True):
        scores = {name: trained(study, name) for name in ("table", "bigram")}
        errors = study.each("identities", identities, seeds)
        samples = study.each("samples", lambda seed: by_samples(config, seed), seeds)
        curve = study.once("path", lambda: path(seeds[0], np.geomspace(0.1, 100, 60)))
    rows = {(k, seed): row for seed in seeds for k, row in samples[seed].items()}
    names = {
        "Z": "|mean Ẑ − Z|, standard errors", "log Z": "log Ẑ − log Z, nats",
        "effective": "effective share over the exact one", "error": "relative error",
        "variance": "variance of one sample", "share": "share of the posterior's gain",
    }  # fmt: skip
    language = by_language(study)
    widths: dict[str, float] = {}
    for _, beta, low, high, *_ in language:
        name = f"β = {beta:g}"
        widths[name] = max(widths.get(name, 0.0), high - low)
    found: Found = {
        **scores,
        "exact": kit.Scores({("exact", seed): row for seed, row in errors.items()}),
        "samples": kit.Scores(rows, titles=names | TITLES),
        "language": widths,
    }
    study.scale = f"1,024 sequences, {len(seeds)} priors; texts of a language model"
    for part in ("table", "bigram", "samples"):
        study.metrics |= found[part].flat()
    show(study, found, curve)
    head = ("reward", "β", "log Z from", "to", "effective share", "accepted")
    about = "Samples: half of them for each bound, the upper one by rejection."
    study.table("Evidence of a language model", head, language, about)
    return found


def show(study: kit.Study, found: Found, curve: dict[str, np.ndarray]) -> None:
    """Tables and pictures."""
    table, few, samples = found["table"], found["bigram"], found["samples"]
    about = "KL to the posterior: of the policy's β; without penalty, of β = 0.5."
    study.score_table("Policies with a row for every prefix", table, caption=about)
    study.score_table("Bigram policies, β = 0.25", few)
    study.score_table("Errors of what holds exactly", found["exact"], detail=True)
    study.score_table("By samples", samples, detail=True)

    one = name_of(0.5)
    title = (
        "Reward alone forgets 80 of 81 best answers; with a KL penalty the policy "
        "becomes the posterior, and stays as varied"
    )
    about = (
        f"Exact gradients from the same {len(study.seeds)} priors (thin lines). "
        "Distance: to the posterior of β = 0.5, whose means are dotted."
    )
    with study.figure("training", title, about, panels=3) as axes:
        for axis, metric in zip(axes, ("reward", "entropy", "gap")):
            steps, every = study.curve("table", metric)
            every = every.reshape(len(steps), -1, len(study.seeds))
            series = {
                m: (steps, every[:, table.methods.index(m)].T) for m in (TIED, one)
            }
            ends = (
                {}
                if metric == "gap"
                else {"posterior": table.mean(POSTERIOR + metric, one)}
            )
            labels = {"xlabel": "step", "ylabel": table.title(metric)}
            kit.figures.lines(axis, series, levels=ends, **labels)
        axes[2].set_yscale("log")

    title = (
        "Reward is bought with KL: by the root at first, and no sampler or policy "
        "gets more for it than the posterior"
    )
    about = (
        "Seed 0. Line: posteriors of all β; dashed: σ √(2 KL). The right panel: what a "
        "policy that cannot express the posterior loses (β = 0.25, means over seeds)."
    )
    seed = study.seeds[0]
    with study.figure("budget", title, about, panels=3) as axes:
        root = np.sqrt(curve["kl"])
        lines = {
            "posterior": (root, curve["gain"]),
            "law/small tilt": (root, curve["root_law"]),
        }
        labels = {"xlabel": "√KL to the prior", "ylabel": "reward gained"}
        kit.figures.lines(axes[0], lines, **labels)
        marks = {
            "best of n": [samples.rows[best(n), seed, None] for n in SAMPLED],
            "trained with KL": [table.rows[name_of(b), seed, None] for b in BETAS],
            "bigram, reverse KL": [few.rows[REVERSE, seed, None]],
        }
        for (name, rows), mark in zip(marks.items(), "osD"):
            x, y = ([row[k] for row in rows] for k in ("KL", "gain"))
            axes[0].plot(np.sqrt(x), y, mark, ms=5, label=name)
        axes[0].set_ylim(0, 1.1 * curve["gain"].max())
        axes[0].legend(fontsize=8)
        shares = {name: samples.values("share", name) for name in map(best, SAMPLED)}
        kit.figures.bars(axes[1], shares, xlabel="reward gained, share at equal KL")
        reached = {name: few.values("entropy", name) for name in (REVERSE, FORWARD)}
        reached["posterior"] = few.values(POSTERIOR + "entropy", REVERSE)
        kit.figures.bars(axes[2], reached, xlabel="entropy, nats")
