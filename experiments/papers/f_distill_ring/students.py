"""The ring: exact teacher; student, fake score and critic are small MLPs.

A population of students with different divergences is one program: the divergence is
data. All members of a seed share their noise and where they start.
"""

import dataclasses
import functools
import itertools
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments import kit
from kljax import generators
from kljax.metrics import mode_coverage, sliced_wasserstein2
from kljax.models.functional import pure
from kljax.models.mlp import MLPDenoiser
from kljax.models.vision import edm
from kljax.models.vision.discriminator import Discriminator
from kljax.theory.mixtures import GaussianMixture, noised_log_ratio
from kljax.training import Player, TrainState, init_state, stacked, taken
from kljax.training.one_step import Draws, OneStep, OneStepConfig
from kljax.typing import Array, Float, PyTree

MODES, STD = 8, 0.08
"""Of the ring, whose radius is 1."""
FAMILY = tuple(n for n in generators.names() if n not in ("total_variation", "alpha"))
"""Strictly convex built-ins without a free parameter; alpha has its own sweep."""
ADAPTIVE = "adaptive alpha"
TITLES = {
    "tv": "TV",
    "sliced_w2": "sliced W2",
    "near": "within 4 std",
    "core": "within 2 std",
    "ess": "fraction of h",
    "late": "fraction of h, last third",
}
CURVES = {
    "alpha": "alpha",
    "weight/ess": "effective fraction of h",
    "ratio/bin_error": "worst |log E_q[r]| of a noise bin",
}


@dataclasses.dataclass(frozen=True)
class TrainingConfig(OneStepConfig):
    """Table 5 of the paper has 5 critic steps and a GAN weight of 1e-3 or 3e-3."""

    width: int = 64
    depth: int = 3
    """Residual blocks, two dense layers each."""
    embedding: int = 32
    pretraining_steps: int = 2500
    steps: int = 1000
    critic_steps: int = 5
    batch: int = 512
    noise: Literal["log_uniform", "karras"] = "karras"
    sigma_min: float = 0.02
    b1: float = 0.5
    """Depth and b1 were chosen on two students of seed 0 alone."""
    alpha_target: float = 0.8
    alpha_gain: float = 0.02


def members(alphas: tuple[float, ...]) -> dict[str, dict[str, Any]]:
    """The named family, the alpha sweep and the adaptive one, by label."""
    keys, last = ("index", "alpha", "adaptive"), len(FAMILY)
    rows = {name: (i, 0.0, False) for i, name in enumerate(FAMILY)}
    rows |= {f"alpha {a:g}": (last, a, False) for a in alphas}
    rows[ADAPTIVE] = (last, 0.0, True)
    return {label: dict(zip(keys, row)) for label, row in rows.items()}


def chosen(own: dict[str, Any], alpha: Array) -> generators.Choice:
    """A member's divergence at the controller's alpha."""
    alpha = jnp.where(own["adaptive"], alpha, own["alpha"])
    options = (*map(generators.get, FAMILY), generators.Alpha(alpha))
    return generators.Choice(own["index"], options)


class Ratio(NamedTuple):
    """Exact log-ratios and logits at noised points of q, with their noise levels."""

    exact: Float[np.ndarray, "n"]
    logit: Float[np.ndarray, "n"]
    sigma: Float[np.ndarray, "n"]

    def fit(self, low: float = -np.inf, high: float = np.inf) -> dict[str, float]:
        """Of the logit on the log-ratio, both clipped."""
        exact, logit = (np.clip(v, low, high) for v in (self.exact, self.logit))
        slope, correlation = np.polyfit(exact, logit, 1)[0], np.corrcoef(exact, logit)
        return {"correlation": float(correlation[0, 1]), "slope": float(slope)}


class Students(NamedTuple):
    """A trained population: scores, samples by label and seed, the adaptive member."""

    scores: kit.Scores
    samples: dict[tuple[str, int], Float[np.ndarray, "n 2"]]
    curves: dict[str, tuple[np.ndarray, Float[np.ndarray, "seeds logged"]]]
    """Of the adaptive member: steps, values; empty without it."""


class Ring:
    """Networks, their first values, and what is trained on the ring's law."""

    def __init__(self, study: kit.Study):
        self.study, self.config, net = study, study.config, study.config.protocol
        self.law = GaussianMixture.ring(MODES, radius=1.0, std=STD)
        self.sigma_data = (1 / 2 + STD**2) ** 0.5
        shape: Any = {k: getattr(net, k) for k in ("width", "depth", "embedding")}
        body, draw_body = pure(lambda rngs: MLPDenoiser(2, **shape, rngs=rngs))
        sizes = ((net.width,),) * net.depth
        head, draw_head = pure(lambda rngs: Discriminator(sizes, width=64, rngs=rngs))
        self.denoise = edm.Denoiser(body, self.sigma_data)
        self.logits = edm.Critic(head, self.sigma_data, body)

        def initial(seed: Array) -> PyTree:
            keys = jax.random.split(jax.random.key(seed), 3)
            critic = {"body": draw_body(keys[1]), "head": draw_head(keys[2])}
            return {"denoiser": draw_body(keys[0]), "critic": critic}

        self.initial = jax.jit(jax.vmap(initial))(jnp.asarray(study.seeds))
        key = jax.random.key(10_000 + self.config.seed)
        self.reference = np.asarray(self.law.balanced(key, self.config.samples))

    def game(self, config: TrainingConfig) -> OneStep:
        def draw(key: Array, batch: dict, sides: int) -> Draws:
            # Two calls: random generators compile longer than the networks do.
            keys, count = jax.random.split(key, 3), sides * config.batch
            latent, noise = jax.random.normal(keys[0], (2, count, 2))
            # The second half is the samples', who come first.
            both = noise, config.levels(keys[1], count)
            noise, sigma = (jnp.roll(v, config.batch, axis=0) for v in both)
            return Draws(latent[: config.batch], noise, sigma, keys[2])

        start = config.start_sigma
        return OneStep(
            config,
            draw,
            real=lambda key, batch: self.law.sample(key, config.batch),
            generate=lambda p, z, ids: self.denoise.generate(p, z, sigma=start),
            denoise=self.denoise,
            teach=lambda frozen, x, sigma, ids: (self.law.denoise(x, sigma), x),
            logits=self.logits,
            sigma_data=self.sigma_data,
            flat=True,
        )

    def judged(self, x: Float[np.ndarray, "n 2"]) -> dict[str, float]:
        found = mode_coverage(x, self.law.means, self.law.std)._asdict()
        return found | {"sliced_w2": sliced_wasserstein2(x, self.reference)}

    def floor(self) -> dict[str, list[float]]:
        """What fresh samples of the target itself score, five times."""
        keys = [jax.random.key(30_000 + i) for i in range(6)]
        draws = [np.asarray(self.law.sample(key, self.config.samples)) for key in keys]
        rows = [self.judged(x) for x in draws[:5]]
        pairs = [sliced_wasserstein2(a, b) for a, b in itertools.pairwise(draws)]
        return {k: [row[k] for row in rows] for k in rows[0]} | {"pair": pairs}

    def denoisers(self) -> PyTree:
        """Of the target, one per seed, stacked: where the students start."""
        config = self.config.protocol
        game, rate = self.game(config), config.adam(config.critic_rate, flat=True)

        def state(own: dict[str, Array]) -> TrainState:
            key = jax.random.fold_in(jax.random.key(own["seed"]), 1)
            first = {"denoiser": taken(self.initial["denoiser"], own["row"])}
            return init_state(key, first, players)

        players = [Player("denoiser", game.true_score, rate, ema_decay=0.999)]
        members = {s: {"seed": s, "row": i} for i, s in enumerate(self.study.seeds)}
        given = "denoiser", lambda own: players, members, state
        return self.study.sweep(*given, steps=config.pretraining_steps).ema["denoiser"]

    def ratios(self) -> dict[str, Ratio]:
        """The critic alone: a ring against one of wider and unequal modes, twice."""
        config, steps = self.config.protocol, self.config.ratio_steps
        game, tilt = self.game(config), jnp.cos(2 * jnp.pi * jnp.arange(MODES) / MODES)
        rate = optax.cosine_decay_schedule(config.critic_rate, steps, 0.05)
        optimizer = config.adam(rate, flat=True)
        key = jax.random.fold_in(jax.random.key(self.study.seeds[0]), 2)

        def players(pair: tuple) -> list[Player]:
            def loss(params, *, state, frozen, batch, key):
                draws = game.draw(key, batch, 2)
                both = zip(pair, jax.random.split(draws.key))
                real, fake = (one.sample(k, config.batch) for one, k in both)
                return game.discrimination(params, fake, real, draws)

            return [Player("critic", loss, optimizer, ema_decay=0.99)]

        def state(pair: tuple) -> TrainState:
            first = {"critic": taken(self.initial["critic"], 0)}
            return init_state(key, first, players(pair))

        @jax.jit
        @jax.vmap
        def compare(params: PyTree, pair: tuple) -> tuple[Array, Array, Array]:
            low, high = config.sigma_min, config.sigma_max
            count = self.config.samples
            u = (jnp.arange(count) + 0.5) / count  # log-uniform: every level counts
            sigma = low * (high / low) ** u
            x, exact = noised_log_ratio(jax.random.fold_in(key, 1), *pair, sigma=sigma)
            return exact, self.logits(params, x, sigma).mean(axis=1), sigma

        stds = ((0.3, 0.45), (STD, 2 * STD))
        wide = lambda std, tilt: dataclasses.replace(  # noqa: E731
            self.law, log_weights=tilt, std=jnp.full(MODES, std)
        )
        pairs = {f"{p:g}, {q:g}": (wide(p, 0 * tilt), wide(q, tilt)) for p, q in stds}
        trained = self.study.sweep("ratio", players, pairs, state, steps=steps)
        found = compare(trained.ema["critic"], stacked(list(pairs.values())))
        host = [np.asarray(v, np.float64) for v in found]
        return {name: Ratio(*(v[i] for v in host)) for i, name in enumerate(pairs)}

    def students(
        self, stage: str, config: TrainingConfig, own: dict, seeds: tuple, first: PyTree
    ) -> Students:
        """Trains a population in one program and judges the averaged students."""
        game = self.game(config)
        players = lambda one: game.players(functools.partial(chosen, one))  # noqa: E731

        def state(one: dict[str, Any]) -> TrainState:
            key = jax.random.fold_in(jax.random.key(one["seed"]), 3)
            return game.start(key, *taken((first, self.initial["critic"]), one["row"]))

        members = {
            (name, seed): {**row, "seed": seed, "row": i}
            for i, seed in enumerate(seeds)
            for name, row in own.items()
        }
        ends = self.study.sweep(stage, players, members, state, steps=config.steps)
        z = jax.random.normal(jax.random.key(20_000), (self.config.samples, 2))
        draw = lambda params: game.generate(params, z, None)  # noqa: E731
        drawn = jax.jit(lambda every: jax.lax.map(draw, every))(ends.ema["student"])
        samples = dict(zip(members, np.asarray(drawn)))
        logged = {name: self.study.curve(stage, name) for name in CURVES}
        ess = logged["weight/ess"][1]
        late = ess[-max(1, len(ess) // 3) :].mean(axis=0)
        rows = {
            label: self.judged(x) | {"ess": ess[-1, i], "late": late[i]}
            for i, (label, x) in enumerate(samples.items())
        }
        some = [i for i, (name, _) in enumerate(members) if name == ADAPTIVE]
        curves = {k: (steps, v[:, some].T) for k, (steps, v) in logged.items()}
        return Students(kit.Scores(rows, titles=TITLES), samples, curves)


# ------------------------------------------------------------------ pictures


def reliability(study: kit.Study, ratios: dict[str, Ratio]) -> None:
    """Mean logit against exact log-ratio, in equal groups, and the points."""
    title = "How the critic's logit follows the log-ratio, for wide and narrow modes"
    about = (
        "The learned log-ratio at noised samples of q, noise log-uniform, dark where "
        "it is low. Lines: mean of 25 equal groups; a perfect critic; clip of the "
        "ratio (dotted)."
    )
    with study.figure("reliability", title, about, panels=2, size=(5, 4)) as axes:
        for axis, (stds, one) in zip(axes, ratios.items()):
            some = np.random.default_rng(0).permutation(len(one.exact))[:3000]
            exact, logit, sigma = (values[some] for values in one)
            axis.scatter(exact, logit, c=np.log10(sigma), s=2, alpha=0.4)
            groups = np.array_split(np.argsort(one.exact), 25)
            low, high = np.quantile(one.exact, [0.002, 1.0])
            x, y = ([v[group].mean() for group in groups] for v in one[:2])
            series = {"mean": (x, y), "perfect": ((low, high), (low, high))}
            labels = {"xlabel": "exact log p/q, nats", "ylabel": "critic's logit, nats"}
            kit.figures.lines(axis, series, title=f"modes of std {stds}", **labels)
            axis.set(xlim=(low - 0.5, high + 0.5), ylim=(low - 0.5, high + 1.0))
            axis.axvline(np.log(0.1), c="grey", ls=":")


def scatter(study: kit.Study, target: np.ndarray, groups: dict[str, Students]) -> None:
    """The target and samples of the first seed, one panel per member."""
    panels, seed = [("target", target)], study.seeds[0]
    for suffix, group in groups.items():
        for name in group.scores.methods:
            row = group.scores.rows[name, seed, None]
            score = f"TV {row['tv']:.3f}  W2 {row['sliced_w2']:.3f}"
            label = f"{kit.title(name)}{suffix}\n{score}"
            panels.append((label, group.samples[name, seed]))
    far = [row["tv"] for one in groups.values() for row in one.scores.rows.values()]
    title = (
        f"One-step students are {min(far):.3f} to {max(far):.3f} from the ring's eight "
        "modes in total variation."
    )
    about = (
        "One evaluation per sample, 2,000 samples of the first seed; all students of "
        "one seed share every draw of noise. The first three students follow the full "
        "protocol, the others are one vmapped program. Bridges between the modes are "
        "what a small continuous generator leaves."
    )
    size: Any = {"panels": len(panels), "columns": 6, "size": (2.2, 2.4)}
    with study.figure("samples", title, about, **size) as axes:
        for axis, (name, x) in zip(axes, panels):
            kit.figures.cloud(axis, x[:2000], limit=1.6)
            axis.set_title(name, fontsize=8)
            axis.set_axis_off()


def alphas(study: kit.Study, sweep: Students, floor: dict[str, list]) -> None:
    """Scores along the continuous alpha, and how the adaptive one moved."""
    with study.figure(
        "alphas",
        "Coverage, distance and weights along alpha, and the way of the adaptive one",
        "Above: the continuous family, 0 is reverse KL, ½ Hellinger, 1 forward KL, 2 "
        "Pearson, -1 Neyman; the fraction falls away from 0 by definition. Below: the "
        "adaptive alpha, the fraction that steers it, and the critic's honesty (0 "
        "where E_q[r] = 1). Thin: seeds, thick: their mean.",
        panels=6,
    ) as axes:
        fixed = study.config.alphas
        for axis, key in zip(axes, ("tv", "sliced_w2", "late")):
            every = [sweep.scores.values(key, f"alpha {a:g}") for a in fixed]
            levels = {"adaptive": sweep.scores.mean(key, ADAPTIVE)}
            if key in floor:
                levels["fresh samples"] = float(np.mean(floor[key]))
            series = {"fixed alpha": (fixed, np.transpose(every))}
            look: Any = {"levels": levels, "marker": "o", "xlabel": "alpha"}
            kit.figures.lines(axis, series, ylabel=TITLES[key], **look)
        for axis, (name, label) in zip(axes[3:], CURVES.items()):
            look = {"marker": ".", "xlabel": "student step", "ylabel": label}
            kit.figures.lines(axis, {ADAPTIVE: sweep.curves[name]}, **look)
