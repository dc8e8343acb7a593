"""SALSA: a soup of two fine-tuned models as the reference of RLHF.

RLHF holds a policy near the fine-tuned model that it started from; SALSA holds it near
the mean of the weights of two such models, which is said to give a higher reward and to
allow larger moves (Chegini et al. 2024, "SALSA: Soup-based alignment learning for
stronger adaptation in RLHF", arXiv 2411.01798). We ask it of products of two digits,
where all 64 answers to all 64 prompts are enumerated: what each reference could give at
best is then known before anything is trained, and what training adds to it as well.
Beside the soup stand the two mixtures of the models' laws, and the comparison that the
paper lacks: rewards at an equal distance from the first model. The paper's text was not
to be had, so that its hyper-parameters are not known; its models (7B) are not run here.

    python -m experiments run salsa                 # minutes on two cores
    python -m experiments run salsa --preset gpu    # digits to base 16
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.flatten_util import ravel_pytree

from experiments import kit
from experiments.kit.language import forecast
from kljax.divergences import reverse_kl
from kljax.metrics import frontier_gain
from kljax.models.language.task_arithmetic import soup
from kljax.objectives.policy.advantages import leave_one_out_advantages
from kljax.objectives.policy.losses import policy_loss
from kljax.objectives.targets import Mixture, Product
from kljax.theory import posterior as exact
from kljax.theory.budget import compared
from kljax.training import Loss, stacked

PAPER = "SALSA: soup-based alignment learning in RLHF (arXiv 2411.01798)"

FIRST, SECOND, SOUP = "first model", "second model", "soup"
GEOMETRIC, ARITHMETIC = "geometric mixture", "arithmetic mixture"
TWICE = "soup of the first with itself"
REFERENCES = (FIRST, SECOND, SOUP, GEOMETRIC, ARITHMETIC)
TRAINED = (FIRST, SOUP, GEOMETRIC, ARITHMETIC, TWICE)
PATH = sorted({*np.geomspace(0.02, 20, 40), 0.3, 0.1})  # β of the optima
AXES, LEARNED = ("KL", "reward"), ("exact", "sampled")
MATCHED = {"optimum": "best that there is", "exact": "trained by exact gradients"}
TITLES = {
    "reward": "share of right digits", "KL": "KL to first model",
    "own KL": "KL to reference", "own": "reference's reward",
    "reached": "share of what is to be gained",
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Config(kit.Settings):
    seeds: int = 10
    digits: int = 8
    hidden: int = 64
    tuning: int = 150
    """Steps of the base model, and of each fine-tuned one behind it."""
    tuning_rate: float = 3e-3
    wrong: tuple[float, float] = (0.5, 0.3)
    """Share of prompts with wrong labels: of the base, of the fine-tuned models."""
    rate: float = 1e-2
    """Of all policies, with cosine decay; looked for, as the width, on other seeds."""
    steps: int = 400
    betas: tuple[float, ...] = (0.6, 0.3, 0.17, 0.1, 0.05)
    sampled_steps: int = 300
    sampled_betas: tuple[float, ...] = (0.3, 0.1)
    samples: int = 8
    """Answers to each prompt in a step."""
    sources: tuple[str, ...] = ()
    """Two fine-tuned language models, by name or folder."""
    texts: int = 4096
    tokens: int = 64


SHORT: dict[str, Any] = {"tuning": 30, "steps": 20, "sampled_steps": 5}
PRESETS = {
    "smoke": Config(seeds=2, betas=(0.3, 0.1), decide=False, **SHORT),
    "cpu": Config(),
    # Never run by us: no accelerator was at hand.
    "gpu": Config(seeds=50, digits=16, hidden=256, steps=2000, sampled_steps=2000),
    # Never run by us: two models of 7B by path, and what their soup could give, by
    # samples. The paper's rates and its reward models are not known.
    "paper": Config(sources=("first", "second"), texts=16_384, tokens=256),
}


def higher(found: dict[str, kit.Scores], part: str) -> dict[str, float]:
    """share of seeds, by β"""
    shares = {}
    for beta in found["sampled"].levels:
        one, other = (found[part].at(beta).values("reward", x) for x in (SOUP, FIRST))
        shares[f"{part}, β = {beta:g}"] = float(np.mean(one > other))
    return shares


def by_beta(metric: str, one: str, other: str) -> Any:
    """A paired difference of policies trained by samples, at every β."""
    apart = lambda scores: scores.difference(metric, one, other)  # noqa: E731
    return lambda found: found["sampled"].by_level(apart)


CLAIMS = (
    kit.Claim(
        "HIGHER",
        "A policy that is held near the soup ends with a higher reward than one that "
        "is held near the first model, at equal β.",
        "abstract", lambda found: higher(found, "exact") | higher(found, "sampled"),
        kit.every(kit.at_least(0.8)), paper="higher with all three models",
        measure="share of seeds, trained by exact gradients and by samples",
    ),
    kit.Claim(
        "FURTHER", "It goes further from the first model.", "abstract",
        by_beta("KL", SOUP, FIRST), kit.every(kit.interval_above(0)),
    ),
    kit.Claim(
        "FORECAST",
        "The best that there is with the soup is better, before any training.",
        "derived here", lambda found: higher(found, "optimum"),
        kit.every(kit.at_least(0.9)), measure="share of seeds", ours=True,
    ),
    kit.Claim(
        "MATCHED",
        "At equal KL to the first model, too, the soup gives the higher reward.",
        "asked for by reviewers",
        lambda found: {k: found["equal KL"].estimate(k, SOUP) for k in MATCHED},
        kit.every(kit.interval_above(0)), ours=True,
        measure="reward minus that by the first model, mean over equal KLs",
    ),
    kit.Claim(
        "MIXTURE",
        "A mixture of both laws is a better reference than the soup, at equal β.",
        "ours", by_beta("reward", ARITHMETIC, SOUP),
        kit.every(kit.interval_above(0)), ours=True,
    ),
    kit.Claim(
        "REACHED",
        "Training ends near the best that there is with the soup.", "derived here",
        lambda found: {
            f"β = {beta:g}": found["exact"].at(beta).values("reached", SOUP).min()
            for beta in found["sampled"].levels
        },
        kit.every(kit.at_least(0.95)), ours=True,
        measure="share of J* − J at the start, by exact gradients, worst seed",
    ),
    kit.Claim(
        "CONTROL",
        "The soup of the first model with itself is plain training, bit for bit.",
        "control",
        lambda found: {k: found[k].part([TWICE]).extreme("apart") for k in LEARNED},
        kit.every(kit.equal(0)), ours=True, measure="largest difference of a weight",
    ),
)  # fmt: skip


def rewards(config: Config) -> np.ndarray:
    """Share of right digits of the product of both, `[prompts, answers]`."""
    d, answer = config.digits, np.arange(config.digits**2)
    wanted = np.multiply.outer(*[np.arange(d)] * 2).reshape(-1, 1)
    right = np.stack([answer // d == wanted // d, answer % d == wanted % d])
    return right.mean(axis=0)


def labels(config: Config, share: float, *stream: int) -> np.ndarray:
    """Answers to learn from: right ones, a share of them drawn anew."""
    rng, found = np.random.default_rng(stream), rewards(config).argmax(axis=1)
    bad = rng.permutation(len(found))[: round(share * len(found))]
    found[bad] = rng.integers(0, len(found), len(bad))
    return found


def initial(config: Config, seed: int) -> dict[str, Any]:
    d, width, rng = config.digits, config.hidden, np.random.default_rng([seed, 3])
    sizes = {"a": (d, width), "b": (d, width), "last": (d + 1, width)}
    params = {k: rng.normal(size=size) for k, size in sizes.items()}
    params |= {"out": rng.normal(size=(width, d)) / width**0.5, "bias": np.zeros(d)}
    return jax.tree.map(lambda x: x.astype(np.float32), params)


def next_digit(params: dict[str, Any]) -> Any:
    """Log-probabilities `[prompts, d + 1, d]` behind each first digit; last: of it."""
    both = params["a"][:, None, None] + params["b"][None, :, None] + params["last"]
    logits = jnp.tanh(both.reshape(-1, *both.shape[2:])) @ params["out"]
    return jax.nn.log_softmax(logits + params["bias"])


def answers(log_next: Any) -> Any:
    """Of all answers, `[prompts, d²]`."""
    both = log_next[:, -1, :, None] + log_next[:, :-1]
    return both.reshape(len(both), -1)


def references(first: Any, second: Any) -> dict[str, Any]:
    """Laws of answers that a policy may be held to."""
    one, two = next_digit(first), next_digit(second)
    even = Product().log_score(one, two[..., None])
    return {
        FIRST: answers(one),
        SECOND: answers(two),
        SOUP: answers(next_digit(soup([first, second]))),
        GEOMETRIC: answers(jax.nn.log_softmax(even)),
        ARITHMETIC: Mixture().log_score(answers(one), answers(two)[..., None]),
        TWICE: answers(next_digit(soup([first, first]))),
    }


def tuned(study: kit.Study, stage: str, starts: dict, wrong: float) -> dict:
    """Models that learned answers, each with wrong labels of its own."""
    config, members = study.config, {}
    for (part, seed), start in starts.items():
        taught = labels(config, wrong, seed, part)
        members[part, seed] = {"start": start, "seed": seed, "labels": taught}

    def loss(params: Any, own: Any, key: Any) -> Loss:
        law = answers(next_digit(params))
        right = jnp.take_along_axis(law, own["labels"][:, None], axis=1)
        return Loss(-right[:, 0], {})

    rule = optax.adam(config.tuning_rate)
    return study.learn(stage, loss, members, rule, steps=config.tuning)


def by_gradient(law: Any, own: Any, reward: Any, *_: Any) -> Any:
    """The objective itself, all answers enumerated."""
    return -exact.objective(law, own["reference"], reward, own["beta"])


def by_samples(law: Any, own: Any, reward: Any, key: Any, count: int) -> Any:
    """PPO's loss, a step for each batch, on answers that are each other's baselines."""
    up_to = jnp.cumsum(jnp.exp(jax.lax.stop_gradient(law)), axis=1)[:, None]
    drawn = (up_to < jax.random.uniform(key, (len(law), count, 1))).sum(axis=-1)
    # A whole answer is one action: one token, to the loss.
    at = lambda x: jnp.take_along_axis(x, drawn, axis=1, mode="clip")[..., None]  # noqa: E731
    advantages = leave_one_out_advantages(at(reward)[..., 0])
    held = {"log_p": at(own["reference"]), "beta": own["beta"]}
    loss, _ = policy_loss(at(law), advantages, aggregate=1.0, **held)
    return loss.mean(axis=-1)


def judged(law: Any, own: dict[str, Any], reward: Any) -> dict[str, Any]:
    """A policy's law of answers, means over prompts."""
    given = own["reference"], reward, own["beta"]
    value = lambda law: exact.objective(law, *given).mean()  # noqa: E731
    most, start = own["beta"] * exact.log_partition(*given).mean(), value(own["first"])
    return {
        "reward": exact.expected(law, reward).mean(),
        "KL": reverse_kl(own["first"], law).mean(),
        "own KL": reverse_kl(own["reference"], law).mean(),
        "reached": (value(law) - start) / (most - start),
    }


def policies(study: kit.Study, name: str, models: Any, laws: Any, reward: Any) -> Any:
    """Scores of policies that start as the first model, by reference, seed and β."""
    config, members = study.config, {}
    loss, betas, steps = {
        "exact": (by_gradient, config.betas, config.steps),
        "sampled": (by_samples, config.sampled_betas, config.sampled_steps),
    }[name]
    for method, (i, seed), beta in kit.grid(TRAINED, enumerate(study.seeds), betas):
        own = {"reference": laws[method][i], "first": laws[FIRST][i], "beta": beta}
        members[method, seed, beta] = own | {"start": models[1, seed], "seed": seed}

    def of(params: Any, own: Any, key: Any) -> Loss:
        law = answers(next_digit(params))
        return Loss(loss(law, own, reward, key, config.samples), {})

    rule = optax.adam(optax.cosine_decay_schedule(config.rate, steps))
    ends = study.learn(name, of, members, rule, steps=steps)
    ask = lambda params, own: judged(answers(next_digit(params)), own, reward)  # noqa: E731
    every = stacked([*ends.values()]), stacked([*members.values()])
    found = jax.tree.map(np.asarray, jax.jit(jax.vmap(ask))(*every))
    rows = {m: {k: v[i] for k, v in found.items()} for i, m in enumerate(members)}
    flat = {m: ravel_pytree(params)[0] for m, params in ends.items()}
    for m, row in rows.items():
        row["apart"] = np.max(np.abs(flat[m] - flat[FIRST, *m[1:]]))
    return kit.Scores(rows, titles=TITLES, factor="β")


def optima(study: kit.Study, laws: Any, reward: Any) -> kit.Scores:
    """What each reference could give at best, before anything is trained."""
    some = {name: laws[name] for name in REFERENCES}
    of_all = lambda laws, beta: compared(laws, reward, beta, FIRST)  # noqa: E731
    every = jax.jit(jax.vmap(jax.vmap(of_all, (None, 0)), (0, None)))
    rows = {}
    for name, best in every(some, jnp.asarray(PATH)).items():
        found = {"reward": best.reward, "KL": best.kl_anchor, "own": best.own_reward}
        found = {k: np.asarray(v).mean(axis=-1) for k, v in found.items()}
        for (i, seed), (j, beta) in kit.grid(enumerate(study.seeds), enumerate(PATH)):
            rows[name, seed, beta] = {k: v[i, j] for k, v in found.items()}
    return kit.Scores(rows, titles=TITLES, factor="β")


def run(study: kit.Study) -> dict[str, kit.Scores]:
    """Two fine-tuned models, what each reference could give, and what it does give."""
    config, seeds = study.config, study.seeds
    reward = jnp.asarray(rewards(config), jnp.float32)
    starts = {(0, seed): initial(config, seed) for seed in seeds}
    base = tuned(study, "base", starts, config.wrong[0])
    starts = {(part, seed): base[0, seed] for part in (1, 2) for seed in seeds}
    models = tuned(study, "models", starts, config.wrong[1])
    pair = [stacked([models[part, seed] for seed in seeds]) for part in (1, 2)]
    laws = jax.tree.map(np.asarray, jax.jit(jax.vmap(references))(*pair))
    found = {"optimum": optima(study, laws, reward)}
    found |= {name: policies(study, name, models, laws, reward) for name in LEARNED}
    gains: dict[tuple, dict[str, float]] = {}
    for method, name in kit.grid((SOUP, GEOMETRIC, ARITHMETIC), MATCHED):
        curves = [found[name].by_levels(k, m) for m in (method, FIRST) for k in AXES]
        for seed, pair in zip(seeds, zip(*curves)):
            gains.setdefault((method, seed), {})[name] = frontier_gain(*pair)
    found["equal KL"] = kit.Scores(gains, titles=MATCHED)
    show(study, found)
    if config.sources:
        some = config.sources, config.texts, config.tokens
        found["language"] = forecast(study, *some)
    return found


def show(study: kit.Study, found: dict[str, kit.Scores]) -> None:
    """Tables and a picture."""
    sampled, equal = found["sampled"], found["equal KL"]
    for beta in sampled.levels:
        about, short = f"β = {beta:g}: trained by samples", (*AXES, "own KL")
        study.score_table(about, sampled.at(beta), short, every=sampled.metrics())
        for name, words in MATCHED.items():
            about = f"β = {beta:g}: {words}"
            study.score_table(about, found[name].at(beta), detail=True)
    study.score_table("Reward at equal KL, minus the first model's", equal)
    study.metrics |= sampled.flat() | equal.flat()
    pairs = f"{len(study.seeds)} pairs of models"
    study.scale = f"{study.config.digits**2} prompts, {pairs}"
    last = sampled.at(sampled.levels[-1])
    gain = last.difference("reward", SOUP, FIRST).value
    title = (
        f"Held near the soup, a policy's reward is {gain:+.3f} of plain training's at "
        f"equal β, and {equal.mean('exact', SOUP):+.3f} at equal KL to the first model"
    )
    about = f"Means of {pairs}. Its own posterior is the best at equal KL to a model."
    with study.figure("equal_kl", title, about, panels=3, size=(4.6, 3.6)) as axes:
        for axis, (name, words) in zip(axes, MATCHED.items()):
            curve = lambda m, k, name=name: found[name].by_levels(k, m).mean(axis=0)  # noqa: E731
            lines = {m: tuple(curve(m, k) for k in AXES) for m in TRAINED[:-1]}
            labels = {"xlabel": "KL to the first model, nats", "ylabel": "reward"}
            marker = "o" if name == "exact" else ""
            kit.figures.lines(axis, lines, title=words, marker=marker, **labels)
        axes[2].set_title(f"trained by samples, β = {sampled.levels[-1]:g}")
        kit.figures.dots(axes[2], last.part(TRAINED[:-1]), "reward")
