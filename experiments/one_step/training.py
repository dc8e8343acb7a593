"""The players of the f-distill experiment (`f_distill.py`).

A teacher learns by denoising score matching; a one-step student follows it with a fake
score and a critic (a head on the teacher's features) beside it. Equation numbers are
those of `kljax.objectives.diffusion`.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp
import optax

from experiments.one_step.networks import Networks
from kljax import generators
from kljax.objectives import diffusion
from kljax.objectives.ratio import ratio_weights
from kljax.training import (
    Loss,
    Player,
    Step,
    TrainState,
    adam,
    init_state,
    make_step,
)
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


def parsed(student: str) -> tuple[str, bool]:
    """The divergence of a student's name and whether it has the GAN term."""
    divergence, slash, rest = student.partition("/")
    if divergence not in DIVERGENCES or (slash and rest != "no_gan"):
        raise ValueError(
            f"students: {student!r} is not one of {', '.join(DIVERGENCES)}, with or "
            "without /no_gan behind it"
        )
    return divergence, not slash


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
class StudentConfig:
    steps: int = 1500
    batch: int = 0
    start_sigma: float = 0.0
    """G(z, c) = D(s z, s, c); 0 means 1 up to 16 pixels and 2.5 above."""
    gan_weight: float = 0.05
    critic_steps: int = 1
    learning_rate: float = 1e-3
    final_rate: float = 0.05
    """The student's rate falls by a cosine to this share of it."""
    critic_rate: float = 1e-3
    b1: float = 0.0
    b2: float = 0.99
    weight_decay: float = 0.0
    clip: float = 10.0
    ema: float = 0.99
    noise: Literal["log_uniform", "karras"] = "log_uniform"
    sigma_min: float = 0.05
    sigma_max: float = 5.0
    bins: int = 10
    bin_decay: float = 0.9
    ratio_clip: tuple[float, float] = (0.1, 20.0)
    r1_weight: float = 0.0
    fake_weight: Literal["edm", "plain"] = "edm"
    guidance: float = 1.0
    alpha_target: float = 0.5
    """Effective fraction of the weights at which an adaptive alpha settles."""
    alpha_gain: float = 0.01


def current(divergence: generators.Choice, aux: dict[str, Any]) -> generators.Choice:
    """The student's divergence with the adaptive alpha, its last option, as it is."""
    alpha = generators.Alpha(aux["alpha"].alpha)
    return dataclasses.replace(divergence, options=(*divergence.options[:-1], alpha))


def noised(key: Array, x: Array, sigma: Array) -> Array:
    """x + sigma noise, one noise level per example."""
    column = sigma.reshape(-1, *[1] * (x.ndim - 1))
    return x + column * jax.random.normal(key, x.shape, x.dtype)


def teacher_player(nets: Networks, config: TeacherConfig, num_classes: int) -> Player:
    """Denoising score matching with EDM's weight and a log-normal noise law."""

    def loss(params, *, state, frozen, batch, key):
        keys = jax.random.split(key, 3)
        x, ids = batch["x"], batch.get("ids")
        sigma = diffusion.log_normal_sigma(
            keys[0], x.shape[:1], mean=config.log_sigma_mean, std=config.log_sigma_std
        )
        if ids is not None and config.class_dropout:
            drop = jax.random.bernoulli(keys[2], config.class_dropout, ids.shape)
            ids = jnp.where(drop, num_classes, ids)
        denoised = nets.denoise(params, noised(keys[1], x, sigma), sigma, ids)
        return Loss(
            *diffusion.denoising_loss(denoised, x, sigma, sigma_data=nets.sigma_data)
        )

    rate = optax.linear_schedule(0.0, config.learning_rate, max(config.warmup, 1))
    optimizer = adam(rate, clip=config.clip, b2=config.b2)
    return Player("teacher", loss, optimizer, ema_decay=config.ema)


def noise_levels(config: StudentConfig, key: Array, count: int) -> Array:
    """Noise levels of critics and student, Eq. 15 or log-uniform."""
    bounds = {"low": config.sigma_min, "high": config.sigma_max}
    if config.noise == "karras":
        return diffusion.karras_sigma(key, (count,), **bounds)
    return diffusion.log_uniform_sigma(key, (count,), **bounds)


def distillation_players(nets: Networks, config: StudentConfig) -> list[Player]:
    """Fake score, critic, student, in this order.

    `frozen` holds the teacher's parameters, the divergence and the weight of the game,
    all traced, so that one program (and `vmap`) serves every student.
    """

    def sigmas(key: Array, count: int) -> Array:
        return noise_levels(config, key, count)

    def fakes(student: PyTree, batch: dict[str, Array], key: Array) -> Array:
        z = jax.random.normal(key, batch["x"].shape)
        return nets.generate(student, z, batch.get("ids"))

    def fake_loss(params, *, state, frozen, batch, key):
        keys = jax.random.split(key, 3)
        x = jax.lax.stop_gradient(fakes(state.params["student"], batch, keys[0]))
        sigma = sigmas(keys[1], len(x))
        noisy = noised(keys[2], x, sigma)
        denoised = nets.denoise(params, noisy, sigma, batch.get("ids"))
        return Loss(  # Eq. 12
            *diffusion.denoising_loss(
                denoised,
                x,
                sigma,
                weight=config.fake_weight,
                sigma_data=nets.sigma_data,
            )
        )

    def critic_loss(params, *, state, frozen, batch, key):
        keys = jax.random.split(key, 5)
        fake = jax.lax.stop_gradient(fakes(state.params["student"], batch, keys[0]))
        real, ids = batch["x"], batch.get("ids")
        # Independent noise levels for real and fake, one pass of the teacher for both.
        count, parts = len(real), [fake, real]
        sigma = sigmas(keys[1], 2 * count)
        noisy = noised(keys[2], jnp.concatenate(parts), sigma)
        if config.r1_weight:
            near = noisy[count:] + 0.1 * jax.random.normal(keys[3], real.shape)
            noisy = jnp.concatenate([noisy, near])
            sigma = jnp.concatenate([sigma, sigma[count:]])
        if ids is not None:
            ids = jnp.tile(ids, len(noisy) // count)
        _, features = nets.denoise(frozen["teacher"], noisy, sigma, ids, features=True)
        logits = nets.logits(params, jax.lax.stop_gradient(features), sigma, ids)
        groups = jnp.split(logits, len(noisy) // count)
        return Loss(  # Eq. 7
            *diffusion.discriminator_loss(
                groups[1],
                groups[0],
                perturbed_logits=groups[2] if config.r1_weight else None,
                r1_weight=config.r1_weight,
            )
        )

    def student_loss(params, *, state, frozen, batch, key):
        keys = jax.random.split(key, 3)
        x, ids = fakes(params, batch, keys[0]), batch.get("ids")
        sigma = sigmas(keys[1], len(x))
        noisy = noised(keys[2], x, sigma)
        teacher = frozen["teacher"]
        real, features = nets.denoise(teacher, noisy, sigma, ids, features=True)
        if config.guidance != 1:  # Eq. 13
            real = diffusion.guide(
                real, nets.denoise(teacher, noisy, sigma, None), config.guidance
            )
        out = diffusion.generator_loss(  # Eqs. 5-11
            x,
            nets.denoise(state.params["fake"], noisy, sigma, ids),
            real,
            sigma,
            divergence=current(frozen["divergence"], state.aux),
            logits=nets.logits(state.params["critic"], features, sigma, ids),
            bins=state.aux["bins"],
            gan_weight=frozen["gan_weight"],
            clip=config.ratio_clip,
            decay=config.bin_decay,
        )
        alpha = diffusion.adapt_alpha(
            state.aux["alpha"],
            out.metrics["weight/ess"],
            target=config.alpha_target,
            gain=config.alpha_gain,
        )
        metrics = {**out.metrics, "alpha": alpha.alpha}
        return Loss(out.per_example, metrics, aux={"bins": out.bins, "alpha": alpha})

    def optimizer(rate: Any) -> optax.GradientTransformation:
        return adam(
            rate,
            clip=config.clip,
            b1=config.b1,
            b2=config.b2,
            weight_decay=config.weight_decay,
        )

    cosine = optax.cosine_decay_schedule(
        config.learning_rate, config.steps, config.final_rate
    )
    repeats = config.critic_steps
    return [
        Player("fake", fake_loss, optimizer(config.critic_rate), repeats),
        Player("critic", critic_loss, optimizer(config.critic_rate), repeats),
        Player("student", student_loss, optimizer(cosine), ema_decay=config.ema),
    ]


def student_inputs(
    nets: Networks,
    config: StudentConfig,
    players: list[Player],
    teacher: PyTree,
    *,
    divergence: str,
    gan_weight: float,
    seed: int,
) -> tuple[TrainState, dict[str, Any]]:
    """The state in which a student starts, and what stays frozen beside it."""
    key = jax.random.fold_in(jax.random.key(seed), 2)
    params = {
        "student": teacher,
        "fake": teacher,
        "critic": nets.initial(jax.random.fold_in(key, 1))["critic"],
    }
    bins = diffusion.RatioBins.init(
        config.bins, sigma_min=config.sigma_min, sigma_max=config.sigma_max
    )
    frozen = {
        "teacher": teacher,
        "divergence": generators.Choice(
            jnp.asarray(DIVERGENCES.index(divergence)),
            (
                *(generators.get(name) for name in DIVERGENCES[:-1]),
                generators.Alpha(jnp.zeros(())),
            ),
        ),
        "gan_weight": jnp.asarray(gan_weight, jnp.float32),
    }
    aux = {"bins": bins, "alpha": diffusion.AlphaController.init()}
    return init_state(jax.random.fold_in(key, 2), params, players, aux=aux), frozen


def swept(players: list[Player]) -> Step:
    """The step of many students at once: own parameters, the batch shared."""
    return jax.vmap(make_step(players), in_axes=(0, None, 0))


def gap_probe(nets: Networks, config: StudentConfig) -> Callable[..., dict[str, Array]]:
    """For claim T9: h, the log-ratio and the score gap at noised student samples.

    The jitted function takes a student's state, its frozen inputs, normal draws, ids
    and a key; every value is `[n]`. The gap is the root mean square of
    D_fake - D_teacher.
    """

    @jax.jit
    def probe(state, frozen, z, ids, key):
        keys = jax.random.split(key)
        x = nets.generate(state.ema["student"], z, ids)
        sigma = noise_levels(config, keys[0], len(x))
        noisy = noised(keys[1], x, sigma)
        teacher = frozen["teacher"]
        real, features = nets.denoise(teacher, noisy, sigma, ids, features=True)
        fake = nets.denoise(state.params["fake"], noisy, sigma, ids)
        weights = ratio_weights(
            nets.logits(state.params["critic"], features, sigma, ids),
            sigma,
            current(frozen["divergence"], state.aux),
            state.aux["bins"],
            clip=config.ratio_clip,
            decay=config.bin_decay,
        )
        return {
            "weight": weights.weight,
            "log_ratio": weights.log_ratio,
            "gap": jnp.sqrt(jnp.mean((fake - real) ** 2, axis=tuple(range(1, x.ndim)))),
            "sigma": sigma,
            "bin": state.aux["bins"].index(sigma),
        }

    return probe
