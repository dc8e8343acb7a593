"""The trained parts of the ring experiment, each a stage that resumes."""

import dataclasses
import itertools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments.one_step.ring_training import (
    Game,
    Member,
    Networks,
    TrainingConfig,
    judged,
    optimizer,
    population,
)
from kljax.metrics import sliced_wasserstein2
from kljax.theory.mixtures import GaussianMixture
from kljax.training import (
    Every,
    Player,
    Progress,
    RunFolder,
    TrainState,
    fit,
    init_state,
    make_step,
    stacked,
    taken,
)
from kljax.typing import Array, Float, PyTree


class Students(NamedTuple):
    """A trained population: rows of `samples` and `scores` are seed by member."""

    members: tuple[Member, ...]
    seeds: tuple[int, ...]
    samples: Float[np.ndarray, "seeds members n 2"]
    scores: list[list[dict[str, float]]]
    steps: np.ndarray
    alpha: Float[np.ndarray, "logged seeds members"]
    ess: Float[np.ndarray, "logged seeds members"]
    bin_error: Float[np.ndarray, "logged seeds members"]

    def row(self, label: str) -> int:
        return [member.label for member in self.members].index(label)

    def part(self, members: tuple[Member, ...], seeds: int) -> "Students":
        """Some members, the first seeds."""
        rows = [self.row(one.label) for one in members]
        pick = lambda values: values[:, :seeds, rows]  # noqa: E731
        return Students(
            members=members,
            seeds=self.seeds[:seeds],
            samples=self.samples[:seeds, rows],
            scores=[[line[i] for i in rows] for line in self.scores[:seeds]],
            steps=self.steps,
            alpha=pick(self.alpha),
            ess=pick(self.ess),
            bin_error=pick(self.bin_error),
        )

    def column(self, key: str) -> Float[np.ndarray, "seeds members"]:
        return np.array([[score[key] for score in row] for row in self.scores])


class LearnedRatio(NamedTuple):
    """Exact log-ratios and logits at noised points of q, with their noise levels."""

    exact: np.ndarray
    logit: np.ndarray
    sigma: np.ndarray


class Session:
    """Everything that is trained in one run folder."""

    def __init__(self, config: Any, folder: RunFolder, progress: Progress):
        self.config, self.folder, self.progress = config, folder, progress
        self.law: GaussianMixture = config.ring.law()
        count = max(config.protocol_seeds, config.sweep_seeds)
        self.seeds = tuple(100 * config.seed + i for i in range(count))
        built: list[Networks] = []

        @jax.jit
        @jax.vmap
        def initial(seed: Array) -> PyTree:
            nets, params = Networks.build(
                config.protocol, config.ring.sigma_data, jax.random.key(seed)
            )
            built.append(nets)
            return params

        every = initial(jnp.asarray(self.seeds))
        self.nets = built[0]
        self.initial = [taken(every, i) for i in range(count)]
        self.reference = self.balanced(jax.random.key(10_000 + config.seed))
        self.denoisers = self.pretrained()

    def balanced(self, key: Array) -> Float[np.ndarray, "n 2"]:
        """A sample of the target with equally many points per mode: less noise."""
        mode = jnp.arange(self.config.samples) % self.config.ring.modes
        noise = jax.random.normal(key, (self.config.samples, 2))
        return np.asarray(self.law.means[mode] + self.law.std[mode, None] * noise)

    def fit(
        self, stage: str, step: Any, state: TrainState, steps: int, frozen: PyTree
    ) -> TrainState:
        """Losses draw their own batches from the state's key."""
        return fit(
            step,
            state,
            lambda n: {},
            steps=steps,
            frozen=frozen,
            run=self.folder,
            stage=stage,
            every=Every(self.config.checkpoint_every, log=min(20, steps)),
            progress=self.progress,
        )

    def pretrained(self) -> list[PyTree]:
        """Denoisers of the target, one per seed: where the students start."""
        config = self.config.protocol
        game = Game(self.nets, config, self.law)
        player = Player(
            "denoiser",
            game.pretraining,
            optimizer(config, config.critic_rate),
            ema_decay=0.999,
        )
        states = [
            init_state(
                jax.random.fold_in(jax.random.key(seed), 1),
                {"denoiser": params["denoiser"]},
                [player],
            )
            for seed, params in zip(self.seeds, self.initial, strict=True)
        ]
        step = jax.vmap(make_step([player]), in_axes=(0, None, None))
        steps = config.pretraining_steps
        ema = self.fit("denoiser", step, stacked(states), steps, None).ema["denoiser"]
        return [taken(ema, i) for i in range(len(self.seeds))]

    def ratio(self) -> tuple[LearnedRatio, LearnedRatio]:
        """T4b: the critic alone on two pairs of known laws, wide modes and narrow.

        Target: a ring; model: one of wider and unequal modes.
        """
        ring, config = self.config.ring, self.config.protocol
        game = Game(self.nets, config, self.law)
        modes = ring.modes
        tilt = jnp.cos(2 * jnp.pi * jnp.arange(modes) / modes)

        def law(std: float, tilt: Array) -> GaussianMixture:
            wide = GaussianMixture.ring(modes, radius=ring.radius, std=std)
            return dataclasses.replace(wide, log_weights=tilt)

        stds = ((0.3, 0.45), (ring.std, 2 * ring.std))
        pairs = stacked([(law(p, 0 * tilt), law(q, tilt)) for p, q in stds])

        def loss(params, *, state, frozen, batch, key):
            _, noise, sigma, key = game.draws(key, sides=2)
            keys = jax.random.split(key)
            real, fake = (
                one.sample(k, config.batch) for one, k in zip(frozen, keys, strict=True)
            )
            return game.discrimination(params, real, fake, noise, sigma)

        steps = self.config.ratio_steps
        rate = optax.cosine_decay_schedule(config.critic_rate, steps, 0.05)
        critic = Player("critic", loss, optimizer(config, rate), ema_decay=0.99)
        key = jax.random.fold_in(jax.random.key(self.seeds[0]), 2)
        state = init_state(key, {"critic": self.initial[0]["critic"]}, [critic])
        step = jax.vmap(make_step([critic]), in_axes=(0, None, 0))
        state = self.fit("ratio", step, stacked([state] * 2), steps, pairs)

        @jax.jit
        @jax.vmap
        def compare(params: PyTree, pair: tuple) -> tuple[Array, Array, Array]:
            p, q = pair
            keys = jax.random.split(jax.random.fold_in(key, 1))
            low, high = config.sigma_min, config.sigma_max
            count = self.config.samples
            u = (jnp.arange(count) + 0.5) / count  # log-uniform: every level counts
            sigma = low * (high / low) ** u
            x = q.sample(keys[0], count)
            x = x + sigma[:, None] * jax.random.normal(keys[1], x.shape)
            exact = p.log_density(x, sigma) - q.log_density(x, sigma)
            return exact, self.nets.logits(params, x, sigma).mean(axis=1), sigma

        out = [np.asarray(v, np.float64) for v in compare(state.ema["critic"], pairs)]
        wide, narrow = (LearnedRatio(*(v[i] for v in out)) for i in range(2))
        return wide, narrow

    def students(
        self,
        stage: str,
        config: TrainingConfig,
        members: tuple[Member, ...],
        seeds: int,
    ) -> Students:
        """Trains a population in one program and judges the averaged students."""
        game = Game(self.nets, config, self.law)
        state, frozen = population(
            game,
            members,
            self.seeds[:seeds],
            self.denoisers[:seeds],
            [params["critic"] for params in self.initial[:seeds]],
        )
        step = jax.vmap(make_step(game.players()), in_axes=(0, None, 0))
        state = self.fit(stage, step, state, config.steps, frozen)
        z = jax.random.normal(jax.random.key(20_000), (self.config.samples, 2))
        draw = jax.jit(lambda every: jax.lax.map(lambda p: game.generate(p, z), every))
        shape = (seeds, len(members))
        x = np.asarray(draw(state.ema["student"])).reshape(*shape, -1, 2)
        lines = self.folder.metrics(stage)

        def curve(name: str) -> np.ndarray:
            return np.array([line[name] for line in lines]).reshape(-1, *shape)

        scores = [[judged(v, self.reference, self.law) for v in row] for row in x]
        return Students(
            members=members,
            seeds=self.seeds[:seeds],
            samples=x,
            scores=scores,
            steps=np.array([line["step"] for line in lines]),
            alpha=curve("alpha"),
            ess=curve("weight/ess"),
            bin_error=curve("ratio/bin_error"),
        )

    def floor(self) -> dict[str, list[float]]:
        """What fresh samples of the target itself score, five times."""
        draws = [
            np.asarray(self.law.sample(jax.random.key(30_000 + i), self.config.samples))
            for i in range(6)
        ]
        scores = [judged(x, self.reference, self.law) for x in draws[:5]]
        pairs = [sliced_wasserstein2(a, b) for a, b in itertools.pairwise(draws)]
        return {
            "tv": [score["tv"] for score in scores],
            "sliced_w2": [score["sliced_w2"] for score in scores],
            "near": [score["near"] for score in scores],
            "core": [score["core"] for score in scores],
            "pair_sliced_w2": pairs,
        }
