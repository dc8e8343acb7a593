"""OThink-MR1: GRPO whose KL weight changes with the step, on questions about pictures.

GRPO-D (Liu et al. 2025, "OThink-MR1: Stimulating multimodal generalized reasoning
capabilities via dynamic reinforcement learning", arXiv 2503.16081) lets the weight of
the KL penalty fall while a policy explores and rise afterwards, and reports more right
answers than GRPO with a constant weight and than supervised fine-tuning, on the task
that is trained and on another one. Its scores are single runs on 200 and 753 questions
and its constant weight is another one on average; here the same schedule meets the
constant of its own mean, over many seeds, on pictures of coloured shapes: how many
shapes are there, and which color covers most. Accuracies are exact: the answer's
probability, summed over all responses. The paper's models (Qwen2-VL) are not run here.

One step size serves all methods alike: each has its own, chosen from the same ones on
seeds that are not scored; the same holds for the best constant weight.

    python -m experiments run othink_mr1                 # minutes on two cores
    python -m experiments run othink_mr1 --preset gpu    # wider, longer, more seeds
"""

import dataclasses
from typing import Any

import jax.numpy as jnp
import numpy as np
import optax

from experiments import kit
from experiments.papers.othink_mr1.lab import TASKS, ends

PAPER = "OThink-MR1: GRPO with a dynamic KL weight (arXiv 2503.16081)"

TITLES = {"own": "accuracy, %", "other": "on the other task, %", "at w": "at w, %",
          "KL": "KL to reference, nats"}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Config(kit.Settings):
    seeds: int = 16
    tuned_on: int = 3
    """Seeds of their own, for rates and the best constant."""
    pictures: int = 3000
    """To pretrain on; as many as `tests` are held out."""
    tests: int = 200
    examples: int = 120
    """Of the task that is trained (the paper: 100 and 120, for counting)."""
    width: int = 32
    pretraining: int = 200
    """Supervised steps on both tasks that the base model has behind it."""
    steps: int = 200
    turn: float = 0.3
    """w/t of Eq. 3, the paper's."""
    batch: int = 16
    group: int = 8
    low: float = 0.04
    high: float = 0.10
    """Of the weight, the paper's for counting; for geometry 0 to 0.02."""
    constant: float = 0.04
    """The paper's GRPO, for counting."""
    constants: tuple[float, ...] = (0.0, 0.01, 0.1, 0.4)
    """Among which the best one is looked for."""
    rates: tuple[float, ...] = (1e-3, 3e-3, 1e-2)
    """Of Adam, for every method."""


PRESETS = {
    "smoke": Config(
        seeds=2, tuned_on=2, pictures=100, tests=20, examples=20, width=8,
        pretraining=10, steps=10, batch=4, constants=(0.0,), rates=(3e-3,),
        decide=False,
    ),
    "cpu": Config(),
    # Never run by us: no accelerator was at hand.
    "gpu": Config(seeds=64, tuned_on=16, pictures=50_000, tests=2000, examples=1000,
                  width=256, pretraining=2000, steps=1000, batch=32, group=16),
    # The paper's weights for geometry. Its models answer questions about photographs;
    # ours stay what they are.
    "paper": Config(seeds=64, tuned_on=16, pictures=50_000, tests=2000, examples=8000,
                    width=256, pretraining=2000, steps=1000, batch=32, low=0.0,
                    high=0.02, constant=0.01),
}  # fmt: skip


def schedules(config: Config) -> dict[str, Any]:
    """The weight by step, of every method but the best constant."""
    low, high, steps = config.low, config.high, config.steps
    turn, mid = round(config.turn * steps), (low + high) / 2
    dynamic = optax.join_schedules(
        [optax.linear_schedule(mid, low, turn),
         optax.linear_schedule(low, high, steps - turn)], [turn],
    )  # fmt: skip
    dynamic = jnp.asarray(dynamic(jnp.arange(steps)))
    return {
        "GRPO-D": dynamic,
        "equal mean": jnp.full(steps, dynamic.mean()),
        "rising": jnp.linspace(low, high, steps),
        "falling": jnp.linspace(high, low, steps),
        "GRPO": jnp.full(steps, config.constant),
    }


def ahead(one: str, other: str, metric: str = "own"):
    """The value of a claim: a paired difference on either task."""
    return lambda scores: scores.by_level(lambda x: x.difference(metric, one, other))


CLAIMS = (
    kit.Claim(
        "DYNAMIC",
        "GRPO-D is right more often than GRPO with a constant weight of equal mean.",
        "ours: the paper's constant is smaller than its dynamic weight on average",
        ahead("GRPO-D", "equal mean"), kit.every(kit.interval_above(0)), ours=True,
    ),
    kit.Claim(
        "GRPO",
        "GRPO-D is right more often than GRPO with the paper's constant weight.",
        "its results: 64.5 to 76.5 % and 30.2 to 34.4 % (2B)",
        ahead("GRPO-D", "GRPO"), kit.every(kit.interval_above(0)),
        paper="+1.5 to +12 points, single runs",
    ),
    kit.Claim(
        "BEST",
        "GRPO-D is right more often than GRPO with the best constant weight.",
        "its sweep of constants: they rise, then fall",
        ahead("GRPO-D", "best constant"), kit.every(kit.interval_above(0)),
    ),
    kit.Claim(
        "SFT",
        "GRPO-D is right more often than supervised fine-tuning.",
        "its results: 68.5 to 76.5 % and 32.5 to 34.4 % (2B)",
        ahead("GRPO-D", "SFT"), kit.every(kit.interval_above(0)),
        paper="+1.9 to +8 points, single runs",
    ),
    kit.Claim(
        "SFT-FORGETS",
        "Supervised fine-tuning on one task costs accuracy on the other one.",
        "its cross-task results (2B)",
        ahead("SFT", "base", "other"), kit.every(kit.interval_below(0)),
        paper="-78 % from counting to geometry",
    ),
    kit.Claim(
        "TRANSFER",
        "GRPO-D on one task gains accuracy on the other one.",
        "its cross-task results (2B)",
        ahead("GRPO-D", "base", "other"), kit.every(kit.interval_above(0)),
        paper="+64 % and +4 %",
    ),
    kit.Claim(
        "KEEPS",
        "GRPO-D keeps more of the other task than supervised fine-tuning does.",
        "its cross-task results (2B)",
        ahead("GRPO-D", "SFT", "other"), kit.every(kit.interval_above(0)),
    ),
    kit.Claim(
        "ANCHOR",
        "A KL weight that rises at the end leaves the policy nearer to the reference "
        "than a constant of its mean.",
        "its motivation: exploration first, then a stronger anchor",
        ahead("GRPO-D", "equal mean", "KL"), kit.every(kit.interval_below(0)),
    ),
    kit.Claim(
        "MONOTONE",
        "What a rising KL weight is worth against the same weights falling.",
        "ours: the paper's words say rising, its Eq. 3 says falling, then rising",
        ahead("rising", "falling"), kit.shown(), ours=True,
    ),
)  # fmt: skip


def tuned(study: kit.Study) -> tuple[dict, dict, list]:
    """Rates and weights by step, of GRPO and of SFT, and all that was tried."""
    config, weights = study.config, schedules(study.config)
    seeds = tuple(1_000_000 + 100 * config.seed + i for i in range(config.tuned_on))
    constant = {c: jnp.full(config.steps, c) for c in config.constants}
    zero = {"SFT": jnp.zeros(config.steps)}
    best, rows = {}, []
    for sft, every in ((True, zero), (False, weights | constant)):
        kinds = {
            (x, rate): (rate, every[x]) for x, rate in kit.grid([*every], config.rates)
        }
        found = ends(study, "tuning", sft, seeds, kinds)
        for name in every:
            own = [float(found[name, r]["own"][..., -1].mean()) for r in config.rates]
            place = int(np.argmax(own))
            best[name] = own[place], (config.rates[place], every[name])
            label = name if isinstance(name, str) else f"constant {name:g}"
            rows.append((label, config.rates[place], *own))
    first = max(config.constants, key=lambda c: best[c][0])
    kinds = {name: best[name][1] for name in weights} | {
        "best constant": best[first][1]
    }
    return kinds, {"SFT": best["SFT"][1]}, rows


def run(study: kit.Study) -> kit.Scores:
    """Rates, then every method on both tasks with every seed."""
    config = study.config
    kinds, supervised_one, tried = tuned(study)
    found = ends(study, "scored", False, study.seeds, kinds)
    found |= ends(study, "scored", True, study.seeds, supervised_one)
    start = {k: v[..., :1].repeat(11, axis=-1) for k, v in found["SFT"].items()}
    found["base"] = start
    turn = round(10 * config.turn)
    rows = {
        (name, seed, task): {
            "own": v["own"][i, j, -1], "other": v["other"][i, j, -1],
            "KL": v["KL"][i, j, -1], "at w": v["own"][i, j, turn],
        }
        for name, v in found.items()
        for i, task in enumerate(TASKS)
        for j, seed in enumerate(study.seeds)
    }  # fmt: skip
    scores = kit.Scores(rows, titles=TITLES, factor="tasks")
    study.metrics |= scores.flat()
    study.scale = f"{config.pictures:,} pictures of 16 x 16 pixels, two questions"
    for task in TASKS:
        study.score_table(f"Trained on {task}", scores.at(task))
    study.difference_table("Minus the constant of equal mean", scores, "equal mean",
                           ["own", "other"], detail=True)  # fmt: skip
    about = "Accuracy at the end by rate, mean of both tasks, on seeds of their own."
    head = ("", "chosen", *map(str, config.rates))
    study.table("Step sizes and constant weights", head, tried, about, detail=True)
    draw(study, scores, found, kinds)
    return scores


def draw(study: kit.Study, scores: kit.Scores, found: dict, kinds: dict) -> None:
    """Weights, the distances that they allow, and accuracies."""
    gains = [scores.at(x).difference("own", "GRPO-D", "equal mean") for x in TASKS]
    words = " and ".join(f"{x.value:+.1f} ± {x.half_width():.1f}" for x in gains)
    title = (
        "A dynamic KL weight against the constant of its own mean: accuracy differs by "
        f"{words} points ({' and '.join(TASKS)})"
    )
    about = (
        f"Means over {study.config.seeds} seeds. Top: weight of the KL penalty; KL to "
        "the reference and accuracy on the way, trained to count. Bottom: accuracy at "
        "the end, dots are seeds, lines 95 % intervals of means."
    )
    shown = ("GRPO-D", "equal mean", "rising", "falling")
    steps = np.linspace(0, study.config.steps, 11)
    with study.figure("weights", title, about, panels=6, size=(4.4, 2.9)) as axes:
        series = {x: (np.arange(study.config.steps), kinds[x][1]) for x in shown}
        kit.figures.lines(axes[0], series, xlabel="step", ylabel="weight")
        for axis, key in zip(axes[1:3], ("KL", "own")):
            series = {x: (steps, found[x][key][0].mean(axis=0)) for x in shown}
            kit.figures.lines(
                axis, series, xlabel="step", ylabel=f"{TITLES[key]}, counting"
            )
        for axis, (task, key) in zip(
            axes[3:], [("counting", "own"), ("covering", "own"), ("counting", "other")]
        ):
            label = f"trained on {task}: {'other task' if key == 'other' else task}, %"
            kit.figures.dots(axis, scores.at(task), key, label=label)
