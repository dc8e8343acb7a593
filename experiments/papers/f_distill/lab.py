"""Data, networks, teacher and students of the f-distill experiment.

A teacher learns by denoising score matching; a one-step student follows it with a fake
score and a critic (a head on the teacher's features) beside it.
"""

import dataclasses
import functools
import math
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from scipy import stats

from experiments import kit
from experiments.kit.judge import judge_of
from kljax import generators
from kljax.data.images import Codec, first_of_classes, load_pictures
from kljax.metrics import FeatureJudge
from kljax.metrics.drawing import drawn
from kljax.models.functional import parameter_count, pure
from kljax.models.vision import edm
from kljax.models.vision.denoisers import DENOISERS
from kljax.models.vision.discriminator import Discriminator
from kljax.objectives import diffusion
from kljax.objectives.ratio import ratio_weights
from kljax.training import Loss, Player, TrainState, adam, init_state, taken
from kljax.training.one_step import Draws, OneStep, OneStepConfig, noised
from kljax.typing import Array, PyTree

DIVERGENCES = (
    "reverse_kl",
    "softened_reverse_kl",
    "jensen_shannon",
    "squared_hellinger",
    "jeffreys",
    "forward_kl",
    "adaptive_alpha",
)
"""Order of the traced index: one compiled step serves them all."""
PROBES = 4096


@dataclasses.dataclass(frozen=True)
class TeacherConfig:
    steps: int = 4500
    batch: int = 0
    """0: 256 for networks below 2 million parameters, 128 below 6, else 64."""
    learning_rate: float = 2e-3
    warmup: int = 50
    b2: float = 0.99
    clip: float = 1.0
    ema: float = 0.999
    log_sigma_mean: float = -0.8
    log_sigma_std: float = 1.2
    sampler_steps: int = 18
    """Noise levels of Heun's sampler: 2 steps - 1 evaluations per sample."""
    class_dropout: float = 0.0
    """Share of examples without their class; needed by guidance only."""


@dataclasses.dataclass(frozen=True)
class StudentConfig(OneStepConfig):
    batch: int = 0
    """0: as the teacher's."""
    start_sigma: float = 0.0
    """0: 1 up to 16 pixels and 2.5 above."""
    gan_weight: float = 0.05


def chosen(own: dict[str, Array], alpha: Array) -> generators.Choice:
    """A student's divergence; the last one is the adaptive alpha."""
    named = map(generators.get, DIVERGENCES[:-1])
    return generators.Choice(own["index"], (*named, generators.Alpha(alpha)))


class Lab:
    """A run's data and networks, and what is trained on them."""

    def __init__(self, study: kit.Study):
        config = study.config
        self.study, self.config, data = study, config, config.data
        source = pathlib.Path(data.path) if data.path else data.name
        pictures = load_pictures(source, root=data.root, fetch=data.fetch)
        self.pictures, shape, classes = pictures, pictures.shape, pictures.num_classes
        is_pca = config.model.chosen(shape) == "pca"
        self.codec = Codec.components(pictures.train) if is_pca else Codec(shape)
        codes = self.codec.encode(pictures.train)
        self.codes = dataclasses.replace(pictures, train=codes)
        dims, self.sigma_data = math.prod(codes.shape[1:]), float(codes.std())
        model, small = config.model.fitted(shape, dims), codes[0].size <= 256
        self.start_sigma = config.student.start_sigma or (1.0 if small else 2.5)
        network = lambda rngs: model.build(shape, classes, dims, rngs=rngs)  # noqa: E731
        sizes: list[Any] = []
        jax.eval_shape(lambda: sizes.append(network(nnx.Rngs(0)).feature_shapes))
        body, self.first_denoiser = pure(network)
        critic = lambda rngs: Discriminator(sizes[0], classes, rngs=rngs)  # noqa: E731
        head, self.first_critic = pure(critic)
        self.denoise = edm.Denoiser(body, self.sigma_data)
        self.logits = edm.Critic(head, self.sigma_data)
        count = parameter_count(jax.eval_shape(self.first_denoiser, jax.random.key(0)))
        self.parameters, on_cpu = count, jax.default_backend() == "cpu"
        batch = 256 if count < 2e6 or not on_cpu else 128 if count < 6e6 else 64
        given = config.teacher.batch, config.student.batch
        self.batches = [size or batch for size in given]
        title = DENOISERS[model.kind]
        if is_pca:
            size, kept = self.codec.size, self.codec.kept
            title = f"MLP on {size} principal components ({kept:.1%} kept)"
        said = "chosen" if config.model.kind == "auto" else "asked for"
        self.description = (
            f"{title}, width {model.width}, depth {model.depth}, {count / 1e6:.2f} M "
            f"parameters ({said}, on {jax.default_backend()})"
        )
        # Other data behind the same path, or another network chosen for another
        # machine, must not go on with these stages.
        study.pin(
            data_sha256=pictures.manifest["sha256"],
            network=self.description,
            batches=self.batches,
        )

    # ------------------------------------------------------------ teacher

    @functools.cache  # noqa: B019 (one lab per run)
    def teacher(self, seed: int) -> PyTree:
        """Averaged parameters after score matching with a log-normal noise law."""
        config, classes = self.config.teacher, self.pictures.num_classes
        law: Any = {"mean": config.log_sigma_mean, "std": config.log_sigma_std}

        def loss(params, *, state, frozen, batch, key):
            keys = jax.random.split(key, 3)
            x, ids = batch["x"], batch.get("ids")
            sigma = diffusion.log_normal_sigma(keys[0], x.shape[:1], **law)
            noisy = noised(x, jax.random.normal(keys[1], x.shape, x.dtype), sigma)
            if ids is not None and config.class_dropout:
                drop = jax.random.bernoulli(keys[2], config.class_dropout, ids.shape)
                ids = jnp.where(drop, classes, ids)
            denoised = self.denoise(params, noisy, sigma, ids)
            scale = self.sigma_data
            return Loss(*diffusion.denoising_loss(denoised, x, sigma, sigma_data=scale))

        rate = optax.linear_schedule(0.0, config.learning_rate, max(config.warmup, 1))
        rule = adam(rate, clip=config.clip, b2=config.b2)
        players = [Player("teacher", loss, rule, ema_decay=config.ema)]
        key = jax.random.fold_in(jax.random.key(seed), 1)
        first = {"teacher": self.first_denoiser(jax.random.split(key)[0])}
        state = init_state(jax.random.fold_in(key, 1), first, players)
        given = players, state, self.codes.batches(self.batches[0], seed, 1)
        trained = self.study.fit(("teacher", seed), *given, steps=config.steps)
        return trained.ema["teacher"]

    # ------------------------------------------------------------ students

    def generate(self, params: PyTree, z: Array, ids: Array | None) -> Array:
        return self.denoise.generate(params, z, ids, sigma=self.start_sigma)

    def draw(self, key: Array, batch: dict[str, Array], sides: int) -> Draws:
        keys, x = jax.random.split(key, 4), batch["x"]
        latent = jax.random.normal(keys[0], x.shape)
        sigma = self.config.student.levels(keys[1], sides * len(x))
        noise = jax.random.normal(keys[2], (len(sigma), *x.shape[1:]), x.dtype)
        return Draws(latent, noise, sigma, keys[3])

    def teach(self, teacher: PyTree, x: Array, sigma: Array, ids: Array | None) -> Any:
        """The teacher's estimate, guided (Eq. 13), and its features."""
        real, features = self.denoise(teacher, x, sigma, ids, features=True)
        guidance = self.config.student.guidance
        if guidance != 1:
            free = self.denoise(teacher, x, sigma, None)
            real = diffusion.guide(real, free, guidance)
        return real, features

    @functools.cached_property
    def game(self) -> OneStep:
        return OneStep(
            self.config.student,
            self.draw,
            real=lambda key, batch: batch["x"],
            generate=self.generate,
            denoise=self.denoise,
            teach=self.teach,
            logits=self.logits,
            sigma_data=self.sigma_data,
        )

    def own(self, student: str) -> dict[str, Any]:
        """What makes a student, from its name."""
        divergence, slash, _ = student.partition("/")
        weight = 0.0 if slash else self.config.student.gan_weight
        return {"index": DIVERGENCES.index(divergence), "gan_weight": weight}

    @functools.cache  # noqa: B019
    def students(self, seed: int) -> TrainState:
        """All students of a seed, stacked: the same noise and batches."""
        teacher = self.teacher(seed)
        key = jax.random.fold_in(jax.random.key(seed), 2)
        critic = self.first_critic(jax.random.split(jax.random.fold_in(key, 1))[1])

        def players(own: dict[str, Array]) -> list[Player]:
            weight = own["gan_weight"]
            return self.game.players(functools.partial(chosen, own), weight)

        def state(own: dict[str, Array]) -> TrainState:
            return self.game.start(jax.random.fold_in(key, 2), teacher, critic)

        members = {name: self.own(name) for name in self.config.students}
        given = players, members, state, self.codes.batches(self.batches[1], seed, 2)
        options: Any = {"frozen": teacher, "together": self.config.together}
        steps = self.config.student.steps
        return self.study.sweep(("students", seed), *given, steps=steps, **options)

    # ------------------------------------------------------------ what is judged

    @functools.cached_property
    def judge(self) -> tuple[FeatureJudge, dict[str, Any]]:
        return judge_of(self.study, self.pictures, self.config.judge)

    @functools.cached_property
    def samplers(self) -> dict[str, Any]:
        """Compiled: `(params, noise, ids) -> codes`."""
        steps = self.config.teacher.sampler_steps

        def many(params: PyTree, z: Array, ids: Array | None) -> Array:
            denoise = lambda x, sigma: self.denoise(params, x, sigma, ids)  # noqa: E731
            return edm.heun_sampler(denoise, z, steps=steps)

        return {"one": jax.jit(self.generate), "many": jax.jit(many)}

    def score(self, name: str, seed: int) -> dict[str, Any]:
        """A model's row of the table, and images of it to look at."""
        count, steps = self.config.judge.samples, self.config.teacher.sampler_steps
        kind, params = "many", self.teacher(seed)
        row: dict[str, Any] = {"evaluations": edm.evaluations(steps)}
        if name != "teacher":
            state = taken(self.students(seed), self.config.students.index(name))
            kind, params = "one", state.ema["student"]
            row = {"evaluations": 1, **self.gap(state, name, seed)}
        draw = functools.partial(self.samplers[kind], params)
        given = draw, self.pictures, self.codec, count
        with self.study.task("sample", count) as note:
            x = drawn(*given, seed=seed, note=note)
        row |= self.judge[0].score(x.images, x.ids)
        shown = first_of_classes(x.ids, count, self.pictures.num_classes)
        row["images_per_second"] = x.per_second
        return {"row": row, "images": x.images[shown]}

    @functools.cached_property
    def probe(self) -> Any:
        """h and the gap D_fake - D_teacher (root mean square) at noised samples."""
        config = self.config.student

        @jax.jit
        def probe(state, teacher, own, z, ids, key):
            keys = jax.random.split(key)
            x = self.generate(state.ema["student"], z, ids)
            sigma = config.levels(keys[0], len(x))
            noisy = noised(x, jax.random.normal(keys[1], x.shape, x.dtype), sigma)
            real, features = self.denoise(teacher, noisy, sigma, ids, features=True)
            fake = self.denoise(state.params["fake_score"], noisy, sigma, ids)
            weights = ratio_weights(
                self.logits(state.params["critic"], features, sigma, ids),
                sigma,
                chosen(own, state.aux["controller"].alpha),
                state.aux["bins"],
                clip=config.ratio_clip,
                decay=config.bin_decay,
            )
            gap = jnp.mean((fake - real) ** 2, axis=tuple(range(1, x.ndim)))
            return weights.weight, jnp.sqrt(gap), sigma, state.aux["bins"].index(sigma)

        return probe

    def gap(self, state: TrainState, name: str, seed: int) -> dict[str, float]:
        """Rank correlation of the weight and the score gap; none for constants."""
        key = jax.random.fold_in(jax.random.key(seed), 4)
        ids, own = self.pictures.sample_ids(PROBES), self.own(name)
        z = jax.random.normal(key, (PROBES, *self.codes.shape))
        given = state, self.teacher(seed), own, z, ids, jax.random.fold_in(key, 1)
        weight, gap, sigma, place = (
            np.asarray(v, np.float64) for v in self.probe(*given)
        )
        found = {"effective_fraction": float(weight.mean() ** 2 / np.mean(weight**2))}
        if np.ptp(weight) < 1e-12:  # reverse KL weighs everything alike
            return found
        rank = lambda a, b: float(stats.spearmanr(a, b).statistic)  # noqa: E731
        groups = [np.flatnonzero(place == b) for b in np.unique(place)]
        inside = [rank(weight[g], gap[g]) for g in groups if g.size > 20]
        return found | {
            "gap_correlation": rank(weight, gap),
            "gap_correlation_within": float(np.mean(inside)),
            "score_gap_correlation": rank(weight, gap / sigma**2),
        }
